"""The errors that imitact raises on purpose; each message says what to do."""

from __future__ import annotations


class ImitactError(Exception):
    """Base of every error that imitact raises on purpose; the message says what to do."""


class BadInput(ImitactError):
    """Something the caller gave cannot be used: a path, a name, a size, a setting."""


class SpecMismatch(BadInput):
    """An observation, action, dataset or environment does not fit a Spec."""


class DamagedFile(BadInput):
    """A file that imitact wrote, or was given, is truncated, altered or not what its name says."""


class NotFinite(ImitactError):
    """A NaN or an infinity appeared where only finite numbers make sense."""


class DiskFull(BadInput):
    """There is no room left to write what must be written."""
