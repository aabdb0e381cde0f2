"""The commands of `python -m mose.eval`, one file each.

A command's file has `add(commands)`, which adds its parser to argparse's sub-parsers and sets `run` on it. What
is slow to import is imported by what runs, so that `--help` is quick.
"""
