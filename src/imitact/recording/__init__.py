"""Recording demonstrations into a dataset."""
