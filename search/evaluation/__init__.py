"""Judge on labelled queries whether search finds the right files of real repositories."""
