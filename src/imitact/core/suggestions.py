"""Suggestions for misspelt names: an error that lists what there is and names the nearest."""

from __future__ import annotations

from collections.abc import Collection

from imitact.core.errors import BadInput


def nearest(given: str, choices: Collection[str]) -> str | None:
    """Return the choice that `given` is most probably a misspelling of, or None."""
    import difflib  # 5 ms, needed only where something is misspelt

    lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(given.lower(), lower, n=1)
    return lower[found[0]] if found else None


def unknown(what: str, given: str, choices: Collection[str]) -> BadInput:
    """Return the error for a name that is not one of `choices`.

    Args:
        what: what the name should be, in words: "preset".
        given: the name that came.
        choices: the names there are.
    """
    meant = nearest(given, choices)
    question = f". Did you mean {meant}?" if meant else ""
    return BadInput(f'there is no {what} "{given}"; expected {", ".join(choices)}{question}')
