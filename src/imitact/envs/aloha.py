"""The two tasks of gym-aloha as an Env, without its globals, rendered only when a frame is read.

State, reward and pixels are those of gym-aloha 0.1 step for step (tests/test_aloha.py compares
them at tolerance zero). What differs is what it costs: gym-aloha renders three cameras at every
step (160 ms), this one steps the physics (a fraction of a millisecond) and renders a camera when
somebody reads that frame.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, ImitactError, NotFinite
from imitact.core.types import Camera, FloatArray, Frame, LazyFrames, Observation, Spec, StepResult
from imitact.envs.shadow_map import ShadowMap

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
"""Every camera of the scene."""

ALOHA_FOUR = ("top", "front_close", "left_wrist", "right_wrist")
"""The four views of the real ALOHA: high, low, and one a wrist."""

# gym_aloha/constants.py, PUPPET_GRIPPER_POSITION_*: finger travel in metres at 0 and at 1.
_FINGER_CLOSED_M = 0.01844
_FINGER_OPEN_M = 0.05800

# gym_aloha/constants.py, START_ARM_POSE: 6 joints and 2 fingers an arm, rad and m.
_START_ARM = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.02239, -0.02239)
_START = np.array(_START_ARM * 2)
_START.setflags(write=False)


_RIGHT_FINGER = "vx300s_right/10_right_gripper_finger"
_LEFT_FINGER = "vx300s_left/10_left_gripper_finger"
_SOCKET = ("socket-1", "socket-2", "socket-3", "socket-4")

# PyOpenGL answers a missing libEGL with an AttributeError on None.
_OPENGL_ERRORS = (ImportError, AttributeError, RuntimeError)


def _no_opengl(cause: Exception) -> BadInput:
    backend = os.environ.get("MUJOCO_GL")
    return BadInput(
        f"no OpenGL with MUJOCO_GL={backend!r} ({type(cause).__name__}: {cause}). On Debian or "
        "Ubuntu: 'apt-get install libegl1 libgl1-mesa-dri' and MUJOCO_GL=egl (the default on "
        "Linux), or 'apt-get install libosmesa6' and MUJOCO_GL=osmesa"
    )


@dataclass(frozen=True)
class Truth:
    """The true state of the scene, for experts: what no camera and no joint sensor tells.

    qpos: (23,) or (30,) the arms (8 values each, fingers in m), then one pose (x, y, z in m, unit
          quaternion w, x, y, z) an object: the cube, or peg and socket.
    tick: control periods since reset.
    """

    task: str
    qpos: NDArray[np.float64]
    tick: int

    def pose(self, index: int = 0) -> NDArray[np.float64]:
        """(7,) position in m and quaternion (w, x, y, z) of an object."""
        return self.qpos[16 + 7 * index : 23 + 7 * index]


@dataclass(frozen=True)
class _Task:
    scene: str
    step_cap: int
    stages: tuple[str, ...]


_TASKS = {
    "cube": _Task(
        "bimanual_viperx_transfer_cube.xml",
        400,
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
"""Ticks of an episode at most, by task."""


def assets() -> Path:
    """The folder of gym-aloha's scene files; found without importing gym_aloha."""
    found = importlib.util.find_spec("gym_aloha")
    if found is None or not found.submodule_search_locations:
        raise BadInput(
            "gym-aloha is not installed, so there is no ALOHA scene; "
            "install it with: pip install 'imitact[sim]'"
        )
    return Path(found.submodule_search_locations[0]) / "assets"


def load_mujoco() -> Any:
    """The module mujoco, imported on Linux with EGL where the caller chose no other OpenGL.

    MuJoCo reads MUJOCO_GL once, at its first import; so it is set here, and only if unset.
    Elsewhere MuJoCo chooses: it has no EGL for macOS and Windows.
    """
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise _no_opengl(error) from error
        raise BadInput(
            "mujoco is not installed; install it with: pip install 'imitact[sim]'"
        ) from error
    except _OPENGL_ERRORS as error:
        raise _no_opengl(error) from error
    return mujoco


