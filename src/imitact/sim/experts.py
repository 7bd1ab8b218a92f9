"""A scripted demonstrator of the cube transfer that varies from one episode to the next as people do.

The plan is made once, at the first tick, from the cube's true pose: every hand follows a sum of
overlapping minimum-jerk movements of the point between its fingertips (the way human reaches
compose: Flash and Henis 1991, doi:10.1162/jocn.1991.3.3.220), and mink turns each tick's two hand
poses into joint targets. Nothing is corrected afterwards: what the policy is to imitate is a
function of what it can see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.contract import BadInput, FloatArray, Observation, Policy, Spec
from imitact.sim.aloha import (
    JOINTS,
    RATE_HZ,
    UNITS,
    Truth,
    assets,
    load_mujoco,
)

SPEED_LIMIT = math.pi
"""rad/s, of every joint of the vx300s (Interbotix' specification)."""

# Where the gripper links' x axis passes between the fingertips, in m from the link: the fingers'
# meshes end at 0.1537, and 1 cm of them reaches past the middle of what is held.
_TIP_M = 0.1437

# Half the gap between the arms' fingers fully open is 34.6 mm, the cube's half edge 20 mm.
_X, _Y, _Z, _YAW, _PITCH, _ROLL, _GRIPPER = range(7)
_OPEN, _CLOSED = 1.0, 0.0


def minimum_jerk(s: FloatArray) -> FloatArray:
    """0 to 1 with no speed and no acceleration at either end (Flash and Hogan 1985)."""
    s = np.clip(s, 0.0, 1.0)
    return s**3 * (10.0 - 15.0 * s + 6.0 * s**2)


@dataclass
class _Hand:
    """Where one hand is to be, tick by tick: a start pose plus a sum of movements.

    A pose is (x, y, z in m; yaw, pitch, roll in rad; gripper 0 to 1). Yaw turns about the
    vertical away from the arm's forward direction, a positive pitch points down, roll turns
    about the fingers' direction.
    """

    start: NDArray[np.float64]
    ticks: int
    path: NDArray[np.float64] = field(init=False)
    goal: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.path = np.tile(self.start, (self.ticks, 1))
        self.goal = self.start.copy()

    def move(
        self,
        begin: float,
        duration: float,
        to: dict[int, float],
        arc: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Add a movement to new values of some channels, bowed by `arc` m at its middle.

        A movement that begins before the last one has ended blends into it.
        """
        s = minimum_jerk((np.arange(self.ticks) - begin) / duration)
        for channel, value in to.items():
            self.path[:, channel] += (value - self.goal[channel]) * s
            self.goal[channel] = value
        self.path[:, :3] += np.outer(4.0 * s * (1.0 - s), arc)


class _Kinematics:
    """Joint targets from hand poses, by mink in the joint-space scene without the cube."""

    _ITERATIONS = 2

    def __init__(self) -> None:
        mj = load_mujoco()
        import mink

        self._mink = mink
        scene = mj.MjSpec.from_file(str(assets() / "bimanual_viperx_transfer_cube.xml"))
        for key in list(scene.keys):
            scene.delete(key)
        scene.delete(scene.body("box"))
        for side in ("left", "right"):
            link = scene.body(f"vx300s_{side}/gripper_link")
            link.add_site(name=f"{side}_tip", pos=[_TIP_M, 0.0, 0.0])
        self._model: Any = scene.compile()
        self._tips = {
            side: mink.FrameTask(
                frame_name=f"{side}_tip",
                frame_type="site",
                position_cost=1.0,
                orientation_cost=0.1,
                lm_damping=1e-4,
            )
            for side in ("left", "right")
        }
        # Forearm roll and wrist rotation line up in a straight wrist; the posture decides there.
        posture = np.full(self._model.nv, 1e-3)
        self._posture = mink.PostureTask(self._model, cost=posture)
        joints = [
            f"vx300s_{side}/{name}"
            for side in ("left", "right")
            for name in (
                "waist",
                "shoulder",
                "elbow",
                "forearm_roll",
                "wrist_angle",
                "wrist_rotate",
            )
        ]
        self._limits = [
            mink.ConfigurationLimit(self._model),
            mink.VelocityLimit(self._model, {name: 0.9 * SPEED_LIMIT for name in joints}),
        ]
        self._base_yaw = {"left": 0.0, "right": math.pi}

    def start(self, qpos: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The hand poses of a joint configuration, gripper left at 0."""
        configuration = self._mink.Configuration(self._model, qpos)
        poses = {}
        for side in ("left", "right"):
            frame = configuration.get_transform_frame_to_world(f"{side}_tip", "site")
            forward = frame.rotation().as_matrix()[:, 0]
            pitch = -math.asin(float(np.clip(forward[2], -1.0, 1.0)))
            poses[side] = np.array([*frame.translation(), 0.0, pitch, 0.0, 0.0])
        return poses

    def solve(
        self, qpos: NDArray[np.float64], hands: dict[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """(T, 14) joint targets that carry both hands along their (T, 7) paths."""
        mink = self._mink
        configuration = mink.Configuration(self._model, qpos)
        self._posture.set_target(qpos)
        tasks = [*self._tips.values(), self._posture]
        dt = 1.0 / RATE_HZ / self._ITERATIONS
        ticks = len(hands["left"])
        targets = np.empty((ticks, 14))
        for tick in range(ticks):
            for side, task in self._tips.items():
                pose = hands[side][tick]
                rotation = (
                    mink.SO3.from_z_radians(self._base_yaw[side] + pose[_YAW])
                    @ mink.SO3.from_y_radians(pose[_PITCH])
                    @ mink.SO3.from_x_radians(pose[_ROLL])
                )
                task.set_target(mink.SE3.from_rotation_and_translation(rotation, pose[:3].copy()))
            for _ in range(self._ITERATIONS):
                velocity = mink.solve_ik(
                    configuration, tasks, dt, solver="daqp", damping=1e-6, limits=self._limits
                )
                configuration.integrate_inplace(velocity, dt)
            targets[tick, 0:6] = configuration.q[0:6]
            targets[tick, 7:13] = configuration.q[8:14]
        targets[:, 6] = hands["left"][:, _GRIPPER]
        targets[:, 13] = hands["right"][:, _GRIPPER]
        return targets


@dataclass(frozen=True)
class _Phase:
    """Mean duration in ticks; and by how many ticks it begins before the one before it ends."""

    ticks: float
    overlap: float = 0.0


# The right hand's phases up to the hand-over, then the exchange. In all about 280 ticks, so that
# the slowest episode (+15 %) is over by tick 330 of 400.
_PHASES = {
    "reach": _Phase(80.0),
    "descend": _Phase(42.0, overlap=10.0),
    "grasp": _Phase(20.0, overlap=6.0),
    "carry": _Phase(66.0, overlap=5.0),
    "approach": _Phase(40.0, overlap=12.0),
    "take": _Phase(20.0, overlap=6.0),
    "release": _Phase(18.0, overlap=3.0),
    "retreat": _Phase(42.0, overlap=8.0),
}

_DURATION = 0.15  # of a phase, either way, at spread 1
_GRASP_M = 0.008
_GRASP_RAD = math.radians(10.0)
_VIA_M = 0.02
# One person's haste shows in all phases; this share of a duration's deviation is the episode's.
_TEMPO = 0.75

_MEET = np.array([0.0, 0.5, 0.25])
_STAND_OFF_M = 0.09


class CubeExpert:
    """Scripted cube transfer: grasp with the right arm, hand over to the left, let go, stand back.

    spread: 1 varies phase durations by +-15 %, both grasps by +-8 mm and +-10 degrees and
            via-points by +-2 cm, all uniform and all from the episode's seed; 0 is the mean
            trajectory, 2 deviates twice as far.

    Needs Observation.privileged of the cube task at the first chunk() of an episode and nothing
    afterwards. K = 1: each chunk() is the next tick; reset(seed) begins an episode. `variation`
    holds the deviations of the episode by name, with the unit in the name.
    """

    def __init__(self, spread: float = 1.0) -> None:
        if not (math.isfinite(spread) and 0.0 <= spread <= 2.0):
            raise BadInput(f"spread is {spread}; expected 0 (no variation) to 2 (twice the usual)")
        self.spread = spread
        self.variation: dict[str, float] = {}
        self._spec = Spec(JOINTS, JOINTS, UNITS, UNITS, (), RATE_HZ)
        self._kinematics: _Kinematics | None = None
        self._plan: NDArray[np.float64] | None = None
        self._tick = 0

    @property
    def spec(self) -> Spec:
        return self._spec

    def reset(self, seed: int) -> None:
        """Draw the episode's deviations from `seed`."""
        self.variation = self._draw(np.random.default_rng(seed))
        self._plan = None
        self._tick = 0

    def chunk(self, observation: Observation) -> FloatArray:
        """(1, 14) joint targets of the next tick; after the plan's end, its last ones."""
        if self._plan is None:
            truth = observation.privileged
            if not isinstance(truth, Truth) or truth.task != "cube":
                raise BadInput(
                    "the cube expert plans from the true cube pose, but the observation holds "
                    f"privileged={type(truth).__name__}; run it on AlohaEnv('cube')"
                )
            if not self.variation:
                raise BadInput("chunk() before reset(); call reset(seed) first")
            self._plan = self._make_plan(truth, observation.state)
            self._tick = 0
        action = self._plan[min(self._tick, len(self._plan) - 1)]
        self._tick += 1
        return action[None].copy()

    def _draw(self, rng: np.random.Generator) -> dict[str, float]:
        spread = self.spread

        def uniform(limit: float) -> float:
            return float(rng.uniform(-1.0, 1.0)) * limit * spread

        drawn: dict[str, float] = {}
        # Uniform over +-15 % each, correlated through a Gaussian copula.
        tempo = rng.normal()
        for name in _PHASES:
            z = math.sqrt(_TEMPO) * tempo + math.sqrt(1.0 - _TEMPO) * rng.normal()
            drawn[f"{name}_duration_ratio"] = _DURATION * spread * math.erf(z / math.sqrt(2.0))
        for hand in ("grasp", "take"):
            for axis in "xyz":
                drawn[f"{hand}_d{axis}_m"] = uniform(_GRASP_M)
            for angle in ("yaw", "pitch"):
                drawn[f"{hand}_{angle}_rad"] = uniform(_GRASP_RAD)
        for via in ("reach", "carry", "meet", "stage", "retreat"):
            for axis in "xyz":
                drawn[f"{via}_via_d{axis}_m"] = uniform(_VIA_M)
        return drawn

    def _make_plan(self, truth: Truth, state: FloatArray) -> NDArray[np.float64]:
        v = self.variation
        if self._kinematics is None:
            self._kinematics = _Kinematics()
        qpos = truth.qpos[:16].copy()
        cube = truth.pose()[:3].copy()
        cube[2] = 0.02  # it starts 3 cm above the table and drops

        begin: dict[str, float] = {}
        length: dict[str, float] = {}
        now = 0.0
        for name, phase in _PHASES.items():
            length[name] = phase.ticks * (1.0 + v[f"{name}_duration_ratio"])
            begin[name] = now - phase.overlap
            now = begin[name] + length[name]
        begin["reach"] = 0.0

        def via(name: str) -> NDArray[np.float64]:
            return np.array([v[f"{name}_via_d{axis}_m"] for axis in "xyz"])

        def offset(name: str) -> NDArray[np.float64]:
            return np.array([v[f"{name}_d{axis}_m"] for axis in "xyz"])

        ticks = math.ceil(now) + 1
        start = self._kinematics.start(qpos)
        start["left"][_GRIPPER] = state[6]
        start["right"][_GRIPPER] = state[13]
        right, left = _Hand(start["right"], ticks), _Hand(start["left"], ticks)

        # Right: over the cube with the fingers wide open, straight down along them, close.
        yaw, pitch = v["grasp_yaw_rad"], math.radians(58.0) + v["grasp_pitch_rad"]
        along = np.array(
            [-math.cos(yaw) * math.cos(pitch), -math.sin(yaw) * math.cos(pitch), -math.sin(pitch)]
        )
        grasp = cube + [0.0, 0.0, 0.006] + offset("grasp")
        grasp[2] = max(grasp[2], 0.018)  # fingertips stay clear of the table
        above = grasp - _STAND_OFF_M * along
        right.move(0.0, 0.7 * length["reach"], {_GRIPPER: _OPEN})
        right.move(
            begin["reach"],
            length["reach"],
            {_X: above[0], _Y: above[1], _Z: above[2], _YAW: yaw, _PITCH: pitch},
            arc=tuple(via("reach") + [0.0, 0.0, 0.02]),
        )
        right.move(begin["descend"], length["descend"], dict(enumerate(grasp)))
        right.move(begin["grasp"], length["grasp"], {_GRIPPER: _CLOSED})

        # Closing centres the cube between the fingers; along them and up it stays as grasped.
        meet = _MEET + via("meet")
        held = np.array([grasp[0] - cube[0], 0.0, grasp[2] - cube[2]])
        give = meet + held
        right.move(
            begin["carry"],
            length["carry"],
            {**dict(enumerate(give)), _YAW: 0.0},
            arc=tuple(via("carry") + [0.0, 0.0, 0.03]),
        )

        # Left: to its waiting place while the right arm works, rolled so that its fingers close
        # from above and below where the right ones do from the sides; then straight in.
        yaw, pitch = v["take_yaw_rad"], v["take_pitch_rad"]
        take = meet + offset("take") + [-0.002, 0.0, 0.0]
        along = np.array(
            [math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), -math.sin(pitch)]
        )
        stage = _MEET + [-0.13, 0.0, 0.0] + via("stage")
        left.move(
            0.0,
            length["reach"] + length["descend"],
            {**dict(enumerate(stage)), _ROLL: math.pi / 2, _GRIPPER: _OPEN},
        )
        left.move(
            begin["approach"],
            length["approach"],
            {**dict(enumerate(take)), _YAW: yaw, _PITCH: pitch},
        )
        left.move(begin["take"], length["take"], {_GRIPPER: _CLOSED})

        right.move(begin["release"], length["release"], {_GRIPPER: _OPEN})
        away = np.array([0.14, 0.0, 0.06]) + give + via("retreat")
        right.move(begin["retreat"], length["retreat"], dict(enumerate(away)))

        return self._kinematics.solve(qpos, {"left": left.path, "right": right.path})


EXPERTS: dict[str, type[CubeExpert]] = {"cube": CubeExpert}
"""The tasks that have an expert."""


def make_expert(task: str = "cube", spread: float = 1.0) -> Policy:
    """The expert of a task, for functools.partial across processes."""
    if task not in EXPERTS:
        raise BadInput(f"no expert for task {task!r}; there is one for {list(EXPERTS)}")
    return EXPERTS[task](spread)
