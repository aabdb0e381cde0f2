"""Losses, teacher, arguments and Trainers. Knows nothing of file formats and benchmarks."""
