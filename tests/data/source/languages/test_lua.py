"""What is read in Lua."""

from listed_units import list_units

SOURCE = """\
--- Shelves for books.
-- @module shelves
local M = {}

local helper = require("helper")

--- Makes a shelf.
-- @param width its width
-- @return a shelf
function M.new(width)
  local function check(value)
    return value
  end
  return setmetatable({ width = check(width) }, M)
end

--[[ Puts a book on it. ]]
function M:put(book)
  self[#self + 1] = book
end

-- Removes all.
M.clear = function(self)
  for i = 1, #self do self[i] = nil end
end

local function private() return 1 end

local handlers = {
  open = function(shelf) return shelf end,
  ["close"] = function(shelf) return nil end,
  nested = { deep = function() end },
}

function M.tools.sort(shelf) table.sort(shelf) end

return M
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("1-37", "file", "FILE", "Shelves for books."),
    ("7-15", "function", "M.new", "Makes a shelf."),
    ("17-20", "method", "M.put", "Puts a book on it."),
    ("22-25", "function", "M.clear", "Removes all."),
    ("27-27", "function", "private", ""),
    ("30-30", "function", "handlers.open", ""),
    ("31-31", "function", "handlers.close", ""),
    ("32-32", "function", "handlers.nested.deep", ""),
    ("35-35", "function", "M.tools.sort", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "lua") == EXPECTED
