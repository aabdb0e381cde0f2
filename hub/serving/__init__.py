"""`mose hub serve`: embeddings over HTTP, as huggingface's toolkit, OpenAI and TEI answer.

A request passes `connections` (the time that clients may take), `middleware` (key, size, metrics), `app` (its
route), `service` (what it means), `batching` (one pass for the texts of many requests) and `engine` (the model).
"""
