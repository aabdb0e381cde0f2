"""Converting the released checkpoints of the paper: `mose hub import`."""
