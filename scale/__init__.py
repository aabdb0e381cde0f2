"""Corpora that outgrow one machine: embedding them, and taking near-duplicates out.

A corpus is cut into parts, which are read, finished and resumed one by one, by this process or by a cluster.
"""
