"""Contrastive fine-tuning at every exit: `train_hf.py finetune` and `merge`."""
