"""The Python functions have the options of the command line: same names, same defaults."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from imitact.api.evaluate import evaluate
from imitact.api.record import record
from imitact.api.train import train
from imitact.cli.evaluate import Evaluate
from imitact.cli.record import Record
from imitact.cli.train import Train

CALLBACKS = {"on_progress", "on_line", "ranks", "make_env"}
"""Parameters that only Python can give."""


@pytest.mark.parametrize(
    ("function", "options"), [(record, Record), (train, Train), (evaluate, Evaluate)]
)
def test_a_function_has_the_options_of_its_verb(function: Callable[..., Any], options: type):
    parameters = dict(inspect.signature(function).parameters)
    for name in CALLBACKS & parameters.keys():
        del parameters[name]
    fields = {field.name: field for field in dataclasses.fields(options)}
    assert parameters.keys() == fields.keys()
    for name, field in fields.items():
        default = parameters[name].default
        if field.default is dataclasses.MISSING:  # required, or a group of settings
            assert default in (inspect.Parameter.empty, None)
        else:
            assert default == field.default, name
