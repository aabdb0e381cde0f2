"""What is read in TypeScript."""

from listed_units import list_units

SOURCE = """\
import { Book } from "./book";

/** Holds {@link Book}s. */
@Component({ selector: "shelf" })
export class Shelf<T extends Book> extends Place implements Closeable {
  private books: T[] = [];

  /** Makes a shelf. */
  constructor(private readonly width: number) {
    super();
  }

  get room(): number {
    return this.width - this.books.length;
  }

  /** Puts a book on it, by number. */
  put(book: number): boolean;
  put(book: T): boolean;
  put(book: any): boolean {
    const fits = (other: T): boolean => true;
    return fits(book);
  }

  /** Reacts to clicks. */
  @HostListener("click")
  onClick = async (event: Event): Promise<void> => {
    await event;
  };

  /**
   * Removes all.
   */
  @Input()
  clear() {}

  static #count() { return 1; }
}

/** What can be closed. */
export interface Closeable {
  /** Closes it. */
  close(force?: boolean): void;
  undocumented(): void;
}

export abstract class Place {
  /** Where it is. */
  abstract where(): string;
}

export type Name = string | number;

export const enum Cover { Hard, Soft }

export namespace Registry.Inner {
  export function find<T>(name: string): T | undefined { return undefined; }
}

declare module "library" {
  /** Opens the library. */
  function open(name: string): void;
}

export const sorted = <T,>(books: T[]): T[] => books;

const actions = {
  load() { return 1; },
  save: async (name: Name) => name,
};

export default function () { return actions; }
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("3-38", "class", "Shelf", "Holds Books."),
    ("8-11", "constructor", "Shelf.constructor", "Makes a shelf."),
    ("13-15", "method", "Shelf.room", ""),
    ("17-18", "method", "Shelf.put", "Puts a book on it, by number."),
    ("20-23", "method", "Shelf.put", ""),
    ("25-29", "method", "Shelf.onClick", "Reacts to clicks."),
    ("31-35", "method", "Shelf.clear", "Removes all."),
    ("37-37", "method", "Shelf.#count", ""),
    ("40-45", "interface", "Closeable", "What can be closed."),
    ("42-43", "method", "Closeable.close", "Closes it."),
    ("47-50", "class", "Place", ""),
    ("48-49", "method", "Place.where", "Where it is."),
    ("52-52", "type", "Name", ""),
    ("54-54", "enum", "Cover", ""),
    ("56-58", "module", "Registry.Inner", ""),
    ("57-57", "function", "Registry.Inner.find", ""),
    ("60-63", "module", "library", ""),
    ("61-62", "function", "library.open", "Opens the library."),
    ("65-65", "function", "sorted", ""),
    ("68-68", "function", "actions.load", ""),
    ("69-69", "function", "actions.save", ""),
    ("72-72", "function", "default", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "typescript") == EXPECTED
