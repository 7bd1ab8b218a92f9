"""Errors: the exceptions that imitact raises on purpose; each message says what to do."""

from __future__ import annotations


class ImitactError(Exception):
    """Base of all errors that imitact raises on purpose."""


class BadInput(ImitactError):
    """Something that the caller gave cannot be used: a path, a name, a size, a setting."""


class SpecMismatch(BadInput):
    """An observation, action, dataset or environment does not fit a Spec."""


class DamagedFile(BadInput):
    """A file is missing, truncated, altered, or not of the format that it should have."""


class NotFinite(ImitactError):
    """A NaN or an infinity where only finite numbers make sense."""


class DiskFull(BadInput):
    """The disk, or the user's quota of it, is full."""
