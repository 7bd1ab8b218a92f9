"""Inference: one thread that computes the answers to the questions of all clients, in turn.

The event loop only moves bytes meanwhile, so that a client can connect while the policy computes.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.core.camera_view import View
from imitact.core.errors import ImitactError, library_words
from imitact.core.types import Observation, Policy
from imitact.serving.messages import Answer, Question


class SeenPolicy(Protocol):
    """A policy that also answers several observations at once, whose frames are already resized."""

    @property
    def views(self) -> Mapping[str, View]:
        """What it sees of each camera."""
        ...

    def chunks_seen(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """Return the chunks, (B, K, A), for frames of the sizes of its views."""
        ...


@dataclass(frozen=True)
class _Job:
    question: Question
    arrived_s: float
    is_wanted: Callable[[], bool]
    deliver: Callable[[Answer | ImitactError], None]


_GONE = ImitactError("the client has gone")


class InferenceThread:
    """Answers questions in the order in which they came, up to `batch` at once."""

    def __init__(self, load: Callable[[], Policy], batch: int = 1) -> None:
        """Prepare; `load` loads the policy in the thread.

        With a batch of 1 an answer does not depend on who else asks; of more, sums round
        differently. A policy without `chunks_seen` is asked one question at a time.
        """
        self._load, self._batch = load, batch
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._loaded = threading.Event()
        self._failure: BaseException | None = None
        self.policy: Policy | None = None

    def start(self) -> Policy:
        """Start the thread, and return the policy once it is loaded."""
        self._thread.start()
        self._loaded.wait()
        if self._failure is not None:
            raise self._failure
        assert self.policy is not None
        return self.policy

    def stop(self) -> None:
        """End the thread after the answer that it computes."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Questions that wait."""
        return self._jobs.qsize()

    async def answer(
        self, question: Question, is_wanted: Callable[[], bool] = lambda: True
    ) -> Answer:
        """Return the answer to a question.

        Args:
            is_wanted: whether its client is still there; else nothing is computed.

        Raises:
            ImitactError: the policy gave none.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer | ImitactError] = loop.create_future()

        def deliver(result: Answer | ImitactError) -> None:
            loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(result))

        self._jobs.put(_Job(question, time.monotonic(), is_wanted, deliver))
        found = await future
        if isinstance(found, ImitactError):
            raise found
        return found

    def _run(self) -> None:
        try:
            self.policy = self._load()
            self.policy.reset(0)
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._loaded.set()
        while (jobs := self._next()) is not None:
            begun_s = time.monotonic()
            chunks = self._chunks([job.question for job in jobs])
            infer_ms = (time.monotonic() - begun_s) * 1000
            for job, chunk in zip(jobs, chunks, strict=True):
                if isinstance(chunk, ImitactError):
                    job.deliver(chunk)
                    continue
                queue_ms = (begun_s - job.arrived_s) * 1000
                job.deliver(Answer(chunk, job.question.number, queue_ms, infer_ms))

    def _next(self) -> list[_Job] | None:
        """Wait for a question, and take those that wait behind it."""
        jobs: list[_Job] = []
        while len(jobs) < self._batch:
            try:
                job = self._jobs.get(block=not jobs)
            except queue.Empty:
                break
            if job is None:
                if not jobs:
                    return None
                self._jobs.put(None)
                break
            if job.is_wanted():
                jobs.append(job)
            else:
                job.deliver(_GONE)
        return jobs

    def _chunks(self, questions: Sequence[Question]) -> list[NDArray[Any] | ImitactError]:
        """Return a chunk for each question, or why there is none."""
        policy = self.policy
        seen = getattr(policy, "chunks_seen", None)
        if len(questions) > 1 and seen is not None:
            found = self._tried(lambda: list(seen([self._resized(q) for q in questions])))
            if isinstance(found, list) and len(found) == len(questions):
                return found
        return [self._chunk(question) for question in questions]  # one of them may be at fault

    def _chunk(self, question: Question) -> NDArray[Any] | ImitactError:
        policy: Any = self.policy
        if question.is_seen:
            return self._tried(lambda: policy.chunks_seen([question.observation])[0])
        return self._tried(lambda: policy.chunk(question.observation))

    def _resized(self, question: Question) -> Observation:
        observation = question.observation
        if question.is_seen:
            return observation
        views: Mapping[str, View] = self.policy.views  # type: ignore[union-attr]
        frames = {name: view.apply(observation.frames[name]) for name, view in views.items()}
        return Observation(observation.state, frames)

    @staticmethod
    def _tried(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except ImitactError as error:
            return error
        except Exception as error:  # a defect of one answer must not end those of the others
            return ImitactError(f"{type(error).__name__}: {library_words(error)}")
