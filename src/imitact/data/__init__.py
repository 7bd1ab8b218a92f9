"""Demonstrations on disk, and samples from them."""
