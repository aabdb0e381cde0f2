"""The commands of `python -m mose.eval`, one module each.

A module defines `add_arguments(parser)` and `run(options)`. Slow imports are inside `run`, so that a command's
`--help` answers at once. To add a command, write a module and name it in `COMMANDS` of `mose.eval.__main__`.
"""
