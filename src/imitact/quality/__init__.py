"""Data quality checks: what is wrong with a dataset, and a fixed copy of it."""
