"""Words: counts and other numbers as people write them, in messages and results."""

from __future__ import annotations


def counted(count: float, one: str, many: str = "") -> str:
    """Return a count with its noun: "1 episode", "2 episodes", "0 queries".

    Args:
        count: how many.
        one: the noun for one.
        many: the noun for more; empty appends an s, or puts ies for a y that follows a consonant.
    """
    if count == 1:
        return f"{count} {one}"
    if not many:
        ends_in_y = one.endswith("y") and one[-2] not in "aeiou"
        many = f"{one[:-1]}ies" if ends_in_y else f"{one}s"
    return f"{count} {many}"
