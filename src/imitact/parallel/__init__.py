"""Worker processes, isolated processes and signals."""
