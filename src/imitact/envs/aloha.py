"""ALOHA simulation: gym-aloha's two tasks as an Env, rendered only when a frame is read.

State, reward and pixels equal those of gym-aloha 0.1 at every step (tests/envs/test_aloha.py
compares them at tolerance zero). The cost differs: gym-aloha renders three cameras at every step
(160 ms), this environment steps the physics (a fraction of a millisecond) and renders a camera when
its frame is read. It has no global state.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, ImitactError, NotFinite, missing_package, unknown_name
from imitact.core.types import Camera, FloatArray, Frame, LazyFrames, Observation, Spec, StepResult
from imitact.envs.aloha_renderer import SceneRenderer, load_mujoco

TASKS = ("cube", "insertion")

CAMERAS = (
    "left_pillar",
    "right_pillar",
    "top",
    "angle",
    "front_close",
    "left_wrist",
    "right_wrist",
)
"""All cameras of the scene."""

REAL_ALOHA_CAMERAS = ("top", "front_close", "left_wrist", "right_wrist")
"""The four views of the real ALOHA: high, low, and one on each wrist."""

# gym_aloha/constants.py, PUPPET_GRIPPER_POSITION_*: finger travel in m at gripper 0 and 1.
FINGER_CLOSED_M = 0.01844
FINGER_OPEN_M = 0.05800

# gym_aloha/constants.py, START_ARM_POSE: 6 joints in rad and 2 fingers in m for each arm.
_START = np.array((0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.02239, -0.02239) * 2)
_START.setflags(write=False)

_RIGHT_FINGER = "vx300s_right/10_right_gripper_finger"
_LEFT_FINGER = "vx300s_left/10_left_gripper_finger"
_SOCKET = ("socket-1", "socket-2", "socket-3", "socket-4")


@dataclass(frozen=True)
class AlohaTruth:
    """True state of the scene, for experts: what cameras and joint sensors do not measure.

    Attributes:
        task: "cube" or "insertion".
        qpos: (23,) or (30,): the arms (8 values each, fingers in m), then a pose for each object
            (x, y, z in m, unit quaternion w, x, y, z): the cube, or peg and socket.
        tick: control periods since reset.
    """

    task: str
    qpos: NDArray[np.float64]
    tick: int

    def pose(self, index: int = 0) -> NDArray[np.float64]:
        """Return position in m and quaternion (w, x, y, z) of an object, (7,)."""
        return self.qpos[16 + 7 * index : 23 + 7 * index]


_Point = tuple[float, float, float]


@dataclass(frozen=True)
class _Task:
    scene: str
    step_cap: int
    starts_m: tuple[tuple[_Point, _Point], ...]
    """For each object, the least and the largest position at the start (gym_aloha/utils.py)."""
    stages: tuple[str, ...]


_TASKS = {
    "cube": _Task(
        "bimanual_viperx_transfer_cube.xml",
        400,
        (((0.0, 0.4, 0.05), (0.2, 0.6, 0.05)),),
        (
            "nothing touched",
            "the right gripper touches the cube",
            "the right gripper has lifted the cube",
            "the left gripper touches the cube on the table",
            "the left gripper holds the cube off the table",
        ),
    ),
    "insertion": _Task(
        "bimanual_viperx_insertion.xml",
        500,
        (((0.1, 0.4, 0.05), (0.2, 0.6, 0.05)), ((-0.2, 0.4, 0.05), (-0.1, 0.6, 0.05))),
        (
            "not both objects touched",
            "right gripper on the peg, left gripper on the socket",
            "both objects lifted",
            "the peg touches the socket, both off the table",
            "the peg touches the pin inside the socket",
        ),
    ),
}


STEP_CAP = {name: task.step_cap for name, task in _TASKS.items()}
"""Largest number of ticks of an episode, by task."""


def scene_folder() -> Path:
    """Return the folder of gym-aloha's scene files, without importing gym_aloha."""
    found = importlib.util.find_spec("gym_aloha")
    if found is None or not found.submodule_search_locations:
        raise missing_package("gym-aloha", "sim")
    return Path(found.submodule_search_locations[0]) / "assets"


def _draw_start(task: str, seed: int) -> NDArray[np.float64]:
    """Draw the upright poses of a task's objects as gym-aloha does, (7 * objects,)."""
    rng = np.random.RandomState(seed)
    positions = [rng.uniform(low, high) for low, high in _TASKS[task].starts_m]
    return np.concatenate([[*position, 1.0, 0.0, 0.0, 0.0] for position in positions])