def _cube_start(seed: int) -> NDArray[np.float64]:
    """gym_aloha/utils.py, sample_box_pose: the cube anywhere in 20 by 20 cm."""
    rng = np.random.RandomState(seed)
    position = rng.uniform([0.0, 0.4, 0.05], [0.2, 0.6, 0.05])
    return np.concatenate([position, [1.0, 0.0, 0.0, 0.0]])


def _insertion_start(seed: int) -> NDArray[np.float64]:
    """gym_aloha/utils.py, sample_insertion_pose: the peg, then the socket, from one stream."""
    rng = np.random.RandomState(seed)
    peg = rng.uniform([0.1, 0.4, 0.05], [0.2, 0.6, 0.05])
    socket = rng.uniform([-0.2, 0.4, 0.05], [-0.1, 0.6, 0.05])
    upright = [1.0, 0.0, 0.0, 0.0]
    return np.concatenate([peg, upright, socket, upright])


_STARTS = {"cube": _cube_start, "insertion": _insertion_start}


def starts(task: str, seeds: Sequence[int]) -> NDArray[np.float64]:
    """(N, D) where the task's objects begin at each of these seeds: x and y in m, object by
    object. All else is the same at every start.
    """
    poses = np.array([_STARTS[task](seed) for seed in seeds])
    return poses.reshape(len(seeds), -1, 7)[:, :, :2].reshape(len(seeds), -1)


