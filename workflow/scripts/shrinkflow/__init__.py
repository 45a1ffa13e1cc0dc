"""shrinkflow: a reproducible benchmark of neural-network pruning."""
