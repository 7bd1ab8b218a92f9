"""Action executor: a policy's chunks as one action per tick, for an environment or a robot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imitact.core.answer_delay import AnswerTimes, delay_bounds, episode_delays
from imitact.core.chunking import Chunking
from imitact.core.errors import SpecMismatch
from imitact.core.execution import Execution
from imitact.core.types import FloatArray, Observation, Policy, Spec, same_unit


class ActionExecutor:
    """Answers each observation with the action of its tick: `action = executor(observation)`.

    It queries the policy when its chunking needs a chunk. While a late answer leaves nothing to
    execute, the robot holds: it is commanded its last action, or, at the start of an episode, the
    joints that it measures.

    Answers come as they do on a robot (`PolicySource`): each after its delay, which may be drawn
    from the episode's seed, and the chunking expects the time within which 95 % of the last answers
    came, at first the longest delay.

    Attributes:
        policy: the policy that is queried.
        chunk: (K, A), what the policy answered at the last tick; None where it was not queried.
    """

    def __init__(
        self,
        policy: Policy,
        execution: Execution | Chunking | str | None = None,
        *,
        observed: Spec | None = None,
    ) -> None:
        """Begin an episode with seed 0; `reset` begins another.

        Args:
            execution: how chunks become actions: text such as `ensemble:0.01/10`, an Execution, or
                a Chunking; None takes what the policy was tuned for, or else `replay:50`.
            observed: the Spec of the observations; None takes that of the policy.

        Raises:
            BadInput: the text is not a chunking.
        """
        self.policy = policy
        self.chunk: FloatArray | None = None
        execution = execution or execution_of(policy) or Execution()
        if isinstance(execution, str):
            execution = Execution(execution)
        if isinstance(execution, Execution):
            self._delay, self._chunking = execution.delay_ticks, execution.new(policy.spec)
        else:
            self._delay, self._chunking = execution.delay_ticks, execution
        self._observed = observed or policy.spec
        self._last: NDArray[np.float64] | None = None
        self._is_reset = False
        self._delays: Iterator[int] = iter(())
        self._times = AnswerTimes()
        self._late: tuple[int, int, FloatArray] | None = None  # due tick, delay, chunk

    def reset(self, seed: int = 0) -> None:
        """Begin an episode; all randomness of the policy comes from `seed`."""
        self.policy.reset(seed)
        self._chunking.reset()
        self.chunk = self._last = self._late = None
        self._is_reset = True
        self._chunking.delay_ticks = delay_bounds(self._delay)[1]
        self._delays = episode_delays(self._delay, seed)
        self._times = AnswerTimes()

    def act(self, observation: Observation) -> NDArray[np.float64]:
        """Return the action of this tick, (A,), in physical units.

        Raises:
            NotFinite: the policy's chunk holds a NaN or an infinity.
            SpecMismatch: the robot must hold and does not measure what it is commanded.
        """
        if not self._is_reset:
            self.reset()
        self.chunk = None
        self._arrive()
        if self._chunking.wants_chunk:
            self.chunk = self.policy.chunk(observation)
            self._ask(self.chunk)
        action = self._chunking.next()
        if action is None:
            action = self._last
        if action is None:
            action = _measured(observation, self._observed, self.policy.spec)
        self._last = action
        return action

    __call__ = act

    def _ask(self, chunk: FloatArray) -> None:
        """Let a chunk arrive after the next delay; one of 0 ticks is over at once."""
        tick, delay = self._chunking.tick, next(self._delays)
        self._chunking.ask(tick)
        self._late = tick + delay, delay, chunk
        self._arrive()

    def _arrive(self) -> None:
        """Take the chunk that is on its way, if its time has come."""
        if self._late is None or self._chunking.tick < self._late[0]:
            return
        due, delay, chunk = self._late
        self._late = None
        self._chunking.feed(chunk, due - delay)
        rate_hz = self._observed.rate_hz
        self._times.add(delay / rate_hz)
        if (expected := self._times.expected_ticks(rate_hz)) is not None:
            self._chunking.delay_ticks = expected


def execution_of(policy: Policy) -> Execution | None:
    """Return how a policy was tuned to have its chunks executed; None where it was not tuned."""
    return getattr(policy, "execution", None)


def _measured(observation: Observation, observed: Spec, commanded: Spec) -> NDArray[np.float64]:
    """Return the action that holds the measured joints, (A,)."""
    units = dict(zip(observed.state_names, observed.state_units, strict=True))
    for name, unit in zip(commanded.action_names, commanded.action_units, strict=True):
        if name not in units or not same_unit(units[name], unit):
            found = f'measured in "{units[name]}"' if name in units else "not measured"
            raise SpecMismatch(
                f"until the first chunk arrives the robot holds its joints, but {name}, commanded "
                f'in "{unit}", is {found}; run it without a delay'
            )
    state = np.asarray(observation.state, dtype=np.float64)
    return state[[observed.state_names.index(name) for name in commanded.action_names]]