class _Renderer:
    """One OpenGL context and scene, kept for all frames of a model.

    The context is dm_control's, not MuJoCo's own: dm_control remembers which context is current,
    so that beside it (gym-aloha in the same process) any other kind would draw into the wrong one.
    """

    def __init__(self, mj: Any, model: Any, height: int, width: int) -> None:
        try:
            from dm_control import _render

            self._gl: Any = cast(Any, _render.Renderer)(width, height)
            with self._gl.make_current() as gl:
                # The font shows in no frame; its scale is dm_control's.
                self._context = gl.call(mj.MjrContext, model, mj.mjtFontScale.mjFONTSCALE_100)
                gl.call(mj.mjr_setBuffer, mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        except _OPENGL_ERRORS as error:
            raise _no_opengl(error) from error
        self._mj = mj
        self._model = model
        self._scene = mj.MjvScene(model, maxgeom=1000)
        self._option = mj.MjvOption()
        self._perturb = mj.MjvPerturb()
        self._camera = mj.MjvCamera()
        self._camera.type = mj.mjtCamera.mjCAMERA_FIXED
        self._rect = mj.MjrRect(0, 0, width, height)
        self._size = (height, width, 3)
        self._begun = False
        self._shadows: ShadowMap | None = None
        # OpenGL's objects must go before the context does, at the latest when Python ends.
        closing = weakref.WeakMethod(self.close)

        def close_at_exit() -> None:
            close = closing()
            if close is not None:
                close()

        self._close_at_exit = close_at_exit
        atexit.register(close_at_exit)

    def render(self, data: Any, camera: int) -> Frame:
        mj = self._mj
        self._camera.fixedcamid = camera
        mj.mjv_updateScene(
            self._model,
            data,
            self._option,
            self._perturb,
            self._camera,
            mj.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        frame = np.empty(self._size, np.uint8)
        with self._gl.make_current() as gl:
            if self._shadows is not None:
                gl.call(self._shadows.draw, self._scene, data)
            gl.call(mj.mjr_render, self._rect, self._scene, self._context)
            if not self._begun:
                self._begun = True
                self._shadows = gl.call(self._own_shadows, data)
            gl.call(mj.mjr_readPixels, frame, None, self._rect, self._context)
        return np.ascontiguousarray(frame[::-1])  # OpenGL's first row is the lowest

    def _own_shadows(self, data: Any) -> ShadowMap | None:
        """A shadow map of ours, if it is worth its while here and equals MuJoCo's."""
        if not ShadowMap.fits(self._mj, self._scene, self._context):
            return None
        shadows = ShadowMap(self._mj, self._model, self._scene, self._context)
        if shadows.verify(self._scene, data):
            return shadows
        shadows.free()
        return None

    def close(self) -> None:
        if self._gl is None:
            return
        gl, self._gl = self._gl, None
        atexit.unregister(self._close_at_exit)
        with gl.make_current() as current:
            if self._shadows is not None:
                current.call(self._shadows.free)
            current.call(self._context.free)
        gl.free()

    def __del__(self) -> None:
        if hasattr(self, "_close_at_exit"):
            self.close()


class AlohaEnv:
    """Two ViperX arms over a table: hand a cube over, or put a peg into a socket.

    task:    "cube" (gym_aloha/AlohaTransferCube-v0) or "insertion" (gym_aloha/AlohaInsertion-v0).
    cameras: any of CAMERAS, in the order in which the model is to see them.
    height, width: capture size in pixels, the same for all cameras.

    State and action are 7 values an arm, left first: six joints in rad and the gripper, 0 closed
    to 1 open. Reward is the stage reached (see `stages`), success is stage 4. The start depends
    on the seed alone, and equals gym-aloha's for the same seed. Two instances share nothing.
    """

    def __init__(
        self,
        task: str = "cube",
        cameras: Sequence[str] = ("top",),
        height: int = 480,
        width: int = 640,
    ) -> None:
        if task not in _TASKS:
            raise BadInput(f"no task {task!r} in the ALOHA scene; there are {list(TASKS)}")
        if isinstance(cameras, str):
            cameras = (cameras,)
        for name in cameras:
            if name not in CAMERAS:
                raise BadInput(f"no camera {name!r} in the ALOHA scene; there are {list(CAMERAS)}")
        self._task = _TASKS[task]
        self._name = task
        self._height, self._width = height, width
        self._spec = Spec(
            state_names=ALOHA_JOINTS,
            action_names=ALOHA_JOINTS,
            state_units=ALOHA_UNITS,
            action_units=ALOHA_UNITS,
            cameras=tuple(Camera(name, height, width) for name in cameras),
            rate_hz=ALOHA_RATE_HZ,
        )

        mj = load_mujoco()
        self._mj = mj
        self._model = mj.MjModel.from_xml_path(str(assets() / self._task.scene))
        view = self._model.vis.global_
        view.offheight = max(view.offheight, height)
        view.offwidth = max(view.offwidth, width)
        self._data = mj.MjData(self._model)
        self._substeps = round(1.0 / ALOHA_RATE_HZ / self._model.opt.timestep)
        self._camera_ids = {name: self._model.camera(name).id for name in cameras}
        self._renderer: _Renderer | None = None
        self._tick: int | None = None
        self._moved = 0
        self._pairs = _Pairs(self._model, self._name)

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def step_cap(self) -> int:
        return self._task.step_cap

    @property
    def stages(self) -> tuple[str, ...]:
        return self._task.stages

    @property
    def task(self) -> str:
        """ "cube" or "insertion"."""
        return self._name

    def reset(self, seed: int) -> Observation:
        """Arms at their start pose, the objects where the seed puts them (0 <= seed < 2**32)."""
        if not 0 <= seed < 2**32:
            raise BadInput(f"seed {seed} is out of range; gym-aloha draws from 0 to 2**32 - 1")
        mj, model, data = self._mj, self._model, self._data
        objects = _STARTS[self._name](seed)
        mj.mj_resetData(model, data)
        data.qpos[:16] = _START
        data.qpos[16:] = objects
        data.ctrl[:] = _START
        # dm_control leaves two nested reset contexts, each with one forward pass without
        # actuation; the second starts from the first's solution, which shows in the last bits.
        flags = model.opt.disableflags
        model.opt.disableflags = flags | int(mj.mjtDisableBit.mjDSBL_ACTUATION)
        mj.mj_forward(model, data)
        mj.mj_forward(model, data)
        model.opt.disableflags = flags
        self._tick = 0
        self._moved += 1
        return self._observation()

    def step(self, action: FloatArray) -> StepResult:
        """Command joint targets for one control period of 20 ms.

        Grippers beyond 0 to 1 and joints beyond their range are cut off by the actuators.
        """
        if self._tick is None:
            raise ImitactError("step() before reset(); call reset(seed) first")
        self._spec.check_action(action)
        mj, model, data = self._mj, self._model, self._data
        ctrl = data.ctrl
        ctrl[0:6] = action[0:6]
        ctrl[8:14] = action[7:13]
        # In the action's own precision, as gym-aloha computes it.
        for at, gripper in ((6, action[6]), (14, action[13])):
            finger = gripper * (_FINGER_OPEN_M - _FINGER_CLOSED_M) + _FINGER_CLOSED_M
            ctrl[at] = finger
            ctrl[at + 1] = -finger
        # dm_control's order (legacy_step): the state's derived quantities, contacts included, are
        # those of the state that is returned.
        mj.mj_step2(model, data)
        mj.mj_step(model, data, self._substeps - 1)
        mj.mj_step1(model, data)
        self._moved += 1
        self._tick += 1
        if data.warning.number.any():
            self._broken()
        reward = self._pairs.reward(data.contact.geom)
        return StepResult(self._observation(), float(reward), reward == 4)

    def close(self) -> None:
        """Free the OpenGL context; frames not read until now are lost."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._moved += 1

    def _broken(self) -> NoReturn:
        kinds = self._mj.mjtWarning.__members__
        names = [kind for kind, n in zip(kinds, self._data.warning.number, strict=False) if n]
        raise NotFinite(
            f"the simulation broke down at tick {self._tick} ({', '.join(names)}): "
            "its state means nothing; look at the last actions, then reset"
        )

    def _observation(self) -> Observation:
        assert self._tick is not None
        qpos = self._data.qpos.copy()
        state = np.empty(14)
        state[0:6] = qpos[0:6]
        state[6] = (qpos[6] - _FINGER_CLOSED_M) / (_FINGER_OPEN_M - _FINGER_CLOSED_M)
        state[7:13] = qpos[8:14]
        state[13] = (qpos[14] - _FINGER_CLOSED_M) / (_FINGER_OPEN_M - _FINGER_CLOSED_M)
        moved = self._moved
        frames = LazyFrames(tuple(self._camera_ids), self._render, lambda: self._moved == moved)
        return Observation(state, frames, Truth(self._name, qpos, self._tick))

    def _render(self, name: str) -> Frame:
        if self._renderer is None:
            self._renderer = _Renderer(self._mj, self._model, self._height, self._width)
        return self._renderer.render(self._data, self._camera_ids[name])


class _Pairs:
    """Rewards from contacts: gym_aloha/tasks/sim.py with geom ids in place of names.

    Pairs are ordered as there: (first geom, second geom), and one finger an arm counts.
    """

    def __init__(self, model: Any, task: str) -> None:
        def pairs(firsts: Sequence[str], seconds: Sequence[str]) -> frozenset[tuple[int, int]]:
            ids = {name: model.geom(name).id for name in (*firsts, *seconds)}
            return frozenset((ids[a], ids[b]) for a in firsts for b in seconds)

        self.reward = self._cube if task == "cube" else self._insertion
        if task == "cube":
            self._left = pairs(["red_box"], [_LEFT_FINGER])
            self._right = pairs(["red_box"], [_RIGHT_FINGER])
            self._on_table = pairs(["red_box"], ["table"])
        else:
            self._left = pairs(_SOCKET, [_LEFT_FINGER])
            self._right = pairs(["red_peg"], [_RIGHT_FINGER])
            self._on_table = pairs(["red_peg", *_SOCKET], ["table"])
            self._met = pairs(["red_peg"], _SOCKET)
            self._pin = pairs(["red_peg"], ["pin"])

    def _cube(self, contacts: NDArray[np.int32]) -> int:
        touching = set(map(tuple, contacts.tolist()))
        lifted = touching.isdisjoint(self._on_table)
        if not touching.isdisjoint(self._left):
            return 4 if lifted else 3
        if not touching.isdisjoint(self._right):
            return 2 if lifted else 1
        return 0

    def _insertion(self, contacts: NDArray[np.int32]) -> int:
        touching = set(map(tuple, contacts.tolist()))
        lifted = touching.isdisjoint(self._on_table)
        if not touching.isdisjoint(self._pin):
            return 4
        if lifted and not touching.isdisjoint(self._met):
            return 3
        if touching.isdisjoint(self._left) or touching.isdisjoint(self._right):
            return 0
        return 2 if lifted else 1


def make(
    task: str = "cube",
    cameras: Sequence[str] = ("top",),
    height: int = 480,
    width: int = 640,
) -> AlohaEnv:
    """AlohaEnv as a function, for functools.partial across processes."""
    return AlohaEnv(task, cameras, height, width)
