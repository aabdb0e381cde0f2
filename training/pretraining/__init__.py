"""Pre-training with MLM and In-Context Classification at every exit: `train_hf.py pretrain`."""
