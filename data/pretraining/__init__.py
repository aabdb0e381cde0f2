"""Repositories as a token stream for MLM and In-Context Classification."""
