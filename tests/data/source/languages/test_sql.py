"""What is read in SQL."""

from listed_units import list_units

SOURCE = """\
-- Books and where they are.
CREATE TABLE IF NOT EXISTS library.books (
    id INTEGER PRIMARY KEY,
    title TEXT NOT NULL
);

/* All that is on loan. */
CREATE OR REPLACE VIEW loans AS
SELECT id, title FROM library.books WHERE id > 1;

CREATE TYPE cover AS ENUM ('hard', 'soft');

-- Counts the books.
CREATE OR REPLACE FUNCTION library.count_books(minimum integer) RETURNS integer AS $$
BEGIN
    RETURN minimum;
END;
$$ LANGUAGE plpgsql;

CREATE PROCEDURE tidy(a integer) LANGUAGE SQL AS $$ SELECT 1; $$;

CREATE TRIGGER changed BEFORE INSERT ON library.books FOR EACH ROW EXECUTE FUNCTION touch();

CREATE INDEX by_title ON library.books (title);

INSERT INTO library.books VALUES (1, 'One');
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("24-26", "file", "FILE", ""),
    ("1-5", "table", "library.books", "Books and where they are."),
    ("7-9", "table", "loans", "All that is on loan."),
    ("11-11", "type", "cover", ""),
    ("13-18", "function", "library.count_books", "Counts the books."),
    ("20-20", "function", "tidy", ""),
    ("22-22", "function", "changed", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "sql") == EXPECTED


DIALECTS = """\
\\echo Use "CREATE EXTENSION shelf" to load this file. \\quit
CREATE FUNCTION shelf_in(cstring) RETURNS shelf
    AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

CREATE OPERATOR CLASS shelf_ops
    DEFAULT FOR TYPE shelf USING btree AS
    OPERATOR 1 < , OPERATOR 2 <= ;

COMMENT ON FUNCTION shelf_in IS 'Reads a shelf; or not';

CREATE AGGREGATE total(shelf) (SFUNC = add, STYPE = shelf);
CREATE TABLE [dbo].[Users] ( [Id] INT NOT NULL PRIMARY KEY );
GO
-- All users.
CREATE VIEW dbo.everyone AS SELECT 1 AS x;
GRANT SELECT ON dbo.everyone TO PUBLIC;
"""


def test_statements_that_the_grammar_does_not_know_cost_nothing_else():
    assert list_units(DIALECTS, "sql")[-3:] == [
        ("2-3", "function", "shelf_in", ""),
        ("12-12", "table", "dbo.Users", ""),
        ("14-15", "table", "dbo.everyone", "All users."),
    ]
