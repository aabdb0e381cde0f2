"""What is read in Rust."""

from listed_units import list_units

SOURCE = """\
//! Shelves for books.
#![allow(dead_code)]

use std::fmt;

/// A book.
#[derive(Debug, Clone)]
#[cfg(feature = "books")]
pub struct Book<'a> {
    title: &'a str,
}

/// Holds books of one kind.
///
/// # Examples
///
/// ```
/// let shelf = Shelf::new(3);
/// ```
pub struct Shelf<T: Clone> {
    books: Vec<T>,
}

impl<T: Clone> Shelf<T> {
    const WIDTH: usize = 80;

    /// Makes an empty shelf; see [`Book`].
    #[must_use]
    #[inline]
    pub fn new(width: usize) -> Self {
        Shelf { books: Vec::with_capacity(width) }
    }

    pub async fn sort_by<K>(&mut self, key: impl Fn(&T) -> K) -> usize
    where
        K: Ord,
    {
        let by_key = |book: &T| key(book);
        fn swap(a: usize) {}
        self.books.len()
    }
}

impl<'a> fmt::Display for &'a Book<'a> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.title)
    }
}

/** What can be read. */
pub trait Read {
    /// Reads the next page.
    fn next_page(&mut self) -> Option<u32>;

    fn pages(&self) -> u32 {
        0
    }
}

// Not documentation.

#[doc = "Kinds of covers."]
pub enum Cover {
    Hard,
    Soft { colour: u8 },
}

pub mod stacks {
    //! Places below ground.

    /// How deep.
    pub type Depth = u8;

    pub(crate) fn descend() -> Depth {
        3
    }
}

mod other;

/// Makes a shelf of its arguments.
#[macro_export]
macro_rules! shelf {
    ($($book:expr),*) => { Shelf::from(vec![$($book),*]) };
}

extern "C" {
    /// Frees a shelf.
    fn shelf_free(shelf: *mut u8);
    fn shelf_undocumented();
}

static COUNTER: usize = 0;
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("25-93", "file", "FILE", ""),
    ("6-11", "struct", "Book", "A book."),
    ("13-22", "struct", "Shelf", "Holds books of one kind."),
    ("27-32", "method", "Shelf.new", "Makes an empty shelf; see Book."),
    ("34-41", "method", "Shelf.sort_by", ""),
    ("45-47", "method", "Book.fmt", ""),
    ("50-58", "trait", "Read", "What can be read."),
    ("52-53", "method", "Read.next_page", "Reads the next page."),
    ("55-57", "method", "Read.pages", ""),
    ("62-66", "enum", "Cover", "Kinds of covers."),
    ("68-77", "module", "stacks", ""),
    ("71-72", "type", "stacks.Depth", "How deep."),
    ("74-76", "function", "stacks.descend", ""),
    ("81-85", "function", "shelf", "Makes a shelf of its arguments."),
    ("88-89", "function", "shelf_free", "Frees a shelf."),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "rust") == EXPECTED
