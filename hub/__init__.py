"""What makes a folder a repository that others load. Knows nothing of how the model was trained."""
