"""The figures of docs/concepts, a room each; `scripts/figures.py` draws them."""
