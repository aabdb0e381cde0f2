"""What is read in Ruby."""

from listed_units import list_units

SOURCE = """\
# frozen_string_literal: true

require "set"

# Where books are.
module Library
  WIDTH = 80

  # Holds books.
  class Shelf < Place
    include Comparable
    attr_reader :books

    # Makes a shelf.
    def initialize(width = WIDTH)
      @width = width
    end

    class << self
      # Makes an empty one.
      def empty = new(0)
    end

    def self.open(name)
      yield new(name)
    end

    # Where it is.
    private def place; @place; end

    # Adds two.
    def +(other)
      self
    end

    def width=(value); @width = value; end

    # Tells what it is.
    define_method(:describe) do |text|
      text.to_s
    end
  end

  # A point.
  Point = Struct.new(:x, :y) do
    def distance; 1; end
  end

  Failure = Class.new(StandardError)

  class Shelf::Cursor
    def next; 1; end
  end
end

def Library.find(name); name; end

# Sorts books.
SORT = ->(books) { books.sort }

String.class_eval do
  def shout; upcase; end
end

puts Library.find("x")
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("3-65", "file", "FILE", ""),
    ("5-54", "module", "Library", "Where books are."),
    ("9-42", "class", "Library.Shelf", "Holds books."),
    ("14-17", "constructor", "Library.Shelf.initialize", "Makes a shelf."),
    ("20-21", "method", "Library.Shelf.empty", "Makes an empty one."),
    ("24-26", "method", "Library.Shelf.open", ""),
    ("28-29", "method", "Library.Shelf.place", "Where it is."),
    ("31-34", "method", "Library.Shelf.+", "Adds two."),
    ("36-36", "method", "Library.Shelf.width=", ""),
    ("38-41", "method", "Library.Shelf.describe", "Tells what it is."),
    ("44-47", "class", "Library.Point", "A point."),
    ("46-46", "method", "Library.Point.distance", ""),
    ("49-49", "class", "Library.Failure", ""),
    ("51-53", "class", "Library.Shelf.Cursor", ""),
    ("52-52", "method", "Library.Shelf.Cursor.next", ""),
    ("56-56", "method", "Library.find", ""),
    ("58-59", "function", "SORT", "Sorts books."),
    ("62-62", "method", "String.shout", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "ruby") == EXPECTED
