"""Ranking of code: which units answer a query best, as small pure functions of names, paths and scores.

Each module has one idea and says why it holds. `ranker.py` puts them together, `constants.py` has their weights.
"""
