"""The tests of imitact; the folders mirror src/imitact."""
