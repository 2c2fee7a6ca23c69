"""A run on a page: what was picked, why, and how good it is."""
