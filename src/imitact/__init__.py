"""imitact: demonstrations in, a policy that moves two arms out."""

__version__ = "0.1.0"
