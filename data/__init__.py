"""Where examples come from: source trees, Hub and local datasets, collators.

Knows nothing of the model and the losses.
"""
