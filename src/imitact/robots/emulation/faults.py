"""Fault plan: what goes wrong on an emulated bus, when, and for which servos; seeded.

A plan is a list of faults, in Python or in a TOML file:

    seed = 7

    [[fault]]
    kind = "late"
    start_s = 2.0       # since the bus started; 0 by default
    duration_s = 0.5    # to the end by default
    ids = [2, 3]        # all servos by default
    bus = "left"        # every bus by default
    late_s = 0.3        # a parameter of the kind

    [[register]]        # a servo that is set up wrongly from the start
    bus = "follower_right"
    id = 9
    name = "drive_mode"
    value = 1
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import BadInput, unknown_name
from imitact.storage.toml_file import parse_toml, read_toml


@dataclass(frozen=True)
class Parameter:
    """A number that shapes a kind of fault.

    Attributes:
        default: where a plan gives none.
        low: least value.
        high: largest value.
        meaning: one line, with the unit.
    """

    default: float
    low: float
    high: float
    meaning: str


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault.

    Attributes:
        meaning: one line.
        parameters: by name.
        is_event: it happens once, at its start, and has no duration.
        needs_ids: it must name servos.
        has_ids: it concerns servos, rather than the whole bus.
    """

    meaning: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    is_event: bool = False
    needs_ids: bool = False
    has_ids: bool = True


_CHANCE = Parameter(1.0, 0.0, 1.0, "chance for each reply")

FAULT_KINDS: Mapping[str, FaultKind] = {
    "drop": FaultKind("a reply never leaves the servo", {"chance": _CHANCE}),
    "corrupt": FaultKind("a reply has a wrong checksum", {"chance": _CHANCE}),
    "late": FaultKind(
        "every reply waits", {"late_s": Parameter(0.3, 0.0, 10.0, "how long it waits, s")}
    ),
    "late_once": FaultKind(
        "one reply waits",
        {"late_s": Parameter(0.3, 0.0, 10.0, "how long it waits, s")},
        is_event=True,
    ),
    "jitter": FaultKind(
        "every reply waits at random",
        {"jitter_s": Parameter(0.02, 0.0, 10.0, "the longest wait, s")},
    ),
    "noise": FaultKind(
        "bytes that no servo sent precede a reply",
        {"chance": _CHANCE, "bytes": Parameter(3, 1, 64, "how many")},
    ),
    "dead": FaultKind("a servo is unplugged: no reply, no torque", needs_ids=True),
    "silent": FaultKind("the data wire is broken: no servo hears anything", has_ids=False),
    "wrong_baud": FaultKind(
        "servos talk at another rate",
        {"baud": Parameter(57600, 9600, 4_500_000, "the rate, baud")},
    ),
    "hang_up": FaultKind("the adapter goes away, and comes back", has_ids=False),
    "reboot": FaultKind("a servo reboots: its torque and its RAM are lost", is_event=True),
    "stuck": FaultKind("a shaft does not turn", needs_ids=True),
    "stall": FaultKind(
        "something is in the way of a shaft, such as an object between the fingers",
        {
            "position": Parameter(2048, -1e6, 1e6, "where it is, ticks of the joint"),
            "side": Parameter(-1, -1, 1, "-1: it blocks lower positions, 1: higher ones"),
        },
        needs_ids=True,
    ),
    "error": FaultKind(
        "replies carry error bits",
        {"bits": Parameter(0, 0, 255, "of the error byte; 0: alert (Feetech: overload)")},
        needs_ids=True,
    ),
    "overload": FaultKind(
        "a servo shuts down for overload", is_event=True, needs_ids=True
    ),
    "overheat": FaultKind(
        "a servo gets hot, and shuts down at its limit",
        {
            "celsius": Parameter(90, 0, 150, "temperature that it gets to"),
            "rise_s": Parameter(2.0, 0.0, 3600.0, "time that it takes, s"),
        },
        needs_ids=True,
    ),
    "voltage_sag": FaultKind(
        "the supply voltage sags", {"volts": Parameter(9.0, 0.0, 30.0, "to what, V")}
    ),
    "wrap": FaultKind(
        "the measured position jumps by whole turns",
        {"turns": Parameter(1, -100, 100, "how many")},
        needs_ids=True,
    ),
}  # fmt: skip
"""Every kind by name."""

_COMMON = ("kind", "start_s", "duration_s", "ids", "bus")
_TABLES = ("seed", "fault", "register")


