"""What is read in PHP."""

from listed_units import list_units

SOURCE = r"""<?php

declare(strict_types=1);

namespace Library\Shelves;

use Library\Book;

/**
 * Holds books.
 */
#[Entity]
final class Shelf extends Place implements Closeable
{
    use Sortable;

    private int $width = 80;

    public string $label {
        get { return 'x'; }
    }

    /** Makes a shelf. */
    public function __construct(private int $size) { $this->width = $size; }

    /**
     * Puts a book on it.
     *
     * @param Book $book what
     */
    #[Pure]
    public static function put(Book $book): bool
    {
        $check = function (Book $other) { return true; };
        return $check($book);
    }

    /** Removes all. */
    abstract protected function clear(): void;

    abstract function undocumented();
}

interface Closeable
{
    /** Closes it. */
    public function close(): void;
}

trait Sortable
{
    public function sort(): array { return []; }
}

/** Kinds of covers. */
enum Cover: string
{
    case Hard = 'hard';

    public function label(): string { return 'x'; }
}

/** Gives the longest title. */
function longest(array $books): int { return 1; }

$visitor = new class extends Visitor {
    public function visit($book) { return $book; }
};

$shorten = fn($text) => substr($text, 0, 3);

if (!function_exists('tidy')) {
    function tidy() { return 1; }
}
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("3-72", "file", "FILE", ""),
    ("9-42", "class", "Library.Shelves.Shelf", "Holds books."),
    ("19-21", "method", "Library.Shelves.Shelf.label", ""),
    ("23-24", "constructor", "Library.Shelves.Shelf.__construct", "Makes a shelf."),
    ("26-36", "method", "Library.Shelves.Shelf.put", "Puts a book on it."),
    ("38-39", "method", "Library.Shelves.Shelf.clear", "Removes all."),
    ("44-48", "interface", "Library.Shelves.Closeable", ""),
    ("46-47", "method", "Library.Shelves.Closeable.close", "Closes it."),
    ("50-53", "trait", "Library.Shelves.Sortable", ""),
    ("52-52", "method", "Library.Shelves.Sortable.sort", ""),
    ("55-61", "enum", "Library.Shelves.Cover", "Kinds of covers."),
    ("60-60", "method", "Library.Shelves.Cover.label", ""),
    ("63-64", "function", "Library.Shelves.longest", "Gives the longest title."),
    ("67-67", "method", "Library.Shelves.visitor.visit", ""),
    ("70-70", "function", "Library.Shelves.shorten", ""),
    ("73-73", "function", "Library.Shelves.tidy", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "php") == EXPECTED
