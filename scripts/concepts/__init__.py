"""Figures of docs/concepts, a module each; `scripts/figures.py` draws them."""
