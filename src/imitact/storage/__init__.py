"""How bytes reach a disk and come back: atomic writes, locks, checksums, journals."""
