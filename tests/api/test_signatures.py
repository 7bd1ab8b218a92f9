"""The Python functions have the options of the command line: same names, same defaults."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from imitact.api.evaluate import evaluate
from imitact.api.record import record
from imitact.api.run_robot import replay_robot, run_robot
from imitact.api.teleoperate import record_robot, teleoperate
from imitact.api.train import train
from imitact.cli.evaluate import Evaluate
from imitact.cli.record import Record
from imitact.cli.record_robot import RecordRobot
from imitact.cli.replay import Replay
from imitact.cli.run import Run
from imitact.cli.teleop import Teleop
from imitact.cli.train import Train

CALLBACKS = {"on_progress", "on_line", "on_poll", "on_episode", "on_end", "person", "ranks",
             "make_env", "sim"}  # fmt: skip
"""Parameters that only Python can give."""

TERMINAL = {"deadman", "rerun", "cameras", "height", "width", "real_time", "first_seed"}
"""Options of the robot's verbs that the command line alone has: keys, or fields of `sim`."""


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


@pytest.mark.parametrize(
    ("function", "options"),
    [(teleoperate, Teleop), (record_robot, RecordRobot), (run_robot, Run), (replay_robot, Replay)],
)
def test_a_function_on_a_robot_has_the_options_of_its_verb(
    function: Callable[..., Any], options: type
):
    parameters = dict(inspect.signature(function).parameters)
    fields = {field.name: field for field in dataclasses.fields(options)}
    assert parameters.keys() - CALLBACKS <= fields.keys()
    assert fields.keys() - TERMINAL <= parameters.keys()
    for name in parameters.keys() & fields.keys():
        default, wanted = parameters[name].default, fields[name].default
        if wanted is not dataclasses.MISSING and default is not inspect.Parameter.empty:
            assert default == wanted, name
