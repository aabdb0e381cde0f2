"""What is read in Go."""

from listed_units import list_units

SOURCE = """\
// Package shelf holds books.
package shelf

import "fmt"

const Width = 80

// Shelf holds books.
type Shelf[T any] struct {
	books []T
}

type (
	// Closer closes things.
	Closer interface {
		// Close closes it.
		Close(force bool) error
		undocumented()
	}

	// Name is a name.
	Name = string
	Visitor func(book string) bool
)

// New makes a shelf.
//
//go:noinline
func New[T any](width int) *Shelf[T] {
	check := func(value int) int { return value }
	return &Shelf[T]{books: make([]T, check(width))}
}

// Put puts a book on it.
func (s *Shelf[T]) Put(book T) error {
	return fmt.Errorf("full")
}

func (Shelf[T]) Len() int { return 0 }

func (s (*Point)) Move() {}

type Point struct{ X, Y int }

// open opens it, in assembly.
func open(name string) int

// Root is the command.
var Root = &Command{
	Use: "shelf",
	Run: func(cmd *Command, args []string) error {
		return nil
	},
}

// Sort sorts books.
var Sort = func(books []string) []string { return books }
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("6-50", "file", "FILE", ""),
    ("8-11", "struct", "Shelf", "Shelf holds books."),
    ("14-19", "interface", "Closer", "Closer closes things."),
    ("16-17", "method", "Closer.Close", "Close closes it."),
    ("21-22", "type", "Name", "Name is a name."),
    ("23-23", "type", "Visitor", ""),
    ("26-32", "function", "New", "New makes a shelf."),
    ("34-37", "method", "Shelf.Put", "Put puts a book on it."),
    ("39-39", "method", "Shelf.Len", ""),
    ("41-41", "method", "Point.Move", ""),
    ("43-43", "struct", "Point", ""),
    ("45-46", "function", "open", "open opens it, in assembly."),
    ("51-53", "function", "Root.Run", ""),
    ("56-57", "function", "Sort", "Sort sorts books."),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "go") == EXPECTED
