"""World of the bench: buses, physics and the hand of one robot, moved on by time that is given.

It has no process, no port and no clock of its own: the bench's process moves it by the wall clock,
tests by a virtual one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ARM_JOINTS
from imitact.core.errors import BadInput, NotFinite, unknown_name
from imitact.core.types import FloatArray
from imitact.robots.aloha_gripper import LINKAGES, VARIANTS, Command, GripperScale
from imitact.robots.aloha_hardware import JOINT_SERVOS, REST_POSES, START_POSE
from imitact.robots.emulation.arms import (
    aloha_follower_servos,
    aloha_leader_servos,
    koch_follower_servos,
    koch_leader_servos,
    so101_servos,
)
from imitact.robots.emulation.faults import FaultPlan
from imitact.robots.emulation.hand import Hand, Phase
from imitact.robots.emulation.physics import AlohaPhysics, radians_of, ticks_of
from imitact.robots.emulation.servo_bus import BusTruth, ProtocolName, ServoBus
from imitact.robots.emulation.servos import FirstOrderJoints, Joints, ServoModel

KINDS = ("aloha", "so101", "koch", "bi_so")

SETTLED = (0.0, -1.85, 1.578, 0.0, 0.838, 0.0)
"""Six joints in which a limp arm of the scene lies, rad: the rest pose, sunk onto the table."""

_SAG_S = 0.4  # time constant with which a limp leader that nobody holds sinks, s


@dataclass(frozen=True)
class BusSetup:
    """What one bus of a bench consists of.

    Attributes:
        name: "follower_left", "leader_right", ..., as in ALOHA's names of ports.
        protocol: of the wire.
        servos: on the bus.
        joints: what they move; None for joints of first order.
        faults: what goes wrong on it.
    """

    name: str
    protocol: ProtocolName
    servos: tuple[ServoModel, ...]
    joints: Joints | None
    faults: FaultPlan


@dataclass(frozen=True)
class BenchTruth:
    """What a bench really does.

    Attributes:
        now_s: when, on the clock of the bench (the system's monotonic clock).
        buses: by name.
        qpos: coordinates of the scene, as in `AlohaTruth`; joints of the followers in rad where
            there is no scene.
        reward: stage of the task, 0 to 4; 0 where there is no task.
        best_reward: largest reward since the last reset; 4 is success.
        stage: what the reward means, in words.
        hand: what the hand does; empty without one.
        hand_row: where the hand is in its trajectory, in rows.
        lost_s: time that was not simulated because the process did not run, s.
        divergences: times that the simulation diverged and was reset.
    """

    now_s: float
    buses: Mapping[str, BusTruth]
    qpos: NDArray[np.float64]
    reward: int
    best_reward: int
    stage: str
    hand: Phase | str
    hand_row: float
    lost_s: float
    divergences: int

    def joints_rad(self, bus: str) -> NDArray[np.float64]:
        """Return the joint angles of a bus's servos, shadows included, rad."""
        return radians_of([servo.position for servo in self.buses[bus].servos.values()])


class LeaderJoints(FirstOrderJoints):
    """Joints of a leader: limp ones sink to a rest pose unless a hand holds the arm.

    Args:
        rest: ticks; None for a joint that stays where it is.
        others: of `FirstOrderJoints`.
    """

    def __init__(
        self,
        positions: Sequence[float],
        top_speeds: Sequence[float],
        shafts: Sequence[int],
        rest: Sequence[float | None],
    ) -> None:
        super().__init__(positions, top_speeds, shafts)
        self._rest, self._shafts = list(rest), list(shafts)
        self._last_s: float | None = None
        self.is_held = False

    def advance(self, now_s: float, goals: Sequence[float], torque: Sequence[float]) -> None:
        super().advance(now_s, goals, torque)
        dt_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        if self.is_held or dt_s <= 0:
            return
        share = 1.0 - math.exp(-dt_s / _SAG_S)
        driven = {shaft for shaft, used in zip(self._shafts, torque, strict=True) if used > 0}
        for index, (shaft, rest) in enumerate(zip(self._shafts, self._rest, strict=True)):
            if rest is not None and index == shaft and shaft not in driven:
                self.place(index, self.positions[index] + share * (rest - self.positions[index]))


class BenchWorld:
    """Everything behind the ports of a bench.

    Args:
        kind: of `KINDS`.
        task: of the ALOHA scene.
        seed: of the objects' start.
        faults: what goes wrong, by bus.
        gripper: what the hand's gripper values, 0 to 1, are linear in.
        make_bus: makes a bus of its setup.

    Attributes:
        buses: by name, followers first, left first.
    """

    def __init__(
        self,
        kind: str = "aloha",
        *,
        task: str = "cube",
        seed: int = 0,
        faults: FaultPlan | None = None,
        gripper: Command = "fingers",
        make_bus: Callable[[BusSetup], ServoBus] | None = None,
    ) -> None:
        check_faults(kind, faults)
        self.kind = kind
        self._gripper: Command = gripper
        self.physics = AlohaPhysics(task, seed) if kind == "aloha" else None
        self._leaders: dict[str, LeaderJoints] = {}
        setups = self._setups(faults or FaultPlan())
        make_bus = make_bus or plain_bus
        self.buses: dict[str, ServoBus] = {setup.name: make_bus(setup) for setup in setups}
        for setup in setups:
            set_registers(self.buses[setup.name], setup.faults)
        self._leader_servos = self._find_leader_servos()
        self._hand: Hand | None = None
        self._seed, self._best_reward, self._divergences = seed, 0, 0
        self._now_s: float | None = None

    # ------------------------------------------------------------------ what there is

    def _setups(self, faults: FaultPlan) -> list[BusSetup]:
        joints: dict[str, Joints] = {}
        if self.physics is not None:
            stops = VARIANTS["aloha"].follower_rad
            for number, side in enumerate(("left", "right")):
                self.physics.place_arm(number, np.array([*SETTLED, sum(stops) / 2]))
                joints[f"follower_{side}"] = self.physics.arms[number]
                self._leaders[f"leader_{side}"] = _aloha_leader_joints()
        joints |= self._leaders
        return [
            BusSetup(
                name, _protocol(self.kind), tuple(servos), joints.get(name), faults.of_bus(name)
            )
            for name, servos in bus_servos(self.kind).items()
        ]

    @property
    def pose(self) -> NDArray[np.float64]:
        """Coordinates from which cameras draw: of the scene, or the followers' joints in rad."""
        if self.physics is not None:
            return self.physics.qpos
        followers = [bus for name, bus in self.buses.items() if name.startswith("follower")]
        return np.concatenate([radians_of(bus.joints.positions) for bus in followers])

    # ------------------------------------------------------------------ time

    def advance(self, now_s: float) -> None:
        """Let time pass for everything."""
        self.move_hand(now_s)
        for bus in self.buses.values():
            self.advance_bus(lambda bus=bus: bus.advance(now_s))

    def advance_bus(self, advance: Callable[[], object]) -> None:
        """Let time pass for one bus; a simulation that diverges begins anew."""
        try:
            advance()
        except NotFinite:
            assert self.physics is not None
            self._divergences += 1
            self.physics.reset(self._seed)

    def move_hand(self, now_s: float) -> None:
        """Let time pass for the hand, and for the reward of the scene."""
        dt_s = 0.0 if self._now_s is None else max(0.0, now_s - self._now_s)
        self._now_s = now_s
        if self.physics is not None:
            self._best_reward = max(self._best_reward, self.physics.scene.reward())
        for joints in self._leaders.values():
            joints.is_held = self._hand is not None
        if self._hand is None:
            return
        servos = self._leader_servos
        positions = np.array([bus.joints.positions[index] for bus, index in servos])
        limp = np.array([_is_limp(bus, index) for bus, index in servos])
        wanted = self._hand.advance(dt_s, positions, limp)
        for (bus, index), is_limp, position in zip(servos, limp, wanted, strict=True):
            if is_limp:
                bus.move({bus.servos[index].model.id: float(position)})

    def _find_leader_servos(self) -> list[tuple[ServoBus, int]]:
        """Return bus and index of every servo that a hand moves, in the order of its rows."""
        found: list[tuple[ServoBus, int]] = []
        for name, bus in self.buses.items():
            if name.startswith("leader"):
                ids = JOINT_SERVOS if self.kind == "aloha" else [s.model.id for s in bus.servos]
                index = {servo.model.id: number for number, servo in enumerate(bus.servos)}
                found += [(bus, index[servo]) for servo in ids]
        return found

    # ------------------------------------------------------------------ from outside

    def hand(self, trajectory: FloatArray, rate_hz: float, pause_s: float = 0.0) -> None:
        """Let a hand lead the leaders along a trajectory; it replaces one that is there.

        Args:
            trajectory: (T, 14) of ALOHA, left arm first: joints in rad, grippers from 0 to 1, their
                end stops; of other arms (T, 6) or (T, 12), rad from the middle of a servo's turn.
            rate_hz: rows per second.
            pause_s: how long it stays at the first row.

        Raises:
            BadInput: it has another number of columns, or numbers that are not finite.
        """
        rows = np.atleast_2d(np.array(trajectory, np.float64))
        count = len(self._leader_servos)
        if rows.ndim != 2 or rows.shape[1] != count or not np.isfinite(rows).all():
            raise BadInput(
                f"the trajectory of the hand has shape {rows.shape}; expected (T, {count}) finite "
                "numbers, one column for each joint of the leaders"
            )
        squeezed: dict[int, float] = {}
        ticks = ticks_of(rows)
        if self.kind == "aloha":
            scale = leader_gripper(self._gripper)
            # The last ticks before the end stops, so that none reads as beyond 0 or 1.
            closed = float(np.ceil(ticks_of(scale.closed_rad)))
            opened = float(np.floor(ticks_of(scale.open_rad)))
            for column in range(len(ARM_JOINTS) - 1, count, len(ARM_JOINTS)):
                angles = [scale.angle_from_command(float(value)) for value in rows[:, column]]
                ticks[:, column] = np.clip(ticks_of(angles), closed, opened)
                squeezed[column] = closed
        self._hand = Hand(ticks, rate_hz, pause_s=pause_s, squeezed=squeezed)

    def let_go(self) -> None:
        """Take the hand away; ALOHA's limp leaders sink."""
        self._hand = None

    def reset(self, seed: int, *, arms: bool = True, goals: bool = False) -> None:
        """Put the objects to gym-aloha's start of a seed, and the followers to its start pose.

        Args:
            arms: also put the followers there at once; they fall where they are limp, and return to
                their goals where they are not. False leaves them where they are.
            goals: also write the followers' goals to where the arms then are. Otherwise no register
                is touched.
        """
        if self.physics is None:
            raise BadInput(f"a bench of kind {self.kind} has no scene to reset")
        if self._now_s is not None:
            self.advance(self._now_s)
        self._seed, self._best_reward = seed, 0
        if arms:
            self.physics.reset(seed)
        else:
            self.physics.place_objects(seed)
        for name, bus in self.buses.items():
            if name.startswith("follower") and self._now_s is not None:
                bus.advance(self._now_s)
                if goals:
                    for servo in bus.servos:
                        present = bus.get_register(servo.model.id, "present_position")
                        bus.set_register(servo.model.id, "goal_position", present)
                    bus.advance(self._now_s)

    def bus(self, name: str) -> ServoBus:
        """Return a bus by name."""
        if name not in self.buses:
            raise unknown_name("bus of the bench", name, tuple(self.buses))
        return self.buses[name]

    def set_fault(self, bus: str, kind: str, **settings: Any) -> None:
        """Let a fault begin now on one bus, or on every one: bus ""."""
        for one in [self.bus(bus)] if bus else self.buses.values():
            one.set_fault(kind, **settings)

    def clear_faults(self) -> None:
        """End all faults of all buses."""
        for bus in self.buses.values():
            bus.clear_faults()

    def truth(self) -> BenchTruth:
        """Return what everything does, as of the last `advance`."""
        reward = 0 if self.physics is None else self.physics.scene.reward()
        return BenchTruth(
            self._now_s or 0.0,
            {name: bus.truth() for name, bus in self.buses.items()},
            self.pose,
            reward,
            self._best_reward,
            "" if self.physics is None else self.physics.scene.stages[reward],
            "" if self._hand is None else self._hand.phase,
            0.0 if self._hand is None else self._hand.row,
            0.0 if self.physics is None else self.physics.lost_s,
            self._divergences,
        )


def bus_servos(kind: str) -> dict[str, list[ServoModel]]:
    """Return the servos of every bus of a kind of bench, followers first, left first."""
    if kind not in KINDS:
        raise unknown_name("kind of bench", kind, KINDS)
    if kind == "koch":
        return {"follower": koch_follower_servos(), "leader": koch_leader_servos()}
    if kind == "so101":
        return {role: so101_servos() for role in ("follower", "leader")}
    makes = {"follower": aloha_follower_servos, "leader": aloha_leader_servos}
    if kind == "bi_so":
        return {f"{role}_{side}": so101_servos() for role in makes for side in ("left", "right")}
    # As of two arms that were not bought together: by its fingerprint one is told from the other.
    firmware = {"left": 46, "right": 45}
    return {
        f"{role}_{side}": make(
            changes={servo: {"firmware_version": firmware[side]} for servo in range(1, 10)}
        )
        for role, make in makes.items()
        for side in firmware
    }


def check_faults(kind: str, faults: FaultPlan | None) -> None:
    """Refuse a kind of bench that is none, and faults of buses or servos that it does not have."""
    buses = bus_servos(kind)
    if faults is None:
        return
    faults.check({name: [servo.id for servo in servos] for name, servos in buses.items()})
    for name in {one.bus for one in faults.registers}:
        plan = faults.of_bus(name)
        setup = BusSetup(name, _protocol(kind), tuple(buses[name]), None, FaultPlan())
        set_registers(plain_bus(setup), plan)


def set_registers(bus: ServoBus, plan: FaultPlan) -> None:
    """Set up the servos of a bus as a plan says.

    Raises:
        BadInput: a servo or a register is unknown, or a value does not fit.
    """
    for one in plan.registers:
        bus.set_register(one.id, one.name, one.value)


def _protocol(kind: str) -> ProtocolName:
    return "feetech" if kind in ("so101", "bi_so") else "dynamixel"


def plain_bus(setup: BusSetup) -> ServoBus:
    """Return the bus of a setup without a port."""
    return ServoBus(
        setup.protocol,
        setup.servos,
        faults=setup.faults,
        joints=setup.joints,
        has_wire_time=False,
    )


def leader_gripper(command: Command) -> GripperScale:
    """Return the scale of the leaders' grippers: those of the original ALOHA."""
    stops = VARIANTS["aloha"].leader_rad
    assert stops is not None
    return GripperScale(*stops, LINKAGES["wx250s"], command)


def start_pose(gripper: float = 0.1) -> NDArray[np.float64]:
    """Return gym-aloha's start as an action of both arms, (14,), with grippers 0 to 1."""
    return np.array([*START_POSE, gripper] * 2)


def _aloha_leader_joints() -> LeaderJoints:
    servos = aloha_leader_servos()
    ids = [servo.id for servo in servos]
    shafts = [ids.index(s.id if s.same_shaft_as is None else s.same_shaft_as) for s in servos]
    of_joint = [ids.index(servo) for servo in JOINT_SERVOS]  # by joint
    stops = VARIANTS["aloha"].leader_rad
    assert stops is not None
    pose = ticks_of([*REST_POSES["wx250s"], sum(stops) / 2])
    by_shaft = dict(zip(of_joint, pose.tolist(), strict=True))
    positions = [by_shaft[shaft] for shaft in shafts]
    gripper = of_joint[-1]
    rest = [None if shaft == gripper else by_shaft[shaft] for shaft in shafts]
    return LeaderJoints(positions, [_LEADER_TOP_SPEED] * len(servos), shafts, rest)


_LEADER_TOP_SPEED = float(46 / 60 * 4096)  # XM430-W350 without load, ticks/s


def _is_limp(bus: ServoBus, index: int) -> bool:
    model = bus.servos[index].model
    shaft = model.id if model.same_shaft_as is None else model.same_shaft_as
    return not any(
        servo.has_torque
        for servo in bus.servos
        if shaft in (servo.model.id, servo.model.same_shaft_as)
    )
