"""Simulated worlds, and experts that demonstrate in them."""
