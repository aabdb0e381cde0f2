"""How well search finds the right files of real repositories, on labelled queries."""
