"""Asynchronous inference: a policy in a process of its own, which answers queries by mailbox.

A query carries the state and the numbers of the frames; the process reads the frames in the
cameras' mailboxes. Torch or a runtime is loaded there alone. On a virtual clock the policy runs in
the same process, and its answers are late by drawn delays.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.control.contract import Moment
from imitact.control.sources import Answer
from imitact.core.clock import Clock, WallClock
from imitact.core.errors import (
    BadInput,
    ConnectionLost,
    ImitactError,
    RobotError,
    SpecMismatch,
    library_words,
)
from imitact.core.types import Frame, LazyFrames, Observation, Policy, Spec
from imitact.core.words import counted
from imitact.deploy.load_policy import StoredPolicy
from imitact.parallel.child_process import ChildProcess, ParentPipe, ProcessOwner
from imitact.parallel.mailbox import Mailbox

POLL_S = 0.0005
"""Between two looks for a query, s; a look costs about 1 µs."""

LOOK_S = 0.1
"""Between two looks whether the parent is still there, s."""

START_TIMEOUT_S = 180.0
"""Time for Python, the import of torch, loading and warm-up on a busy computer, s."""

WARM_UP = 3
"""Queries of zeros before the process is ready; a runtime prepares its memory at the first."""

_FAILURE_BYTES = 200

_NO_QUERY = -1
"""In place of a query's number, where the process says why answers do not come for now."""


class DelayedInference:
    """A policy in this process whose answers come late on a (virtual) clock: by a delay in ticks.

    It sees the observation of the tick of its query.
    """

    def __init__(
        self, policy: Policy, delays: Iterator[int], rate_hz: float, seed: int = 0
    ) -> None:
        """Answer with `policy`; `seed` fixes its randomness in each episode."""
        self._policy, self._delays, self._rate_hz = policy, delays, rate_hz
        self._seed = seed
        self._answer: Answer | None = None
        self._due_s = 0.0

    def begin(self) -> None:
        self._policy.reset(self._seed)
        self._answer = None

    def ask(self, moment: Moment) -> None:
        delay = next(self._delays)
        assert moment.reading is not None
        frames = LazyFrames(tuple(moment.frames), lambda name: moment.frames[name].frame)
        chunk, failure = None, ""
        try:
            answer = self._policy.chunk(Observation(moment.reading.values, frames))
            chunk = np.asarray(answer, np.float64)
        except ImitactError as error:
            failure = library_words(error)
        except Exception as error:  # of any kind, as from a policy in its process
            failure = f"{type(error).__name__}: {library_words(error)}"
        # Half a tick early, so that no rounding of times makes it a tick late.
        self._due_s = moment.now_s + (delay - 0.5) / self._rate_hz
        self._answer = Answer(moment.tick, chunk, delay / self._rate_hz, failure)

    def answer(self, now_s: float) -> Answer | None:
        if self._answer is None or now_s < self._due_s:
            return None
        answer, self._answer = self._answer, None
        return answer

    def fault(self) -> str:
        return ""

    def trouble(self) -> str:
        return ""


