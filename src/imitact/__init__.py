"""ACT, Action Chunking with Transformers: from demonstrations to a policy that moves arms."""

from imitact.core.version import __version__ as __version__
