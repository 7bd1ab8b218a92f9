"""Stands in for draccus: a configuration from a plain table."""

from __future__ import annotations

from types import SimpleNamespace


class _Failure(Exception):
    pass


utils = SimpleNamespace(DraccusException=_Failure)


def decode(config, raw):
    values = dict(raw)
    made = config.choices[values.pop("type")]
    unknown = set(values) - {
        "id",
        "calibration_dir",
        "port",
        "faults",
        "state",
        "max_relative_target",
    }
    if unknown:
        raise _Failure(f"unknown fields: {', '.join(sorted(unknown))}")
    return SimpleNamespace(make=made, id=values.pop("id", None), **values)
