"""Quality checks: defects of a dataset, and a fixed copy of it."""
