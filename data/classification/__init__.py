"""Labelled snippets and clone pairs."""