@dataclass(frozen=True)
class Fault:
    """One fault of a plan.

    Attributes:
        kind: of `FAULT_KINDS`.
        start_s: since the bus started.
        duration_s: how long it lasts; without effect for kinds that happen once.
        ids: servos that have it; empty for all.
        bus: name of the bus that has it; empty for every bus.
        parameters: numbers of the kind; those not given have their defaults.

    Raises:
        BadInput: a kind or a parameter is unknown, or a value cannot be.
    """

    kind: str
    start_s: float = 0.0
    duration_s: float = math.inf
    ids: tuple[int, ...] = ()
    bus: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise unknown_name("kind of fault", str(self.kind), tuple(FAULT_KINDS))
        kind, where = FAULT_KINDS[self.kind], f"fault {self.kind}"
        start_s = _number(self.start_s, f"{where}: start_s", 0.0, 1e9)
        duration_s = self.duration_s
        if duration_s != math.inf:
            duration_s = _number(duration_s, f"{where}: duration_s", 0.0, 1e9)
        ids = self.ids
        if isinstance(ids, str) or not isinstance(ids, Sequence):
            raise BadInput(f"{where}: ids is {ids!r}; expected a list of servo ids")
        for servo in ids:
            if isinstance(servo, bool) or not isinstance(servo, int) or not 0 <= servo <= 252:
                raise BadInput(f"{where}: {servo!r} is no servo id; expected 0 to 252")
        if kind.needs_ids and not ids:
            raise BadInput(f"{where}: ids is missing; name the servos that have it")
        if ids and not kind.has_ids:
            raise BadInput(f"{where}: it concerns the whole bus; leave ids out")
        if not isinstance(self.bus, str):
            raise BadInput(f"{where}: bus is {self.bus!r}; expected the name of a bus")
        values = {name: one.default for name, one in kind.parameters.items()}
        for name, value in self.parameters.items():
            if name not in values:
                raise unknown_name(f"setting of {where}", name, (*_COMMON, *values))
            one = kind.parameters[name]
            values[name] = _number(value, f"{where}: {name}", one.low, one.high)
        object.__setattr__(self, "start_s", start_s)
        object.__setattr__(self, "duration_s", duration_s)
        object.__setattr__(self, "ids", tuple(ids))
        object.__setattr__(self, "parameters", values)

    @property
    def end_s(self) -> float:
        return self.start_s if FAULT_KINDS[self.kind].is_event else self.start_s + self.duration_s

    def concerns(self, servo: int) -> bool:
        """Whether a servo has it."""
        return not self.ids or servo in self.ids


