"""What is read in JavaScript."""

from listed_units import list_units

SOURCE = """\
/* @flow */
"use strict";

const fs = require("fs");

/** Shows books. */
export default class Shelf extends React.Component<Props, State> {
  state: State = { open: false };
  +width: number;

  /** Makes a shelf. */
  constructor(props: Props) { super(props); }

  /** Reacts to clicks. */
  handleClick = (event: SyntheticEvent<>): void => { this.open(event); };

  static get [Symbol.species]() { return Shelf; }
}

/** Sorts books. */
Shelf.prototype.sort = function (by: ?string) {
  return this.books.sort(compare);
};

exports.load = async function (name: string, ...rest: Array<mixed>): Promise<void> { await name; };

opaque type Id = string;

const routes = {
  home() { return 1; },
  "/about": (request) => 2,
  nested: { deep: function () { return 3; } },
};

const View = createClass({ render() { return <div />; } });

app.use(function logRequests(request) { return request; });

export const Row = memo(({ book }) => <li>{book}</li>);
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("2-37", "file", "FILE", ""),
    ("6-18", "class", "Shelf", "Shows books."),
    ("11-12", "constructor", "Shelf.constructor", "Makes a shelf."),
    ("14-15", "method", "Shelf.handleClick", "Reacts to clicks."),
    ("17-17", "method", "Shelf.[Symbol.species]", ""),
    ("20-23", "method", "Shelf.sort", "Sorts books."),
    ("25-25", "function", "load", ""),
    ("27-27", "type", "Id", ""),
    ("30-30", "function", "routes.home", ""),
    ("31-31", "function", "routes./about", ""),
    ("32-32", "function", "routes.nested.deep", ""),
    ("35-35", "function", "View.render", ""),
    ("37-37", "function", "logRequests", ""),
    ("39-39", "function", "Row", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "javascript") == EXPECTED
