"""Data for training and evaluation: source code, pairs, retrieval sets, and the collators of each training stage.

`source` reads source code (a programming language is one entry in `source/languages.py`), `retrieval` has pairs
and retrieval sets, `pretraining` streams files, `classification` has labelled examples, and `synthconl` builds
triples with a language model. This package knows nothing of the model, the losses and the evaluation.
"""
