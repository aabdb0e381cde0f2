"""What is read in Kotlin."""

from listed_units import list_units

SOURCE = """\
package library.shelves

import kotlin.math.max

/**
 * Holds [Book]s.
 *
 * @param T their kind
 */
@Serializable
open class Shelf<T : Book>(val width: Int) : Place(), Closeable {
    private val books = mutableListOf<T>()

    constructor() : this(80) {
        println("default")
    }

    /** How much room is left. */
    val room: Int
        get() = width - books.size

    /**
     * Puts a book on it.
     * @return whether it fits
     */
    @Throws(IOException::class)
    override suspend fun put(book: T): Boolean {
        fun fits(): Boolean {
            return true
        }
        val log = { text: String -> println(text) }
        return fits()
    }

    abstract fun undocumented()

    /** Removes all. */
    abstract fun clear()

    companion object {
        fun empty() = Shelf<Book>(0)
    }

    inner class Cursor {
        fun next() = 1
    }
}

fun interface Visitor {
    fun visit(book: Book)
}

enum class Cover(val hard: Boolean) {
    HARD(true) {
        override fun label() = "hard"
    },
    SOFT(false);

    abstract fun label(): String
}

object Registry {
    fun find(name: String): Shelf<Book>? = null
}

/** A map of shelves. */
typealias Shelves = Map<String, Shelf<Book>>

/** Gives the longest title. */
fun List<Book>.longest(): Int = max(size, 1)

val in1 = 2

internal inline fun <reified T> `make one`(): T = TODO()
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("72-72", "file", "FILE", ""),
    ("5-47", "class", "Shelf", "Holds Books."),
    ("14-16", "constructor", "Shelf.constructor", ""),
    ("18-20", "method", "Shelf.room", "How much room is left."),
    ("22-33", "method", "Shelf.put", "Puts a book on it."),
    ("37-38", "method", "Shelf.clear", "Removes all."),
    ("41-41", "method", "Shelf.empty", ""),
    ("44-46", "class", "Shelf.Cursor", ""),
    ("45-45", "method", "Shelf.Cursor.next", ""),
    ("49-51", "interface", "Visitor", ""),
    ("53-60", "enum", "Cover", ""),
    ("55-55", "method", "Cover.HARD.label", ""),
    ("62-64", "class", "Registry", ""),
    ("63-63", "method", "Registry.find", ""),
    ("66-67", "type", "Shelves", "A map of shelves."),
    ("69-70", "method", "List.longest", "Gives the longest title."),
    ("74-74", "function", "make one", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "kotlin") == EXPECTED


def test_what_the_grammar_misreads_costs_nothing():
    source = "class Shelf {\n  fun copy() {\n    in1.close()\n  }\n  companion object { fun make() = 1 }\n}\n"
    assert list_units(source, "kotlin") == [
        ("1-6", "class", "Shelf", ""),
        ("2-4", "method", "Shelf.copy", ""),
        ("5-5", "method", "Shelf.make", ""),
    ]