def start_positions(task: str, seeds: Sequence[int]) -> NDArray[np.float64]:
    """Return x and y in m of the task's objects at the start of each seed, (N, 2 * objects).

    Nothing else varies between starts.
    """
    poses = np.array([_draw_start(task, seed) for seed in seeds])
    return poses.reshape(len(seeds), -1, 7)[:, :, :2].reshape(len(seeds), -1)


class AlohaScene:
    """MuJoCo model, state and reward of a task, without control rate, observation or camera.

    Args:
        task: "cube" or "insertion".

    Attributes:
        model: MjModel of gym-aloha's scene.
        data: MjData; after `reset` and after each `mj_step2`, `mj_step1` in this order, all derived
            quantities, contacts included, belong to its state (dm_control's legacy step).

    Raises:
        BadInput: the task does not exist, or MuJoCo is missing.
    """

    def __init__(self, task: str) -> None:
        if task not in _TASKS:
            raise unknown_name("task of the ALOHA scene", task, TASKS)
        self.task = task
        self.stages = _TASKS[task].stages
        self.mj = load_mujoco()
        self.model: Any = self.mj.MjModel.from_xml_path(str(scene_folder() / _TASKS[task].scene))
        self.data: Any = self.mj.MjData(self.model)
        self._rewards = _ContactRewards(self.model, task)

    def reset(self, seed: int) -> None:
        """Set the arms to their start pose and the objects to the seed's (seed below 2^32)."""
        if not 0 <= seed < 2**32:
            raise BadInput(f"seed is {seed}; gym-aloha's seeds are from 0 to 2^32 - 1")
        mj, model, data = self.mj, self.model, self.data
        objects = _draw_start(self.task, seed)
        mj.mj_resetData(model, data)
        data.qpos[:16] = _START
        data.qpos[16:] = objects
        data.ctrl[:] = _START
        # dm_control leaves two nested reset contexts, each with one forward pass without
        # actuation; the second starts from the solution of the first, which changes the last bits.
        flags = model.opt.disableflags
        model.opt.disableflags = flags | int(mj.mjtDisableBit.mjDSBL_ACTUATION)
        mj.mj_forward(model, data)
        mj.mj_forward(model, data)
        model.opt.disableflags = flags

    def reward(self) -> int:
        """Return the stage that the state is in, 0 to 4; its words are `stages`."""
        return self._rewards.reward(self.data.contact.geom)

    def check_finite(self, where: str) -> None:
        """Raise NotFinite where the simulation has diverged; `where` is for the error."""
        warnings = self.data.warning.number
        if not warnings.any():
            return
        kinds = self.mj.mjtWarning.__members__
        names = [kind for kind, n in zip(kinds, warnings, strict=False) if n]
        raise NotFinite(
            f"the simulation diverged at {where} ({', '.join(names)}) and its state is "
            "invalid; check the last actions, then reset"
        )


