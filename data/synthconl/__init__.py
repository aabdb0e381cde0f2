"""Building triples (text, code A, code B) as SynthCoNL has them (paper, section 4): a causal language model
translates code A into another language.

`answers` reads what a model says, `plan` chooses what is to be translated into what, `translation` runs the
model, `building` keeps a build going until it is whole, `dataset` writes, describes and pushes it. From the
command line: `python -m mose.data.synthconl build …`.
"""
