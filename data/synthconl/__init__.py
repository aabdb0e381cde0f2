"""Build triples (text, code A, code B) like SynthCoNL's (paper, section 4).

A causal language model translates code A into another language. `plan` chooses what is translated into which
language, `translator` runs the model, `translations` stores its answers so that a killed build resumes, `answers`
extracts code from them, and `dataset` writes, describes and pushes the result. `build` and `push` are the
commands of `python -m mose.data.synthconl`.
"""
