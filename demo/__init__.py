"""A page in the browser that shows what each exit finds for the same query, and how long it takes."""
