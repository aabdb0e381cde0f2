"""Training: arguments, losses and Trainers for fine-tuning, pre-training and classification.

Knows the model, the data and the Hub, but no evaluation: `train_hf.py` passes an evaluation function in.
"""