@dataclass(frozen=True)
class RegisterValue:
    """A register of a servo that is set up otherwise from the start.

    Attributes:
        bus: name of the bus.
        id: of the servo.
        name: of the register, as in the control table of the emulation: "homing_offset".
        value: what is in it.

    Raises:
        BadInput: a value is of another type.
    """

    bus: str
    id: int
    name: str
    value: int

    def __post_init__(self) -> None:
        for name, value in (("bus", self.bus), ("name", self.name)):
            if not isinstance(value, str) or not value:
                raise BadInput(f"register: {name} is {value!r}; expected a name")
        for name, value in (("id", self.id), ("value", self.value)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise BadInput(f"register {self.name}: {name} is {value!r}; expected an integer")


@dataclass(frozen=True)
class FaultPlan:
    """Faults of a bus or of several, with the seed of everything that is random in them.

    Attributes:
        faults: what goes wrong, and when.
        seed: of the random numbers.
        registers: what is set up wrongly from the start.
    """

    faults: tuple[Fault, ...] = ()
    seed: int = 0
    registers: tuple[RegisterValue, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise BadInput(f"fault plan: seed is {self.seed!r}; expected 0, 1, 2, ...")
        object.__setattr__(self, "faults", tuple(self.faults))

    def of_bus(self, bus: str) -> FaultPlan:
        """Return the faults of one bus."""
        return FaultPlan(
            tuple(f for f in self.faults if f.bus in ("", bus)),
            self.seed,
            tuple(one for one in self.registers if one.bus == bus),
        )

    def check(self, buses: Mapping[str, Iterable[int]]) -> None:
        """Refuse a plan that names a bus or a servo that is not there.

        Args:
            buses: servo ids by the name of the bus.
        """
        ids = {name: set(servos) for name, servos in buses.items()}
        for one in self.registers:
            if one.bus not in ids:
                raise unknown_name(f"bus of register {one.name}", one.bus, tuple(ids))
        for fault in self.faults:
            if fault.bus and fault.bus not in ids:
                raise unknown_name(f"bus of fault {fault.kind}", fault.bus, tuple(ids))
            known = ids[fault.bus] if fault.bus else set().union(*ids.values())
            for servo in fault.ids:
                if servo not in known:
                    raise BadInput(
                        f"fault {fault.kind}: there is no servo {servo}"
                        f"{' on bus ' + fault.bus if fault.bus else ''}; expected one of "
                        f"{', '.join(map(str, sorted(known)))}"
                    )

    @classmethod
    def draw(
        cls,
        seed: int,
        ids: Sequence[int],
        *,
        kinds: Sequence[str] = tuple(FAULT_KINDS),
        count: int = 1,
        begin_s: float = 0.0,
        end_s: float = 1.0,
        longest_s: float = 0.5,
    ) -> FaultPlan:
        """Return a plan of random faults; the same seed gives the same plan.

        Args:
            ids: the servos of the bus.
            count: number of faults.
            begin_s: earliest start.
            end_s: latest start.
            longest_s: longest duration.
        """
        rng = np.random.default_rng(seed)
        faults: list[Fault] = []
        for _ in range(count):
            name = kinds[int(rng.integers(len(kinds)))]
            if name not in FAULT_KINDS:
                raise unknown_name("kind of fault", name, tuple(FAULT_KINDS))
            start_s = float(rng.uniform(begin_s, end_s))
            duration_s = float(rng.uniform(0.0, longest_s))
            servo = int(ids[int(rng.integers(len(ids)))])
            one = (servo,) if FAULT_KINDS[name].has_ids else ()
            faults.append(Fault(name, start_s, duration_s, one))
        return cls(tuple(faults), seed)

    @classmethod
    def from_toml(cls, text: str, where: str = "fault plan") -> FaultPlan:
        """Return the plan of a TOML text.

        Raises:
            BadInput: it is no TOML, or a name or a value is none of a plan.
        """
        return cls._of(parse_toml(text, where), where)

    @classmethod
    def _of(cls, given: dict[str, Any], where: str) -> FaultPlan:
        for key in given:
            if key not in _TABLES:
                raise unknown_name(f"key of {where}", key, _TABLES)
        tables = {name: given.get(name, []) for name in _TABLES[1:]}
        for name, entries in tables.items():
            if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
                raise BadInput(f"{where}: write each {name} below a line [[{name}]]")
        try:
            return cls(
                tuple(_fault(entry) for entry in tables["fault"]),
                given.get("seed", 0),
                tuple(_register(entry) for entry in tables["register"]),
            )
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: Path) -> FaultPlan:
        """Return the plan of a TOML file."""
        return cls._of(read_toml(path, "fault plan"), str(path))

    def to_toml(self) -> str:
        """Return the plan as the text that `from_toml` reads."""
        lines = [f"seed = {self.seed}"]
        for fault in self.faults:
            lines += ["", "[[fault]]", f'kind = "{fault.kind}"', f"start_s = {fault.start_s!r}"]
            if fault.duration_s != math.inf:
                lines.append(f"duration_s = {fault.duration_s!r}")
            if fault.ids:
                lines.append(f"ids = {list(fault.ids)}")
            if fault.bus:
                lines.append(f"bus = {_toml_text(fault.bus)}")
            lines += [f"{name} = {value!r}" for name, value in fault.parameters.items()]
        for one in self.registers:
            lines += ["", "[[register]]", f"bus = {_toml_text(one.bus)}", f"id = {one.id}"]
            lines += [f"name = {_toml_text(one.name)}", f"value = {one.value}"]
        return "\n".join(lines) + "\n"


def _register(entry: dict[str, Any]) -> RegisterValue:
    keys = ("bus", "id", "name", "value")
    for key in entry:
        if key not in keys:
            raise unknown_name("key of a register", key, keys)
    if missing := [key for key in keys if key not in entry]:
        raise BadInput(f"a register has no {', no '.join(missing)}")
    return RegisterValue(**entry)


def _fault(entry: dict[str, Any]) -> Fault:
    if "kind" not in entry:
        raise BadInput(f"a fault has no kind; expected {', '.join(FAULT_KINDS)}")
    common = {name: entry[name] for name in _COMMON if name in entry}
    parameters = {name: value for name, value in entry.items() if name not in _COMMON}
    return Fault(**common, parameters=parameters)


def _number(value: object, what: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{what} is {value!r}; expected a number")
    if not low <= value <= high:
        raise BadInput(f"{what} is {value:g}; expected {low:g} to {high:g}")
    return value


def _toml_text(text: str) -> str:
    # A TOML basic string takes JSON's escapes, and json.dumps writes nothing else.
    import json

    return json.dumps(text)
