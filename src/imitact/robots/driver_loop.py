"""Driver loop: one driver's periods of read, send and check, and what it does where they fail.

A period never raises. It keeps the last command that was sent wherever it does not follow: after
missed reads, without new commands (watchdog), when told to hold, and after the driver was replaced.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.clock import Clock
from imitact.core.errors import RobotError, library_words
from imitact.core.robot import WATCHDOG_S, Driver, ServoHealth
from imitact.parallel.mailbox import Mailbox
from imitact.robots.hosted import DriverBoxes, HostedDriver
from imitact.robots.rest_ramp import RestRamp, held_lag, park_speeds, parking_start
from imitact.robots.robot_finding import words_at

RELEASE_ATTEMPTS = 3
"""How often the torque is turned off before the servos that do not answer are reported."""

RELEASE_PAUSE_S = 0.1
"""Time between those attempts, s."""

DRIVER_FAILURES = (Exception, SystemExit)
"""What a driver may raise: termios.error and StopIteration are no OSError, and scripts exit."""


@dataclass(frozen=True)
class LoopConfig:
    """Settings of a driver loop."""

    rate_hz: float = 100.0
    """Periods per second; a period that takes longer skips those it was late for."""
    missed_reads: int = 3
    """Periods in a row without an answer that are tolerated; from the next on the robot holds."""
    watchdog_s: float = WATCHDOG_S
    """Time without a new command after which the robot stops following and holds, s."""
    reopen_after_s: float = 1.0
    """Time of missed reads after which the driver is replaced by a new one, s."""
    reopen_every_s: float = 1.0
    """Time between attempts to open a new driver, s."""
    park_speed: float = 1.0
    """Speed of parking, as a factor of 0.3 rad/s."""
    park_lag_s: float = 0.6
    """How far a joint may be behind while parking, as the time of travel at its speed, s."""
    park_blocked_s: float = 0.5
    """Time beyond that lag after which parking stops, s."""


class Mode(enum.Enum):
    """What a driver does with commands."""

    LIMP = "no torque"
    FOLLOWING = "following"
    HOLDING = "holding"
    PARKING = "parking"


class DriverLoop:
    """The periods of one driver. All methods but `__init__` belong to its one thread."""

    def __init__(
        self,
        hosted: HostedDriver,
        boxes: DriverBoxes,
        clock: Clock,
        config: LoopConfig,
        command: Mailbox | None = None,
        columns: slice | None = None,
        *,
        energised: bool = False,
    ) -> None:
        """Prepare the loop; `open` opens the driver.

        Args:
            hosted: what to drive.
            boxes: mailboxes to post to.
            clock: of all times.
            config: settings.
            command: mailbox of the robot's commands; None for a leader.
            columns: of the command that are this driver's.
            energised: whether the torque may be on already, from a host that was killed.
        """
        self.name = hosted.name
        self.rest = None if hosted.rest is None else np.asarray(hosted.rest, np.float64)
        self.mode = Mode.HOLDING if energised else Mode.LIMP
        self.parked = False
        self._hosted, self._boxes, self._clock, self._config = hosted, boxes, clock, config
        self._command = command
        self._columns = columns if columns is not None else slice(None)
        self._driver: Driver | None = None
        self._health: dict[str, ServoHealth] = {}
        self._torque_is_sure = False
        self._why_held = "the host was started anew; enable the robot to go on" if energised else ""
        self._broken = ""  # why there are no readings
        self._posted_fault: str | None = None
        self._missed, self._missed_since_s = 0, 0.0
        self._last_open_s = -np.inf
        self._ignored = 0  # number of the newest command that came before the robot was enabled
        self._sent = 0  # number of the newest command that was sent
        self._measured: NDArray[np.float64] | None = None
        mail = boxes.sent.read() if energised else None
        is_known = mail is not None and bool(np.all(np.isfinite(mail.values)))
        self._last: NDArray[np.float64] | None = mail.values if mail and is_known else None
        self._parking: RestRamp | None = None

    @property
    def is_leader(self) -> bool:
        return self._command is None

    @property
    def fault(self) -> str:
        """Why the robot does not follow; empty while it does."""
        if self._broken:
            return f"{self.name}: {self._broken}"
        if self.is_leader or (self.mode is Mode.FOLLOWING and not self._why_held):
            return ""
        why = self._why_held or ("no torque" if self.mode is Mode.LIMP else self.mode.value)
        return f"{self.name}: {why}"

    def open(self) -> None:
        """Open the driver, and read once.

        Raises:
            RobotError: it cannot be opened; it is closed again.
        """
        driver: Driver | None = None
        try:
            driver = self._hosted.make()
            driver.connect()
            self._hosted.spec.check_same(
                driver.spec,
                f"the driver of {self.name}",
                "the robot's description",
                parts=("state names", "action names", "state units", "action units"),
            )
            self._driver = driver
            self._read()
        except DRIVER_FAILURES as error:
            self._driver = None
            if driver is not None:
                self._close(driver)
            raise RobotError(f"{self.name}: {words_at(self.name, failure_words(error))}") from error
        finally:
            self._last_open_s = self._clock.now_s()
        self._missed, self._broken = 0, ""
        self._post_fault()

    def step(self) -> None:
        """Run one period."""
        if self._driver is None:
            self._reopen()
        else:
            has_read, has_written = self._tried(self._read), self.is_leader
            # Some reads may miss, and commands still go out; then the servos hold the last one.
            may_write = has_read or self._missed <= self._config.missed_reads
            if not self.is_leader and may_write and self._driver is not None:
                has_written = self._tried(self._write)
            if has_read and has_written:
                self._missed, self._broken = 0, ""
                self._check()
        self._post_fault()

    def report(self, error: Exception) -> None:
        """Say that a period was cut short by an error of its own; the servos hold."""
        self._broken = f"a period failed: {type(error).__name__}: {library_words(error)}"
        self._post_fault()

    def enable(self) -> None:
        """Follow the commands given from now on, with torque.

        The driver turns it on where it is not surely on, where its calls fail, and where a servo
        reports an error, such as one that restarted: it may refuse commands until then.

        Raises:
            RobotError: the driver refuses; the torque of this arm may be on in part.
        """
        self._present_driver()
        is_well = not any(servo.errors for servo in self._health.values())
        if not self._torque_is_sure or self._missed or not is_well:
            self._turn_on()
            self._take_over()
        self._ignored = self._newest_command()
        self._sent = self._ignored
        self.parked, self._why_held, self._parking = False, "", None
        self.mode = Mode.FOLLOWING
        self._post_fault()

    def _take_over(self) -> None:
        """Take for the last command what the servos hold now, and post it as sent.

        A servo that kept its torque keeps its goal: the last command, which its joint is close to.
        Any other got the goal where it is; where that is not measured, NaN is posted.
        """
        try:
            self._read()
        except DRIVER_FAILURES as error:
            raise RobotError(f"{self.name}: {words_at(self.name, failure_words(error))}") from error
        measured = self._measured_action()
        if measured is None:
            unknown = np.full(self._hosted.spec.action_size, np.nan)
            self._last = None
            self._boxes.sent.post(unknown, -1.0, self._clock.now_s())
            return
        if self._last is not None:
            near = held_lag(self._hosted.spec.action_units)
            measured = np.where(np.abs(self._last - measured) <= near, self._last, measured)
        self._last = measured
        self._boxes.sent.post(measured, -1.0, self._clock.now_s())

    def hold(self, why: str = "told to hold") -> None:
        """Stop following, and keep the last command that was sent."""
        if self.mode is not Mode.LIMP:
            self.mode, self._why_held, self._parking = Mode.HOLDING, why, None
        self._post_fault()

    def start_parking(self) -> float:
        """Begin the way to the rest pose; return how long it takes, s.

        A joint starts at its last command where it is there, else where it is measured.

        Raises:
            RobotError: no rest pose is known, the torque is off, or nothing was measured.
        """
        if self.rest is None:
            raise RobotError(
                f"{self.name}: no rest pose is known; support the arm by hand and release it"
            )
        if self.mode is Mode.LIMP:
            raise RobotError(f"{self.name}: no torque, so it cannot be parked; enable it first")
        self._present_driver()
        config = self._config
        try:
            speeds = park_speeds(self._hosted.spec.action_units, config.park_speed)
            start = parking_start(
                self._hosted.spec,
                self._last,
                self._measured_action(),
                speeds * config.park_lag_s,
                may_have_fallen=not self._torque_is_sure,
            )
        except RobotError as error:
            raise RobotError(f"{self.name}: {error}") from None
        if not self._torque_is_sure:
            self._turn_on()
        self.mode, self._why_held, self.parked = Mode.PARKING, "", False
        self._parking = RestRamp(
            self._hosted.spec,
            start,
            self.rest,
            speeds,
            self._clock.now_s(),
            lag_s=config.park_lag_s,
            blocked_s=config.park_blocked_s,
        )
        self._post_fault()
        return self._parking.duration_s

    @property
    def parking_failure(self) -> str | None:
        """None while it parks; then why the rest pose was not reached, empty where it was."""
        if self.mode is Mode.PARKING:
            return None
        return "" if self.parked else f"{self.name}: {self._why_held or self._broken}"

    def release(self) -> tuple[str, ...]:
        """Turn the torque off; return the joints that did not answer, in words.

        A failed driver is opened anew for it where that changes no torque. One whose checks fail,
        as on a bus that loses answers, is told to release all the same: servos obey a request
        whose receipt is lost.
        """
        missing: tuple[str, ...] = ()
        for _ in range(RELEASE_ATTEMPTS):
            try:
                missing = self._released()
            except DRIVER_FAILURES as error:
                missing = (f"{self.name} ({failure_words(error)})",)
                if not isinstance(error, RobotError):
                    self._replace()
            if not missing:
                break
            self._clock.wait_until(self._clock.now_s() + RELEASE_PAUSE_S)
        self.mode, self._torque_is_sure, self._last = Mode.LIMP, False, None
        self.parked, self._parking = False, None
        answer = f"no answer to the release of {', '.join(missing)}: it may still hold"
        self._why_held = answer if missing else ""
        self._post_fault()
        return missing

    def _released(self) -> tuple[str, ...]:
        if self._driver is None and self._hosted.reopens:
            try:
                self.open()
            except RobotError:
                unchecked = self._hosted.make()
                try:
                    return tuple(unchecked.release())
                finally:
                    self._close(unchecked)
        return tuple(self._present_driver().release())

    def close(self) -> None:
        """Close the driver; no torque changes."""
        if self._driver is not None:
            self._close(self._driver)
            self._driver = None

    def _read(self) -> None:
        driver = self._present_driver()
        begin_s = self._clock.now_s()
        values = np.asarray(driver.read(), np.float64)
        end_s = self._clock.now_s()
        self._hosted.spec.check_state(values, f"read of {self.name}")
        self._boxes.state.post(values, begin_s, end_s)
        self._measured = values

    def _write(self) -> None:
        """Send what the mode asks for."""
        if self.mode is Mode.FOLLOWING:
            self._follow()
        elif self._parking is not None:
            self._park_on(self._parking)
        elif self._torque_is_sure and self._last is not None:
            self._present_driver().write(self._last)

    def _follow(self) -> None:
        """Send the newest command, or the last one again where there is no new one."""
        assert self._command is not None
        mail = self._command.read()
        if mail is None or mail.sequence <= self._ignored:
            return  # enabled, and no command yet
        age_s = self._clock.now_s() - mail.times[1]
        wanted = mail.values[self._columns]
        if age_s > self._config.watchdog_s:
            self._why_held = f"no new command since {self._config.watchdog_s:g} s; it holds"
        elif not np.all(np.isfinite(wanted)):
            self._why_held = "the newest command is not finite; it holds"
        else:
            self._why_held = ""
        if not self._why_held:
            sent = self._written(wanted)
            if mail.sequence != self._sent:
                self._sent = mail.sequence
                self._boxes.sent.post(sent, mail.times[0], self._clock.now_s())
        elif self._last is not None:
            self._present_driver().write(self._last)

    def _park_on(self, ramp: RestRamp) -> None:
        now_s = self._clock.now_s()
        asked = ramp.next(now_s, 2 / self._config.rate_hz)
        sent = self._written(asked)
        self._boxes.sent.post(sent, -1.0, self._clock.now_s())
        if blocked := ramp.blocked(asked, self._measured_action(), now_s):
            self.hold(f"parking stopped: {blocked}")
        elif ramp.is_done:
            self.hold("parked")
            self.parked = True

    def _written(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        sent = np.asarray(self._present_driver().write(action), np.float64)
        self._hosted.spec.check_action(sent, f"command sent to {self.name}")
        self._last = action.copy()
        return sent

    def _check(self) -> None:
        """Ask one servo for its health; one that does not answer keeps its old health.

        No failure counts here: the age of the health shows it, and reads fail too where the driver
        is at its end.
        """
        try:
            joint, health = self._present_driver().check_next()
        except DRIVER_FAILURES:
            return
        self._health[joint] = health
        self._boxes.post_health(self._health)

    def _tried(self, work: Callable[[], None]) -> bool:
        """Run a part of a period; return whether it succeeded."""
        try:
            work()
        except DRIVER_FAILURES as error:
            self._failed(error)
            return False
        return True

    def _failed(self, error: BaseException) -> None:
        now_s = self._clock.now_s()
        if not self._missed:
            self._missed_since_s = now_s
        self._missed += 1
        is_own = isinstance(error, RobotError)
        if self._missed > self._config.missed_reads or not is_own:
            self._broken = f"{self._missed} periods failed, the last with: {failure_words(error)}"
            if self._parking is not None and not is_own:
                self.hold("parking stopped: the driver failed")
        if not is_own or now_s - self._missed_since_s > self._config.reopen_after_s:
            self._replace()

    def _replace(self) -> None:
        """Give the driver up for a new one, where opening one changes no torque."""
        if not self._hosted.reopens or self._driver is None:
            return
        self._close(self._driver)
        self._driver, self._torque_is_sure = None, False
        self.hold("its driver was opened anew; enable the robot to go on")

    def _reopen(self) -> None:
        if self._clock.now_s() - self._last_open_s < self._config.reopen_every_s:
            return
        try:
            self.open()
        except RobotError as error:
            text = str(error).removeprefix(f"{self.name}: ")
            self._broken = f"the driver cannot be opened again: {text}"

    def _turn_on(self) -> None:
        """Turn the torque on; it and the goals stay as they are where it is on."""
        driver = self._present_driver()
        try:
            driver.enable()
        except DRIVER_FAILURES as error:
            raise RobotError(f"{self.name}: {words_at(self.name, failure_words(error))}") from error
        self._torque_is_sure = True

    def _present_driver(self) -> Driver:
        if self._driver is None:
            raise RobotError(f"{self.name}: {self._broken or 'the driver is not open'}")
        return self._driver

    def _newest_command(self) -> int:
        return 0 if self._command is None else self._command.newest

    def _measured_action(self) -> NDArray[np.float64] | None:
        """Return the newest measured values of the commanded joints; None where one has none."""
        spec = self._hosted.spec
        if self._measured is None or not set(spec.action_names) <= set(spec.state_names):
            return None
        return self._measured[[spec.state_names.index(name) for name in spec.action_names]]

    def _close(self, driver: Driver) -> None:
        try:
            driver.close()
        except DRIVER_FAILURES as error:
            self._broken = f"closing the driver failed: {failure_words(error)}"

    def _post_fault(self) -> None:
        fault = self.fault
        if fault != self._posted_fault:
            self._boxes.fault.post(fault)
            self._posted_fault = fault


def failure_words(error: BaseException) -> str:
    """Return what a driver raised as a part of a sentence; foreign errors with their type."""
    words = library_words(error)
    kind = type(error).__name__
    return words if isinstance(error, RobotError) or words == kind else f"{kind}: {words}"
