"""Training a classifier at every exit: `train_hf.py classify`."""
