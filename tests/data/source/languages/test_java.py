"""What is read in Java."""

from listed_units import list_units

SOURCE = """\
package library.shelves;

import java.util.*;

/**
 * Holds {@link Book}s.
 *
 * @param <T> their kind
 */
@Deprecated
public final class Shelf<T extends Book> extends Place implements Closeable {
    private static final Comparator<Book> BY_TITLE = new Comparator<Book>() {
        @Override
        public int compare(Book left, Book right) { return 0; }
    };
    private final Function<T, String> describe = book -> book.title();
    static { System.out.println("loaded"); }

    /** Makes a shelf. */
    public Shelf(int width) { super(width); }

    /**
     * Puts a book on it.
     * @return whether it fits
     */
    @Override
    public synchronized <U> boolean put(T book, U... places) throws IOException {
        Runnable task = () -> log(book);
        class Local { void inner() {} }
        return true;
    }

    /** Counts pages. */
    public native int pages();

    abstract int undocumented();

    /** Where it is open. */
    enum State {
        OPEN { @Override String label() { return "open"; } },
        CLOSED;

        String label() { return ""; }
    }

    static class Cursor<K> {
        K next() { return null; }
    }
}

/** A place. */
record Point(int x, int y) {
    Point {
        if (x < 0) throw new IllegalArgumentException();
    }
    static Point origin() { return new Point(0, 0); }
}

sealed interface Closeable permits Shelf {
    /** Closes it. */
    void close();

    default void reopen() { close(); }
}

@interface Named {
    /** The name. */
    String value() default "";
}
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("5-49", "class", "Shelf", "Holds Books."),
    ("13-14", "method", "Shelf.BY_TITLE.compare", ""),
    ("16-16", "method", "Shelf.describe", ""),
    ("19-20", "constructor", "Shelf.Shelf", "Makes a shelf."),
    ("22-31", "method", "Shelf.put", "Puts a book on it."),
    ("33-34", "method", "Shelf.pages", "Counts pages."),
    ("38-44", "enum", "Shelf.State", "Where it is open."),
    ("40-40", "method", "Shelf.State.OPEN.label", ""),
    ("43-43", "method", "Shelf.State.label", ""),
    ("46-48", "class", "Shelf.Cursor", ""),
    ("47-47", "method", "Shelf.Cursor.next", ""),
    ("51-57", "class", "Point", "A place."),
    ("53-55", "constructor", "Point.Point", ""),
    ("56-56", "method", "Point.origin", ""),
    ("59-64", "interface", "Closeable", ""),
    ("60-61", "method", "Closeable.close", "Closes it."),
    ("63-63", "method", "Closeable.reopen", ""),
    ("66-69", "interface", "Named", ""),
    ("67-68", "method", "Named.value", "The name."),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "java") == EXPECTED
