"""What is read in Bash."""

from listed_units import list_units

SOURCE = """\
#!/usr/bin/env bash
# Tidies shelves.

set -euo pipefail

#######################################
# Removes old backups.
# Globals:
#   BACKUPS
# Arguments:
#   $1 - how many to keep
#######################################
remove_old() {
  local keep=$1
  list() { ls "$BACKUPS"; }
  list | tail -n "+$keep"
}

# shellcheck disable=SC2034
# Says hello.
function greet {
  echo "hello $1"
}

function in-subshell() (
  cd /
)

remove_old 3
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("4-29", "file", "FILE", ""),
    ("6-17", "function", "remove_old", "Removes old backups."),
    ("19-23", "function", "greet", "Says hello."),
    ("25-27", "function", "in-subshell", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "bash") == EXPECTED
