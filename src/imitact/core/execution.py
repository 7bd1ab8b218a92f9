"""Execution: the setting by which a policy's action chunks become actions, and its text form."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from imitact.core.answer_delay import delay_bounds, delay_words
from imitact.core.chunking import Replay
from imitact.core.errors import BadInput
from imitact.core.grippers import is_gripper
from imitact.core.temporal_ensemble import Ensemble
from imitact.core.types import Spec

_FORM = (
    "replay:N (execute N ticks of a chunk; replay:N~F joins chunks smoothly over F ticks, "
    "replay:N~F,G grippers over G) or ensemble:M (weights exp(-M·i); ensemble:M/E queries every E "
    "ticks)"
)
# Whole numbers of up to nine digits: longer ones are refused, not computed with.
_REPLAY = re.compile(r"replay:([0-9]{1,9})(?:~([0-9]{1,9})(?:,([0-9]{1,9}))?)?")
_ENSEMBLE = re.compile(
    r"ensemble:([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?:/([0-9]{1,9}))?"
)


def parse(text: str, delay_ticks: int = 0, spec: Spec | None = None) -> Replay | Ensemble:
    """Return the chunking of a text: `replay:50`, `replay:25~10` or `ensemble:0.01/5`.

    Any other text is refused. `delay_ticks` is the time from a query to its answer; `spec` tells
    which actions are grippers, whose seams are shorter.
    """
    if found := _REPLAY.fullmatch(text):
        n, fade, gripper = found.groups()
        own = None if gripper is None else int(gripper)
        return Replay(int(n), delay_ticks, int(fade or 0), own, _grippers(spec))
    if found := _ENSEMBLE.fullmatch(text):
        return Ensemble(float(found[1]), int(found[2] or 1), delay_ticks)
    raise BadInput(f'chunking "{text}" is not known; expected {_FORM}')


def _grippers(spec: Spec | None) -> tuple[bool, ...]:
    if spec is None:
        return ()
    return tuple(map(is_gripper, spec.action_names, spec.action_units))


@dataclass(frozen=True)
class Execution:
    """How a policy's chunks become actions; a tuned policy carries its own.

    Attributes:
        chunking: `replay:N`, `replay:N~F`, `replay:N~F,G`, `ensemble:M` or `ensemble:M/E`; equal
            settings are spelled alike.
        delay_ticks: from a query to its answer; simulated or, on a robot, expected. A text such as
            "3..9" draws one of 3 to 9 for each answer.
    """

    chunking: str = "replay:50"
    delay_ticks: int | str = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunking", self.new().text)

    def new(self, spec: Spec | None = None) -> Replay | Ensemble:
        """Return a new chunking with these settings, at the start of an episode.

        It expects answers to take the longest delay.

        Args:
            spec: of the policy; without it no action is known to be a gripper.
        """
        return parse(self.chunking, delay_bounds(self.delay_ticks)[1], spec)

    def within(self, chunk_size: int | None) -> Execution:
        """Return what is executed of chunks of `chunk_size` ticks: a replay of at most all of them.

        None, where nobody knows the size, changes nothing.
        """
        found = _REPLAY.fullmatch(self.chunking)
        if chunk_size is None or not found or int(found[1]) <= chunk_size:
            return self
        _, separator, fade = self.chunking.partition("~")
        return replace(self, chunking=f"{Replay(chunk_size).text}{separator}{fade}")

    def __str__(self) -> str:
        """As in "replay:50" or "replay:50 with a delay of 3 ticks"."""
        late = f" with a delay of {delay_words(self.delay_ticks)}" if self.delay_ticks else ""
        return f"{self.chunking}{late}"