@dataclass(frozen=True)
class PolicyBoxes:
    """The mailboxes between a control loop and the process of its policy.

    Attributes:
        queries: of `_query_type`; the newest counts.
        answers: of `_answer_type`; the newest counts.
    """

    queries: Mailbox
    answers: Mailbox

    @classmethod
    def create(cls, spec: Spec, chunk_size: int) -> PolicyBoxes:
        query = _query_type(spec)
        answer = _answer_type(spec, chunk_size)
        return cls(
            Mailbox.create((query.itemsize,), "|u1", 4),
            Mailbox.create((answer.itemsize // 8,), "<f8", 4),
        )


def _query_type(spec: Spec) -> np.dtype[Any]:
    return np.dtype(
        [
            ("tick", "<i8"),
            ("episode", "<i8"),
            ("state", "<f8", (spec.state_size,)),
            ("frames", "<i8", (len(spec.cameras),)),
        ]
    )


def _answer_type(spec: Spec, chunk_size: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("query", "<i8"),
            ("tick", "<i8"),
            ("rows", "<i8"),
            ("failure", f"S{_FAILURE_BYTES}"),
            ("chunk", "<f8", (chunk_size, spec.action_size)),
        ]
    )


class ProcessInference:
    """The policy's process, seen from the control loop. Given to another process when spawned."""

    def __init__(
        self, spec: Spec, chunk_size: int, boxes: PolicyBoxes, alive: Connection, name: str
    ) -> None:
        """Query through `boxes`; `alive` ends when the process does."""
        self._spec, self._boxes, self._alive, self._name = spec, boxes, alive, name
        self._query = np.zeros(1, _query_type(spec))
        self._answer_type = _answer_type(spec, chunk_size)
        self._newest = self._taken = 0
        self._episode = 0
        self._asked_s = 0.0
        self._trouble = self._death = ""
        self._pid: int | None = None

    def begin(self) -> None:
        self._episode += 1
        self._newest = 0
        self._trouble = ""

    def ask(self, moment: Moment) -> None:
        assert moment.reading is not None
        query = self._query
        query["tick"], query["episode"] = moment.tick, self._episode
        query["state"] = moment.reading.values
        query["frames"] = [moment.frames[camera.name].sequence for camera in self._spec.cameras]
        self._asked_s = moment.now_s
        self._newest = self._boxes.queries.post(query.view(np.uint8), moment.now_s)

    def answer(self, now_s: float) -> Answer | None:
        if not self._newest or self._boxes.answers.newest == self._taken:
            return None
        mail = self._boxes.answers.read()
        if mail is None:
            return None
        self._taken = mail.sequence
        row = mail.values.view(self._answer_type)[0]
        if int(row["query"]) == _NO_QUERY:
            self._trouble = row["failure"].decode(errors="replace")
            return None
        self._trouble = ""
        if int(row["query"]) != self._newest:
            return None  # of a query that was given up
        self._newest = 0
        failure = row["failure"].decode(errors="replace")
        chunk = None if failure else np.array(row["chunk"][: int(row["rows"])])
        return Answer(int(row["tick"]), chunk, float(mail.times[0]) - self._asked_s, failure)

    def trouble(self) -> str:
        return self._trouble

    def watch(self, pid: int | None) -> None:
        """Look at the process of this id too; before this object is given to another process."""
        self._pid = pid

    def fault(self) -> str:
        if not self._death and (_has_ended(self._alive) or _is_exiting(self._pid)):
            self._death = f"the process of {self._name} has ended"
        return self._death


def _has_ended(alive: Connection) -> bool:
    """Return whether the other end of a pipe, on which nothing is sent, is closed."""
    try:
        return alive.poll(0)
    except OSError:
        return True


def _is_exiting(pid: int | None) -> bool:
    """Return whether Linux is ending a process.

    A process that is killed frees its memory before its pipes close: 0.2 s for torch's 700 MB on a
    busy computer. The flag PF_EXITING (include/linux/sched.h) is set before.
    """
    if pid is None or not _HAS_PROC:
        return False
    try:
        stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            fields = os.read(stat, 4096).rpartition(b")")[2].split()
        finally:
            os.close(stat)
        return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & 0x4)
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, ValueError, IndexError):
        return False


_HAS_PROC = sys.platform == "linux"


