"""Recording: demonstrations of an expert, saved as a dataset."""
