"""Per-sample gradients: the slow truth, the fast pass, and the projection both share."""
