"""Special tokens, instruction prompts, and building the tokenizer. Knows nothing of the model."""
