"""The subcommands of `python -m mose.search`, one module each."""
