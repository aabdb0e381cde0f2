"""Running a MoSE: loading it at some exits, encoding texts, storing embeddings, and BM25 beside them."""
