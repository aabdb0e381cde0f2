"""Source code: which files, which languages, which definitions, and mining pairs from them."""
