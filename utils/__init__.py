"""Plumbing that every package may use: atomic writes, the command-line runner, model locations."""
