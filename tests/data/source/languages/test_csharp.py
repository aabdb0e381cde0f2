"""What is read in C#."""

from listed_units import list_units

SOURCE = """\
using System;

namespace Library.Shelves;

/// <summary>Holds <see cref="Book"/>s.</summary>
[Serializable]
public sealed class Shelf<T> : IShelf where T : Book
{
    private int width = 80;

    /// <summary>
    /// Makes a shelf.
    /// </summary>
    /// <param name="width">Its width.</param>
    public Shelf(int width) : base() { this.width = width; }

    ~Shelf() { }

    public string Name { get; set; }

    /// <summary>How many books fit.</summary>
    public int Room { get { return width - Count; } }

    public int Count => books.Count;

    public T this[int index]
    {
        get => books[index];
    }

    public static Shelf<T> operator +(Shelf<T> left, T right) { return left; }

    /// <summary>Puts a book on it.</summary>
    [Obsolete("use Add")]
    public async Task<bool> PutAsync<U>(T book, U where)
        where U : IPlace
    {
        bool Fits(T other) { return true; }
        return await Task.FromResult(Fits(book));
    }

    void IDisposable.Dispose() => GC.SuppressFinalize(this);

    private enum State { Open, Closed }
}

/// <summary>What shelves do.</summary>
public interface IShelf
{
    /// <summary>Removes all.</summary>
    void Clear();
    void Undocumented();
}

public record Point(int X, int Y);

public struct Size { public int Area() { return 1; } }

/// <summary>Called for each book.</summary>
public delegate void Visitor(Book book);
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("5-45", "class", "Library.Shelves.Shelf", "Holds Books."),
    ("11-15", "constructor", "Library.Shelves.Shelf.Shelf", "Makes a shelf."),
    ("17-17", "constructor", "Library.Shelves.Shelf.Shelf", ""),
    ("21-22", "method", "Library.Shelves.Shelf.Room", "How many books fit."),
    ("24-24", "method", "Library.Shelves.Shelf.Count", ""),
    ("26-29", "method", "Library.Shelves.Shelf.this", ""),
    ("31-31", "method", "Library.Shelves.Shelf.+", ""),
    ("33-40", "method", "Library.Shelves.Shelf.PutAsync", "Puts a book on it."),
    ("42-42", "method", "Library.Shelves.Shelf.Dispose", ""),
    ("44-44", "enum", "Library.Shelves.Shelf.State", ""),
    ("47-53", "interface", "Library.Shelves.IShelf", "What shelves do."),
    ("50-51", "method", "Library.Shelves.IShelf.Clear", "Removes all."),
    ("55-55", "class", "Library.Shelves.Point", ""),
    ("57-57", "struct", "Library.Shelves.Size", ""),
    ("57-57", "method", "Library.Shelves.Size.Area", ""),
    ("59-60", "type", "Library.Shelves.Visitor", "Called for each book."),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "csharp") == EXPECTED
