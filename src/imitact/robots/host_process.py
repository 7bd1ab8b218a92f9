"""Host process: a thread for each driver, and orders that come over a pipe.

The process outlives nothing: where its parent has gone, or it is told to end, it holds, parks,
releases after a countdown, and exits. Nothing that a driver raises ends it.
"""

from __future__ import annotations

import math
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import RobotError
from imitact.parallel.child_process import ParentPipe
from imitact.robots.driver_loop import DriverLoop, LoopConfig, Mode, failure_words
from imitact.robots.hosted import HostBoxes, HostedDriver

BEAT_S = 0.02
"""Time between signs of life, s."""

MakeThread = Callable[..., threading.Thread]
"""Makes a thread, with the arguments of `threading.Thread`; on a virtual clock, threads that take
turns."""


BRAKE_S = 2.0
"""Longest time for which a robot whose parent has gone still follows the control loop, s."""


@dataclass(frozen=True)
class HostConfig(LoopConfig):
    """Settings of a host process."""

    countdown_s: float = 3.0
    """Time between parking and release where nobody gives orders any more, s."""
    hold_limit_s: float = 60.0
    """How long a robot that does not follow is held, s; then it is parked and released, because
    servos that hold a load get hot and burn (lerobot#2621). Also how long an arm that cannot be
    parked is held where nobody gives orders any more; then it is released all the same."""
    falls: bool = True
    """Whether an arm without torque falls; a simulated one does not, and is never parked."""
    order_timeout_s: float = 10.0
    """How long a driver may take for an order beyond what it has to take, s."""


@dataclass(frozen=True, eq=False)
class HostPlan:
    """What a host process drives.

    Attributes:
        drivers: of the robot, in order; their values are side by side.
        leaders: of its leader, in order.
        config: settings.
        energised: whether the torque may be on already, from a host that was killed.
    """

    drivers: tuple[HostedDriver, ...]
    leaders: tuple[HostedDriver, ...]
    config: HostConfig
    energised: bool = False


