"""Robots: drivers, the process that hosts them, simulated and recorded robots."""