class PolicyProcess(ProcessOwner):
    """Starts and watches the process of a policy.

    Attributes:
        stored: what is known of the policy without loading it.
        inference: its end for the control loop.
        warm_up_s: how long each query of the warm-up took, once it is started.
    """

    def __init__(
        self,
        stored: StoredPolicy,
        cameras: Mapping[str, Mailbox],
        *,
        seed: int = 0,
        on_line: Callable[[str], object] = lambda line: None,
        load: Callable[[], Policy] | None = None,
    ) -> None:
        """Prepare the process; it needs no torch here.

        Args:
            stored: the policy, as `read_stored` finds it.
            cameras: the mailboxes of the frames, by camera.
            seed: fixes the randomness of the policy.
            on_line: receives the lines of the process.
            load: loads the policy in the process; picklable. None loads what is stored.

        Raises:
            BadInput: a camera that it sees is missing, or it does not say how long its chunks are.
        """
        self.stored = stored
        spec, load = stored.spec, load or stored.loader
        missing = [camera.name for camera in spec.cameras if camera.name not in cameras]
        if missing:
            raise BadInput(
                f"{stored.where} sees the cameras {', '.join(missing)}, which the robot does not "
                f"have; it has {', '.join(cameras) or 'none'}"
            )
        if stored.chunk_size is None:
            raise BadInput(f"{stored.where} does not say how long its chunks are; export it anew")
        seen = {camera.name: cameras[camera.name] for camera in spec.cameras}
        boxes = PolicyBoxes.create(spec, stored.chunk_size)
        alive, theirs = multiprocessing.Pipe(duplex=False)
        self._theirs = theirs
        name = f"the policy {stored.where}"
        self.inference = ProcessInference(spec, stored.chunk_size, boxes, alive, name)
        self.warm_up_s: tuple[float, ...] = ()
        arguments = (load, spec, stored.chunk_size, boxes, seen, theirs, seed)
        super().__init__(ChildProcess(name, answer_queries, arguments, on_line))

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the process and wait until the policy is loaded and warm.

        Raises:
            RobotError: it failed, or was not ready in time.
        """
        self._process.start(timeout_s)
        self._theirs.close()  # now the pipe ends with the process
        self.inference.watch(self._process.pid)
        if (answer := self._process.answer(_WARM)) is not None:
            self.warm_up_s = tuple(answer[1])


_WARM = 0
"""Number under which the process sends the times of its warm-up; those of orders begin at 1."""


def answer_queries(
    parent: ParentPipe,
    load: Callable[[], Policy],
    spec: Spec,
    chunk_size: int,
    boxes: PolicyBoxes,
    cameras: Mapping[str, Mailbox],
    alive: Connection,
    seed: int,
) -> None:
    """Load a policy, warm it up, and answer queries until the parent has gone.

    Args:
        parent: who started this process.
        load: loads the policy.
        spec: that it must have.
        chunk_size: the longest chunk that it gives.
        boxes: for queries and answers.
        cameras: mailboxes of the frames, in the order in which the policy sees them.
        alive: is kept open; its other end shows that this process runs.
        seed: of the policy.
    """
    policy = load()
    policy.spec.check_same(spec, "the policy", "its file")
    times_s = _warm_up(policy, spec, seed)
    parent.answer(_WARM, True, times_s)
    parent.ready()
    query_type, answer = _query_type(spec), np.zeros(1, _answer_type(spec, chunk_size))
    clock, taken, seen, episode = WallClock(), 0, 0, -1
    observation = Observation(np.zeros(spec.state_size))
    looked_s = -np.inf
    while True:
        if clock.now_s() > looked_s + LOOK_S:
            parent.next_order(0.0)
            looked_s = clock.now_s()
            if parent.parent_is_gone:
                return
        if boxes.queries.newest == taken or (mail := boxes.queries.read()) is None:
            time.sleep(POLL_S)
            continue
        taken = mail.sequence
        query = mail.values.view(query_type)[0]
        if int(query["episode"]) != episode:
            episode = int(query["episode"])
            policy.reset(seed)
        answer["query"], answer["tick"] = mail.sequence, query["tick"]
        answer["failure"], answer["rows"] = b"", 0
        try:
            if mail.sequence != seen:  # else its frames may have been overwritten meanwhile
                observation, seen = _observation(query, cameras), mail.sequence
            chunk = np.asarray(policy.chunk(observation), np.float64)
            size = answer["chunk"].shape[-1]
            if chunk.shape[1:] != (size,):  # numpy would spread one value over all joints
                raise SpecMismatch(f"the chunk has shape {chunk.shape}, expected (K, {size})")
            if len(chunk) > chunk_size:
                raise BadInput(
                    f"it gave a chunk of {counted(len(chunk), 'row')}, its file says {chunk_size}"
                )
            answer["rows"] = len(chunk)
            answer["chunk"][0, : len(chunk)] = chunk
        except ConnectionLost as error:
            # Asked again with the newest observation: until then, the robot executes what is left.
            taken, answer["query"] = 0, _NO_QUERY
            answer["failure"] = library_words(error).encode()[:_FAILURE_BYTES]
        except Exception as error:
            said = f"{type(error).__name__}: {library_words(error)}"
            answer["failure"] = said.encode()[:_FAILURE_BYTES]
        boxes.answers.post(answer.view(np.float64), clock.now_s())


def _observation(query: NDArray[Any], cameras: Mapping[str, Mailbox]) -> Observation:
    frames: dict[str, Frame] = {}
    for (name, box), sequence in zip(cameras.items(), query["frames"], strict=True):
        mail = box.read(int(sequence))
        if mail is None:
            raise RobotError(
                f"frame {int(sequence)} of camera {name} was overwritten before the policy read it"
            )
        frames[name] = mail.values
    return Observation(np.array(query["state"]), frames)


def _warm_up(policy: Policy, spec: Spec, seed: int) -> list[float]:
    """Query with zeros; return how long each query took, s."""
    policy.reset(seed)

    def black(name: str) -> Frame:
        camera = spec.camera(name)
        return np.zeros((camera.height, camera.width, 3), np.uint8)

    names = [camera.name for camera in spec.cameras]
    times_s = []
    clock: Clock = WallClock()
    for _ in range(WARM_UP):
        begun_s = clock.now_s()
        policy.chunk(Observation(np.zeros(spec.state_size), LazyFrames(names, black)))
        times_s.append(clock.now_s() - begun_s)
    return times_s
