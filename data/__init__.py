"""Where examples come from: source trees, Hub and local datasets, collators. Knows no model and no losses."""
