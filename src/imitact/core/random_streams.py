"""Random streams: numbers that keep apart what several parts of the program draw from one seed.

`numpy.random.default_rng([seed, stream])` is independent of `default_rng(seed)`, from which
environments draw their starts and experts their variation.
"""

from __future__ import annotations

DELAYS = 1
"""Of the delays of an episode's answers."""

STYLE = 2
"""Of an expert's style."""
