"""Sources of actions: a policy, a leader, a recorded episode, and a person who takes over.

They are asked once a tick, by the time of the tick and not by count: a skipped tick uses up its
row. No call waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.control.ages import AgeBounds
from imitact.control.contract import Asked, Hold, Moment, old_words
from imitact.control.engagement import Engagement
from imitact.core.answer_delay import AnswerTimes
from imitact.core.chunking import Chunking
from imitact.core.errors import BadInput, ImitactError, SpecMismatch, library_words
from imitact.core.robot import Leader, Reading
from imitact.core.types import FloatArray, Spec, same_unit

FORGET_S = 0.5
"""After a hold of this time a policy is queried anew, and its chunk of before is dropped, s."""

BLEND_S = 0.5
"""Time in which the jump from a person's last command to a policy's first action fades, s."""


@dataclass(frozen=True)
class Answer:
    """What a policy answered to a query.

    Attributes:
        asked_tick: the tick of the query.
        chunk: (K, A); None where it failed.
        time_s: from the query to the answer.
        failure: why there is no chunk.
    """

    asked_tick: int
    chunk: FloatArray | None
    time_s: float
    failure: str = ""


class Inference(Protocol):
    """A policy that answers later. No call waits."""

    def begin(self) -> None:
        """Begin an episode; answers to earlier queries are dropped."""
        ...

    def ask(self, moment: Moment) -> None:
        """Query the policy with the observation of a tick; an earlier query is given up."""
        ...

    def answer(self, now_s: float) -> Answer | None:
        """Return the answer to the newest query, once; None where it is not there."""
        ...

    def fault(self) -> str:
        """Return why no answers come any more, in words; empty while they do."""
        ...

    def trouble(self) -> str:
        """Return why no answers come for now, in words, as a server that does not answer."""
        ...


class PolicySource:
    """Executes the chunks of a policy that answers later.

    The policy is queried early enough for its answer to arrive as the rows of the chunk before run
    out. Where they run out first, the robot holds.
    """

    def __init__(
        self,
        inference: Inference,
        chunking: Chunking,
        rate_hz: float,
        cameras: tuple[str, ...] = (),
        step: FloatArray | None = None,
    ) -> None:
        """Prepare; nothing is asked before `begin`.

        Args:
            inference: the policy.
            chunking: how its chunks become actions; its delay is expected until it is measured.
            rate_hz: ticks per second.
            cameras: that the policy sees.
            step: (A,), the largest change of a tick that the limits allow, for the seams.
        """
        self._inference, self._chunking, self._rate_hz = inference, chunking, rate_hz
        self._cameras, self._step = cameras, step
        self._times = AnswerTimes()
        self._forget_ticks = max(1, round(FORGET_S * rate_hz))
        self._ignored = self._holds = 0
        self._gave = False

    @property
    def cameras(self) -> tuple[str, ...]:
        return self._cameras

    @property
    def answer_times(self) -> AnswerTimes:
        """Measured so far; those of a warm-up may be added before the start."""
        return self._times

    def begin(self, moment: Moment) -> None:
        self._inference.begin()
        self._expect()
        self._restart(moment.tick)

    def action(self, moment: Moment) -> Asked:
        tick = moment.tick
        if fault := self._inference.fault():
            self._restart(tick)
            return Asked(None, Hold.POLICY_FAILED, fault)
        self._ignored = self._ignored + 1 if moment.held and self._gave else 0
        if self._ignored >= self._forget_ticks:
            self._restart(tick)  # its rows lead far ahead of where the safety filter holds
        self._holds, self._gave = 0, False
        self._chunking.skip_to(tick)
        answer = self._take(moment)
        query = False
        if not _is_failure(answer) and self._chunking.wants_chunk:
            self._inference.ask(moment)
            self._chunking.ask(tick)
            query, self._asked_s = True, moment.now_s
            answer = self._take(moment) or answer
        if answer is not None and answer.failure:
            self._chunking.wait()
            return Asked(
                None, Hold.POLICY_FAILED, f"the policy failed: {answer.failure}", query=query
            )
        action = self._chunking.next()
        arrived = {
            "query": query,
            "answered_tick": None if answer is None else answer.asked_tick,
            "answer_s": None if answer is None else answer.time_s,
        }
        if action is None:
            return Asked(None, Hold.ANSWER_LATE, self._late(moment.now_s), **arrived)
        self._gave = True
        seam = None if answer is None else self._seam(action, moment.command)
        return Asked(action, seam=seam, **arrived)

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        self._chunking.skip_to(moment.tick)
        answer = self._take(moment)
        self._holds, self._gave = self._holds + 1, False
        if self._holds >= self._forget_ticks:
            self._restart(moment.tick)
        self._chunking.wait()
        if answer is None or answer.failure:
            return Asked(None, hold, words)
        arrived = answer.asked_tick
        return Asked(None, hold, words, answered_tick=arrived, answer_s=answer.time_s)

    def _restart(self, tick: int) -> None:
        """Drop all chunks; the next begins at its row 0."""
        self._chunking.reset(tick)
        self._is_first, self._ignored = True, 0

    def _take(self, moment: Moment) -> Answer | None:
        """Take the answer to the open query, if it is there."""
        if self._chunking.asked_tick is None:
            return None
        answer = self._inference.answer(moment.now_s)
        if answer is None or answer.asked_tick != self._chunking.asked_tick:
            return None
        self._times.add(answer.time_s)
        self._expect()
        try:
            if answer.chunk is None:
                raise ImitactError(answer.failure or "it gave no chunk")
            if answer.chunk.shape[1:] != moment.command.shape:
                raise SpecMismatch(
                    f"the chunk has shape {answer.chunk.shape}, expected (K, {moment.command.size})"
                )
            self._chunking.feed(answer.chunk, answer.asked_tick)
            self._is_first = False
            return answer
        except ImitactError as error:
            self._chunking.drop_query()
            return replace(answer, chunk=None, failure=library_words(error))

    def _expect(self) -> None:
        """Expect answers within the times that were measured, if any were."""
        expected = self._times.expected_ticks(self._rate_hz)
        if expected is not None:
            self._chunking.delay_ticks = expected

    def _late(self, now_s: float) -> str:
        since_ms = (now_s - self._asked_s) * 1000
        if trouble := self._inference.trouble():
            return f"no answer since {since_ms:.0f} ms: {trouble}"
        if self._is_first:
            return f"the policy's first answer is awaited since {since_ms:.0f} ms"
        expected_ms = self._chunking.delay_ticks / self._rate_hz * 1000
        return (
            f"the policy's answer is late: asked {since_ms:.0f} ms ago, expected within "
            f"{expected_ms:.0f} ms"
        )

    def _seam(self, action: NDArray[np.float64], command: NDArray[np.float64]) -> float:
        jump = np.abs(action - command)
        return float(np.max(jump if self._step is None else jump / self._step))


def _is_failure(answer: Answer | None) -> bool:
    return answer is not None and bool(answer.failure)


class LeaderSource:
    """Follows a leader while its person holds the deadman."""

    def __init__(
        self,
        leader: Leader,
        spec: Spec,
        engagement: Engagement,
        max_age_s: float = AgeBounds.leader_s,
        *,
        lag_s: float = 0.0,
    ) -> None:
        """Prepare; the clutch is open.

        Args:
            leader: what the person moves.
            spec: of the robot.
            engagement: when the robot follows.
            max_age_s: how old the leader's reading may be.
            lag_s: where the leader was that long before a tick is followed, between two readings. A
                bus is read at its own times: its newest reading is 7 to 20 ms old, and at 1.6 rad/s
                that is a jitter of 20 mrad, whose jerk no limit allows. One tick is enough; 0
                follows the newest reading.

        Raises:
            SpecMismatch: the leader's joints or units are not those of the robot's actions.
        """
        pairs = list(zip(leader.action_units, spec.action_units, strict=False))
        if leader.action_names != spec.action_names or not all(same_unit(*pair) for pair in pairs):
            raise SpecMismatch(
                f"the leader gives {_listed(leader.action_names, leader.action_units)}; the robot "
                f"is commanded {_listed(spec.action_names, spec.action_units)}"
            )
        self._leader, self.engagement, self._max_age_s = leader, engagement, max_age_s
        self._lag_s = lag_s
        self._before: Reading | None = None
        self._newest: Reading | None = None

    @property
    def cameras(self) -> tuple[str, ...]:
        return ()

    def begin(self, moment: Moment) -> None:
        self.engagement.release()

    def action(self, moment: Moment) -> Asked:
        reading = self._leader.reading()
        begin_s = None if reading is None else reading.begin_s
        hold, words = Hold.LEADER_OLD, self._leader.fault()
        if words:
            pass
        elif reading is None or begin_s is None:
            words = "the leader has given no reading yet"
        elif old := old_words("the leader's reading", moment.now_s - begin_s, self._max_age_s):
            words = old
        elif not np.all(np.isfinite(reading.values)):
            words = "the leader's reading is not finite"
        else:
            deadman = _deadman(reading.engaged, moment)
            values = self._values(reading, moment.now_s)
            found = self.engagement.update(values, moment.command, bool(deadman))
            words, hold = found.words, Hold.NOT_ENGAGED
            if deadman is None:
                words = "the leader has no deadman, and no key or pedal is given for one"
            if found.action is not None:
                return Asked(found.action, engaged=True, leader_s=begin_s)
        if hold is not Hold.NOT_ENGAGED:
            self.engagement.release()
        return Asked(None, hold, words, engaged=False, leader_s=begin_s)

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        self.engagement.release()
        return Asked(None, hold, words, engaged=False)

    def _values(self, reading: Reading, now_s: float) -> NDArray[np.float64]:
        """Return where the leader was `lag_s` ago, (A,), on the line between two readings."""
        if self._newest is None or reading.sequence != self._newest.sequence:
            self._before, self._newest = self._newest, reading
        before = self._before
        if self._lag_s <= 0 or before is None:
            return reading.values
        last_s, first_s = _middle_s(reading), _middle_s(before)
        if last_s <= first_s or last_s - first_s > self._max_age_s:
            return reading.values
        share = float(np.clip((now_s - self._lag_s - first_s) / (last_s - first_s), 0.0, 1.0))
        return before.values + share * (reading.values - before.values)

    def wants_command(self, moment: Moment) -> bool | None:
        """Return whether the person holds the deadman; None where the leader does not say now."""
        reading = self._leader.reading()
        if reading is None or self._leader.fault():
            return None
        if old_words("", moment.now_s - reading.begin_s, self._max_age_s):
            return None
        return bool(_deadman(reading.engaged, moment))


def _middle_s(reading: Reading) -> float:
    return (reading.begin_s + reading.end_s) / 2


def _deadman(own: bool | None, moment: Moment) -> bool | None:
    """Return whether every deadman that there is is held; None where there is none."""
    held = [one for one in (own, moment.controls.deadman) if one is not None]
    return all(held) if held else None


class EpisodeSource:
    """Replays the actions of a recorded episode, from the tick at which it begins.

    While the robot is held the replay waits, so that it goes on where it stopped.
    """

    def __init__(self, actions: FloatArray) -> None:
        """Replay `actions`, (T, A).

        Raises:
            BadInput: there are none, or one is not finite.
        """
        values = np.array(actions, np.float64)
        if values.ndim != 2 or not len(values) or not np.all(np.isfinite(values)):
            raise BadInput(f"an episode of shape {values.shape} is no (T, A) finite actions")
        self._actions = values
        self._first = 0
        self._gave = False

    @property
    def cameras(self) -> tuple[str, ...]:
        return ()

    def begin(self, moment: Moment) -> None:
        self._first, self._gave = moment.tick, False

    def action(self, moment: Moment) -> Asked:
        if moment.held and self._gave:
            self._first += 1  # the safety filter held the tick before
        row = moment.tick - self._first
        if row >= len(self._actions):
            return Asked(None, Hold.WAITING, "the episode has ended", ended=True)
        self._gave = True
        return Asked(self._actions[row])

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        self._first, self._gave = self._first + 1, False
        return Asked(None, hold, words)


class InterventionSource:
    """A policy whose robot a person may take over at any tick, and hand back.

    Once the person holds the deadman of the leader, the policy is out: the robot follows the
    leader, or holds until the leader is where the robot is, and `engaged` is true. When the deadman
    is released, the policy is queried anew, and the jump to its first action fades. A leader that
    is lost while the person has the command holds the robot; the policy does not get it back.
    """

    def __init__(self, policy: PolicySource, leader: LeaderSource, rate_hz: float) -> None:
        """Prepare; the engagement of the leader should wait or keep its offset, because a ramp
        would bring the robot to where the leader lies."""
        self._policy, self._leader = policy, leader
        self._fade_ticks = max(1, round(BLEND_S * rate_hz))
        self._taken = False
        self._handed_back: int | None = None
        self._offset: NDArray[np.float64] | None = None

    @property
    def cameras(self) -> tuple[str, ...]:
        return self._policy.cameras

    def begin(self, moment: Moment) -> None:
        self._policy.begin(moment)
        self._leader.begin(moment)
        self._taken, self._handed_back, self._offset = False, None, None

    def action(self, moment: Moment) -> Asked:
        wants = self._leader.wants_command(moment)
        if wants or (self._taken and wants is None):
            self._taken = True
            return replace(self._leader.action(moment), engaged=True)
        if self._taken:
            self._leader.begin(moment)
            self._policy.begin(moment)
            self._taken, self._handed_back, self._offset = False, moment.tick, None
        return self._faded(replace(self._policy.action(moment), engaged=False), moment)

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        self._leader.hold(moment, hold, words)
        return replace(self._policy.hold(moment, hold, words), engaged=self._taken)

    def _faded(self, asked: Asked, moment: Moment) -> Asked:
        """Return what the policy asks for, moved by what is left of the jump to it."""
        if asked.action is None or self._handed_back is None:
            return asked
        if self._offset is None:
            self._offset, self._handed_back = moment.command - asked.action, moment.tick
        left = 1 - (moment.tick - self._handed_back) / self._fade_ticks
        if left <= 0:
            self._handed_back = None
            return asked
        return replace(asked, action=asked.action + left * self._offset)


def _listed(names: tuple[str, ...], units: tuple[str, ...]) -> str:
    return ", ".join(f"{name} ({unit})" for name, unit in zip(names, units, strict=False)) or "none"
