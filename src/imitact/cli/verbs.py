"""Verbs of the command line: a summary and a module for each, imported when the verb is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        summary: what it does, in a line of the help.
        module: imports its module, which has RESUME_HINT, run(settings), and OPTIONS (the dataclass
            of its settings) or with_preset(...) (an instance to start from).
        first: options that choose the defaults of the others; with_preset takes their values.
    """

    summary: str
    module: Callable[[], ModuleType]
    first: tuple[str, ...] = ()

    def start(self, *values: str | None) -> Any:
        """Return the dataclass of the verb's settings, or an instance with its defaults.

        The values are those of the options in `first`; None, or no values, are their defaults.
        """
        module = self.module()
        if not self.first:
            return module.OPTIONS
        return module.with_preset(*(values or [None] * len(self.first)))


VERBS = {
    "record": Verb("record demonstrations: of an expert, or of a person on a robot",
                   lambda: import_module("imitact.cli.record"), ("--robot",)),
    "train": Verb("train ACT on a dataset",
                  lambda: import_module("imitact.cli.train"), ("--preset", "--from", "--out")),
    "evaluate": Verb("count how often a policy succeeds on fresh seeds",
                     lambda: import_module("imitact.cli.evaluate")),
    "compare": Verb("compare two evaluations on the same seeds",
                    lambda: import_module("imitact.cli.compare")),
    "tune": Verb("find how a policy's chunks are best executed",
                 lambda: import_module("imitact.cli.tune")),
    "export": Verb("write a policy as one file that runs without torch",
                   lambda: import_module("imitact.cli.export")),
    "import-policy": Verb("convert a checkpoint of LeRobot or the released ACT to a policy",
                          lambda: import_module("imitact.cli.import_policy")),
    "export-policy": Verb("convert a policy to a checkpoint of LeRobot or the released ACT",
                          lambda: import_module("imitact.cli.export_policy")),
    "robot": Verb("check a robot, emulate one, park it, release it",
                  lambda: import_module("imitact.cli.robot")),
    "teleop": Verb("let a robot follow its leader",
                   lambda: import_module("imitact.cli.teleop")),
    "run": Verb("run a policy on a robot",
                lambda: import_module("imitact.cli.run")),
    "serve": Verb("let a policy answer across a network",
                  lambda: import_module("imitact.cli.serve")),
    "replay": Verb("command a robot the actions of a recorded episode",
                   lambda: import_module("imitact.cli.replay")),
    "view": Verb("show demonstrations, a training or an evaluation as an HTML page",
                 lambda: import_module("imitact.cli.view")),
    "check": Verb("find what is wrong with a dataset, a policy or an environment",
                  lambda: import_module("imitact.cli.check")),
    "convert": Verb("copy a dataset to LeRobot's or ALOHA's layout and compare",
                    lambda: import_module("imitact.cli.convert")),
    "demo": Verb("record, train and evaluate: from nothing to a success rate",
                 lambda: import_module("imitact.cli.demo"), ("--preset", "--task")),
}  # fmt: skip
