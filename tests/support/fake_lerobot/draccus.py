"""Stands in for draccus: a configuration from a plain table."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace


class _Failure(Exception):
    pass


utils = SimpleNamespace(DraccusException=_Failure)


def decode(config, raw):
    values = dict(raw)
    made = config.choices[values.pop("type")]
    common = {"id", "calibration_dir"}
    known = {"port", "faults", "state", "max_relative_target"}
    if dataclasses.is_dataclass(made):
        known = {one.name for one in dataclasses.fields(made)}
    if unknown := set(values) - known - common:
        raise _Failure(f"unknown fields: {', '.join(sorted(unknown))}")
    if not dataclasses.is_dataclass(made):
        return SimpleNamespace(make=made, id=values.pop("id", None), **values)
    decoded = made(**{name: value for name, value in values.items() if name in known})
    for name in common & values.keys():
        setattr(decoded, name, values[name])
    return decoded
