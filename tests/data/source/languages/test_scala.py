"""What is read in Scala."""

from listed_units import list_units

SOURCE = """\
package library
package shelves

import scala.collection.mutable

/** Holds books.
  *
  * @tparam T their kind
  */
@SerialVersionUID(1L)
class Shelf[T <: Book](val width: Int) extends Place with Closeable {
  private val books = mutable.Buffer.empty[T]

  def this() = this(80)

  /** Puts a book on it. See [[Book]]. */
  override def put[U >: T](book: U)(implicit place: Place): Boolean = {
    def fits(other: U) = true
    fits(book)
  }

  val describe = (book: T) => book.title

  def +(other: Shelf[T]): Shelf[T] = this

  /** Removes all. */
  def clear(): Unit

  def undocumented(): Unit

  object Cursor { def next: Int = 1 }
}

sealed trait Cover { def label: String = "" }

case object Hard extends Cover

case class Point(x: Int, y: Int)

object Registry extends App {
  type Name = String
  def find(name: Name): Option[Shelf[Book]] = None
}

package object syntax {
  implicit class Rich(val text: String) { def shout: String = text.toUpperCase }
}

enum Colour:
  case Red, Green

given ordering: Ordering[Book] with
  def compare(a: Book, b: Book): Int = 0

extension (books: List[Book])
  /** Gives the longest title. */
  def longest: Int = 1

def indented(x: Int): Int =
  val y = x + 1
  y * 2

val last = 1
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("63-63", "file", "FILE", ""),
    ("6-32", "class", "Shelf", "Holds books."),
    ("14-14", "constructor", "Shelf.this", ""),
    ("16-20", "method", "Shelf.put", "Puts a book on it. See Book."),
    ("22-22", "method", "Shelf.describe", ""),
    ("24-24", "method", "Shelf.+", ""),
    ("26-27", "method", "Shelf.clear", "Removes all."),
    ("31-31", "class", "Shelf.Cursor", ""),
    ("31-31", "method", "Shelf.Cursor.next", ""),
    ("34-34", "trait", "Cover", ""),
    ("34-34", "method", "Cover.label", ""),
    ("36-36", "class", "Hard", ""),
    ("38-38", "class", "Point", ""),
    ("40-43", "class", "Registry", ""),
    ("41-41", "type", "Registry.Name", ""),
    ("42-42", "method", "Registry.find", ""),
    ("45-47", "module", "syntax", ""),
    ("46-46", "class", "syntax.Rich", ""),
    ("46-46", "method", "syntax.Rich.shout", ""),
    ("49-50", "enum", "Colour", ""),
    ("53-53", "method", "ordering.compare", ""),
    ("56-57", "method", "List.longest", "Gives the longest title."),
    ("59-61", "function", "indented", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "scala") == EXPECTED
