"""Pairs for contrastive fine-tuning, and retrieval sets in the BEIR layout."""
