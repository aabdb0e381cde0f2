"""What is read in Swift."""

from listed_units import list_units

SOURCE = """\
import Foundation

/// Holds books.
///
/// - Note: It is not thread-safe.
@available(iOS 13, *)
public final class Shelf<T>: Place, Closeable where T: Book {
    private var books: [T] = []

    /// How much room is left.
    var room: Int { width - books.count }

    lazy var describe: (T) -> String = { book in book.title }

    /// Makes a shelf.
    /// - Parameter width: Its width.
    public init(width: Int) {
        self.width = width
    }

    convenience init?(named: String) { return nil }

    deinit {
        close()
    }

    /**
     Puts a book on it.

     - Returns: Whether it fits.
     */
    @discardableResult
    func put<U>(_ book: T, at place: U) async throws -> Bool {
        func fits() -> Bool { true }
        return fits()
    }

    static func + (left: Shelf, right: Shelf) -> Shelf { left }

    subscript(index: Int) -> T {
        books[index]
    }

    enum State {
        case open, closed(Int)
        mutating func toggle() { self = .open }
    }
}

struct Point { var x = 1 }

/// What shelves do.
protocol Closeable {
    /// Closes it.
    func close()
    func undocumented()
}

extension Array where Element == Book {
    /// Gives the longest title.
    func longest() -> Int { 1 }
}

typealias Shelves = [String: Shelf<Book>]

actor Registry {
    func find(name: String) -> Int? { nil }
}

infix operator +++
func +++ (left: Int, right: Int) -> Int { left + right }
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("70-70", "file", "FILE", ""),
    ("3-48", "class", "Shelf", "Holds books."),
    ("10-11", "method", "Shelf.room", "How much room is left."),
    ("13-13", "method", "Shelf.describe", ""),
    ("15-19", "constructor", "Shelf.init", "Makes a shelf."),
    ("21-21", "constructor", "Shelf.init", ""),
    ("23-25", "constructor", "Shelf.deinit", ""),
    ("27-36", "method", "Shelf.put", "Puts a book on it."),
    ("38-38", "method", "Shelf.+", ""),
    ("40-42", "method", "Shelf.subscript", ""),
    ("44-47", "enum", "Shelf.State", ""),
    ("46-46", "method", "Shelf.State.toggle", ""),
    ("50-50", "struct", "Point", ""),
    ("52-57", "interface", "Closeable", "What shelves do."),
    ("54-55", "method", "Closeable.close", "Closes it."),
    ("60-61", "method", "Array.longest", "Gives the longest title."),
    ("64-64", "type", "Shelves", ""),
    ("66-68", "class", "Registry", ""),
    ("67-67", "method", "Registry.find", ""),
    ("71-71", "function", "+++", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "swift") == EXPECTED
