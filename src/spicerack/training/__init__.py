"""Is the subset worth it: train on a selection, evaluate what came of it, and LESS's warm-up."""
