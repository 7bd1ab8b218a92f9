"""Training: from a dataset to a policy."""