class DriverThread:
    """The thread of one driver: it runs the periods of a loop, and work between them."""

    def __init__(
        self, loop: DriverLoop, clock: Clock, rate_hz: float, make_thread: MakeThread
    ) -> None:
        self.loop = loop
        self.opened: Future[None] = Future()
        self._clock, self._period_s = clock, 1 / rate_hz
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = make_thread(target=self._run, name=loop.name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Run a function in the thread, between two periods."""
        future: Future[Any] = Future()
        self._work.put((work, future))
        return future

    def end(self, timeout_s: float) -> bool:
        """End the thread and close the driver; return whether it ended in time."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._finish(self.loop.open, self.opened)
        if self.opened.exception() is None:
            start_s, count = self._clock.now_s(), 0
            while not self._stop.is_set():
                while not self._work.empty():
                    self._finish(*self._work.get())
                try:
                    self.loop.step()
                except Exception as error:  # a fault of ours must not end the thread
                    self.loop.report(error)
                count = max(count + 1, math.floor((self._clock.now_s() - start_s) / self._period_s))
                self._clock.wait_until(start_s + count * self._period_s)
        self.loop.close()

    @staticmethod
    def _finish(work: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)


class Host:
    """The main thread of a host process."""

    def __init__(
        self,
        pipe: ParentPipe,
        plan: HostPlan,
        boxes: HostBoxes,
        clock: Clock,
        make_thread: MakeThread = threading.Thread,
    ) -> None:
        self._pipe, self._config, self._boxes, self._clock = pipe, plan.config, boxes, clock
        loops: list[DriverLoop] = []
        first = 0
        for driver, own in zip(plan.drivers, boxes.drivers, strict=True):
            columns = slice(first, first + driver.spec.action_size)
            first = columns.stop
            loops.append(
                DriverLoop(
                    driver,
                    own,
                    clock,
                    plan.config,
                    boxes.command,
                    columns,
                    energised=plan.energised,
                )
            )
        for leader, own in zip(plan.leaders, boxes.leaders, strict=True):
            loops.append(DriverLoop(leader, own, clock, plan.config))
        rate_hz = plan.config.rate_hz
        self._threads = [DriverThread(loop, clock, rate_hz, make_thread) for loop in loops]
        self._faults = [""] * len(loops)
        self._is_told_to_end = False
        self._waiting: deque[tuple[int, str, Any]] = deque()
        self._followed_s = clock.now_s()

    @property
    def _robot(self) -> list[DriverThread]:
        return [thread for thread in self._threads if not thread.loop.is_leader]

    @property
    def _standing(self) -> list[DriverThread]:
        """Arms with torque."""
        return [thread for thread in self._robot if thread.loop.mode is not Mode.LIMP]

    def run(self) -> None:
        """Open the drivers, then follow orders until the end.

        Raises:
            RobotError: a driver could not be opened; all are closed.
        """
        signal.signal(signal.SIGTERM, self._end)
        failed: list[str] = []
        for thread in self._threads:
            while not thread.opened.done():
                self._beat()
                if self._must_end:
                    return
                self._clock.wait_until(self._clock.now_s() + BEAT_S)
            if error := thread.opened.exception():
                failed.append(failure_words(error))
            else:
                self._pipe.line(f"{thread.loop.name}: connected")
        if failed:
            self._close()
            raise RobotError("; ".join(failed))
        self._beat()
        self._pipe.ready()
        while not self._must_end:
            order = self._waiting.popleft() if self._waiting else self._pipe.next_order(BEAT_S)
            self._beat()
            if order is not None:
                self._follow(*order)
            elif self._holds_since() > self._config.hold_limit_s:
                self._put_down()
                self._followed_s = self._clock.now_s()
        if not self._is_told_to_end:
            self._let_brake()
        self._farewell()
        self._close()

    def _let_brake(self) -> None:
        """Wait while the control loop brakes the robot, which its parent's end ends as well; its
        commands then stop, and the watchdog of the drivers holds."""
        end_s = self._clock.now_s() + BRAKE_S
        while self._clock.now_s() < end_s and any(not t.loop.fault for t in self._standing):
            self._rest()

    def _holds_since(self) -> float:
        """Return for how long arms with torque have not followed, s."""
        if not self._config.falls or not any(thread.loop.fault for thread in self._standing):
            self._followed_s = self._clock.now_s()
        return self._clock.now_s() - self._followed_s

    def _end(self, number: int, frame: Any) -> None:
        self._is_told_to_end = True

    @property
    def _must_end(self) -> bool:
        return self._is_told_to_end or self._pipe.parent_is_gone

    def _beat(self) -> None:
        self._boxes.heartbeat.post(np.zeros(1), self._clock.now_s())
        for number, thread in enumerate(self._threads):
            fault = thread.loop.fault
            if fault != self._faults[number]:
                self._faults[number] = fault
                self._pipe.line(fault or f"{thread.loop.name}: follows")

    def _follow(self, number: int, order: str, argument: Any) -> None:
        orders: dict[str, Callable[[Any], Any]] = {
            "enable": lambda _: self._enable(),
            "hold": lambda why: self._all(self._robot, lambda loop: loop.hold(why)),
            "park": lambda _: self._park(),
            "release": self._release,
            "close": lambda _: self._farewell(),
        }
        try:
            value = orders[order](argument)
        except RobotError as error:
            self._pipe.answer(number, False, str(error))
        except Exception as error:
            self._pipe.answer(number, False, f"{type(error).__name__}: {error}")
        else:
            self._pipe.answer(number, True, value)
        if order == "close":
            self._is_told_to_end = True

    def _enable(self) -> None:
        """Enable all drivers, or none: those that were limp are released where one fails."""
        limp = [thread for thread in self._robot if thread.loop.mode is Mode.LIMP]
        try:
            self._all(self._robot, lambda loop: loop.enable(), may_lapse=True)
        except RobotError as error:
            self._each(self._robot, lambda loop: loop.hold("another arm got no torque"))
            left = self._released(limp)
            more = f"; no answer to the release of {', '.join(left)}" if left else ""
            raise RobotError(f"{error}{more}") from error

    def _park(self) -> None:
        """Bring all arms to rest; the order ends when each is there, or holds where it is.

        Raises:
            RobotError: arms did not get there; all are named.
        """
        if not self._config.falls:
            return
        standing = self._standing
        if not standing:
            raise RobotError("the robot has no torque, so it cannot be parked; enable it first")
        begun, errors = self._each(standing, lambda loop: loop.start_parking(), may_lapse=True)
        longest_s = max(begun.values(), default=0.0)
        if begun:
            self._pipe.line(f"parking takes {longest_s:.1f} s")
        deadline_s = self._clock.now_s() + 2 * longest_s + self._config.order_timeout_s
        while any(thread.loop.parking_failure is None for thread in begun):
            if self._clock.now_s() > deadline_s:
                late = [thread for thread in begun if thread.loop.parking_failure is None]
                self._each(late, lambda loop: loop.hold("parking takes too long"))
                break
            self._rest()
        errors += [thread.loop.parking_failure or "" for thread in begun]
        if words := [error for error in errors if error]:
            raise RobotError("; ".join(words))

    def _release(self, is_supported: bool) -> tuple[str, ...]:
        """Turn all torque off; return the joints that did not answer, in words."""
        standing = [
            t.loop.name
            for t in self._robot
            if t.loop.mode is not Mode.LIMP and not t.loop.parked and not is_supported
        ]
        if standing and self._config.falls:
            raise RobotError(
                f"{', '.join(standing)} would fall: park first, or say that the arm is supported"
            )
        return tuple(self._released(self._threads))

    def _farewell(self) -> tuple[str, ...]:
        """Hold, park, and release after a countdown; return the joints that did not answer.

        An arm that cannot be parked is held for a while, and then released all the same.
        """
        standing = self._standing
        if not standing:
            return ()
        self._each(standing, lambda loop: loop.hold("the host was told to end"))
        try:
            self._park()
        except RobotError as error:
            self._pipe.line(f"not parked: {error}")
        missing: list[str] = []
        is_safe = {thread: thread.loop.parked or not self._config.falls for thread in standing}
        for safe, wait_s in ((True, self._config.countdown_s), (False, self._config.hold_limit_s)):
            threads = [thread for thread in standing if is_safe[thread] == safe]
            if not threads:
                continue
            names = ", ".join(thread.loop.name for thread in threads)
            if self._config.falls:
                self._pipe.line(f"the torque of {names} goes off in {wait_s:.0f} s")
                self._wait(wait_s)
            missing += self._released(threads)
        return tuple(missing)

    def _released(self, threads: Sequence[DriverThread]) -> list[str]:
        """Turn torque off; return the joints that did not answer, in words."""
        found, errors = self._each(threads, lambda loop: loop.release())
        missing = [joint for joints in found.values() for joint in joints] + errors
        if missing:
            self._pipe.line(f"no answer to the release of {', '.join(missing)}: it may still hold")
        return missing

    def _put_down(self) -> None:
        """Park and release a robot that nobody has let follow for the limit; servos get hot."""
        limit_s = self._config.hold_limit_s
        self._pipe.line(f"the robot holds since {limit_s:.0f} s; it is parked and released")
        try:
            self._park()
        except RobotError as error:
            self._pipe.line(f"not parked: {error}; it goes on holding. Support it and release it")
            return
        self._wait(self._config.countdown_s)
        self._released(self._threads)

    def _all(
        self,
        threads: Sequence[DriverThread],
        work: Callable[[DriverLoop], Any],
        *,
        may_lapse: bool = False,
    ) -> list[Any]:
        """As `_each`; raise the errors of all as one."""
        values, errors = self._each(threads, work, may_lapse=may_lapse)
        if errors:
            raise RobotError("; ".join(errors))
        return list(values.values())

    def _each(
        self,
        threads: Sequence[DriverThread],
        work: Callable[[DriverLoop], Any],
        *,
        may_lapse: bool = False,
    ) -> tuple[dict[DriverThread, Any], list[str]]:
        """Run work in these threads, side by side; return values, and errors in words.

        A thread that hangs in its driver is an error after a while. Work that it did not begin
        until then lapses, if it may: torque must not come on when nobody expects it any more.
        Holding and releasing are done whenever it comes back.
        """
        futures = {t: t.submit(lambda loop=t.loop: work(loop)) for t in threads}
        deadline_s = self._clock.now_s() + self._config.order_timeout_s
        while not all(f.done() for f in futures.values()) and self._clock.now_s() < deadline_s:
            self._rest()
        values: dict[DriverThread, Any] = {}
        errors: list[str] = []
        for thread, future in futures.items():
            if not future.done():
                if may_lapse:
                    future.cancel()
                errors.append(
                    f"{thread.loop.name}: its driver gives no answer since "
                    f"{self._config.order_timeout_s:g} s"
                )
            elif error := future.exception():
                errors.append(failure_words(error))
            else:
                values[thread] = future.result()
        return values, errors

    def _wait(self, time_s: float) -> None:
        end_s = self._clock.now_s() + time_s
        while self._clock.now_s() < end_s:
            self._rest()

    def _rest(self) -> None:
        """Let a moment pass, with a sign of life. A hold is obeyed at once; other orders wait."""
        order = self._pipe.next_order(BEAT_S)
        self._beat()
        if order is not None and order[1] == "hold":
            self._follow(*order)
        elif order is not None:
            self._waiting.append(order)

    def _close(self) -> None:
        for thread in self._threads:
            thread.end(self._config.order_timeout_s)


def run_host(pipe: ParentPipe, plan: HostPlan, boxes: HostBoxes) -> None:
    """Run a host until its end; the target of the host's process."""
    # Drivers spin while they wait for a reply; the default of 5 ms would delay the other buses.
    sys.setswitchinterval(0.0005)
    Host(pipe, plan, boxes, WallClock()).run()