class AlohaEnv:
    """Two ViperX arms over a table that hand over a cube, or insert a peg into a socket.

    State and action have 7 values for each arm, left arm first: six joints in rad and the gripper,
    0 closed to 1 open. The reward is the stage reached (see `stages`); stage 4 is success. The
    start depends on the seed alone and equals gym-aloha's for the same seed.

    Args:
        task: "cube" (gym_aloha/AlohaTransferCube-v0) or "insertion" (gym_aloha/AlohaInsertion-v0).
        cameras: names from `CAMERAS`, in the order in which the model sees them.
        height: rows of a frame in pixels, for all cameras.
        width: columns of a frame in pixels, for all cameras.

    Raises:
        BadInput: the task or a camera does not exist, or MuJoCo is missing.
    """

    def __init__(
        self,
        task: str = "cube",
        cameras: Sequence[str] = ("top",),
        height: int = 480,
        width: int = 640,
    ) -> None:
        if task not in _TASKS:
            raise unknown_name("task of the ALOHA scene", task, TASKS)
        if isinstance(cameras, str):
            cameras = (cameras,)
        for name in cameras:
            if name not in CAMERAS:
                raise unknown_name("camera of the ALOHA scene", name, CAMERAS)
        scene = AlohaScene(task)
        self.task = task
        self.step_cap, self.stages = _TASKS[task].step_cap, scene.stages
        self._height, self._width = height, width
        views = tuple(Camera(name, height, width) for name in cameras)
        self.spec = Spec(ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, views, ALOHA_RATE_HZ)

        self._scene = scene
        self._mj, self._model, self._data = scene.mj, scene.model, scene.data
        view = self._model.vis.global_
        view.offheight = max(view.offheight, height)
        view.offwidth = max(view.offwidth, width)
        self._substeps = round(1.0 / ALOHA_RATE_HZ / self._model.opt.timestep)
        self._camera_ids = {name: self._model.camera(name).id for name in cameras}
        self._renderer: SceneRenderer | None = None
        self._tick: int | None = None
        self._state_count = 0  # frames can be read until the next state

    def reset(self, seed: int) -> Observation:
        """Set the arms to their start pose and the objects to the seed's (seed below 2^32)."""
        self._scene.reset(seed)
        self._tick = 0
        self._state_count += 1
        return self._observation()

    def step(self, action: FloatArray) -> StepResult:
        """Command joint targets for one control period of 20 ms.

        The actuators clip grippers to 0 to 1 and joints to their range.
        """
        if self._tick is None:
            raise ImitactError("step() before reset(); call reset(seed) first")
        self.spec.check_action(action)
        mj, model, data = self._mj, self._model, self._data
        ctrl = data.ctrl
        ctrl[0:6] = action[0:6]
        ctrl[8:14] = action[7:13]
        # In the action's own precision, as gym-aloha computes it.
        for index, gripper in ((6, action[6]), (14, action[13])):
            finger = gripper * (FINGER_OPEN_M - FINGER_CLOSED_M) + FINGER_CLOSED_M
            ctrl[index] = finger
            ctrl[index + 1] = -finger
        # dm_control's order (legacy_step): the derived quantities, contacts included, belong to
        # the state that is returned.
        mj.mj_step2(model, data)
        mj.mj_step(model, data, self._substeps - 1)
        mj.mj_step1(model, data)
        self._state_count += 1
        self._tick += 1
        self._scene.check_finite(f"tick {self._tick}")
        reward = self._scene.reward()
        return StepResult(self._observation(), float(reward), reward == 4)

    def close(self) -> None:
        """Free the OpenGL context; frames that were not read are lost."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._state_count += 1

    def _observation(self) -> Observation:
        assert self._tick is not None
        qpos = self._data.qpos.copy()
        state = np.concatenate([qpos[0:7], qpos[8:15]])
        state[6::7] = (state[6::7] - FINGER_CLOSED_M) / (FINGER_OPEN_M - FINGER_CLOSED_M)
        count = self._state_count
        frames = LazyFrames(
            tuple(self._camera_ids), self._render, lambda: self._state_count == count
        )
        return Observation(state, frames, AlohaTruth(self.task, qpos, self._tick))

    def _render(self, name: str) -> Frame:
        if self._renderer is None:
            self._renderer = SceneRenderer(self._mj, self._model, self._height, self._width)
        return self._renderer.render(self._data, self._camera_ids[name])


class _ContactRewards:
    """Rewards from contacts, as gym_aloha/tasks/sim.py, with geom ids instead of names.

    A contact is an ordered pair of geoms, as there; only one finger of each arm counts.
    """

    def __init__(self, model: Any, task: str) -> None:
        def pairs(firsts: Sequence[str], seconds: Sequence[str]) -> frozenset[tuple[int, int]]:
            ids = {name: model.geom(name).id for name in (*firsts, *seconds)}
            return frozenset((ids[a], ids[b]) for a in firsts for b in seconds)

        self.reward = self._cube if task == "cube" else self._insertion
        left, right = (["red_box"], ["red_box"]) if task == "cube" else (_SOCKET, ["red_peg"])
        self._left = pairs(left, [_LEFT_FINGER])
        self._right = pairs(right, [_RIGHT_FINGER])
        self._on_table = pairs([*left, *right], ["table"])
        if task == "insertion":
            self._peg_on_socket = pairs(["red_peg"], _SOCKET)
            self._peg_on_pin = pairs(["red_peg"], ["pin"])

    def _cube(self, contacts: NDArray[np.int32]) -> int:
        touching = set(map(tuple, contacts.tolist()))
        is_lifted = touching.isdisjoint(self._on_table)
        if not touching.isdisjoint(self._left):
            return 4 if is_lifted else 3
        if not touching.isdisjoint(self._right):
            return 2 if is_lifted else 1
        return 0

    def _insertion(self, contacts: NDArray[np.int32]) -> int:
        touching = set(map(tuple, contacts.tolist()))
        is_lifted = touching.isdisjoint(self._on_table)
        if not touching.isdisjoint(self._peg_on_pin):
            return 4
        if is_lifted and not touching.isdisjoint(self._peg_on_socket):
            return 3
        if touching.isdisjoint(self._left) or touching.isdisjoint(self._right):
            return 0
        return 2 if is_lifted else 1
