"""Pictures of the bench: gym-aloha's scene as its cameras see it, or a sketch of other arms.

A frame of `AlohaEnv` takes 32 to 75 ms of one core in software, most of it for four samples a
pixel. `ScenePictures` takes one, with a shadow map of 1024 texels, and draws small frames with
twice as many rows and columns, which it averages: half the time at 120x160 and a mean difference of
1 of 255 from `AlohaEnv` (benchmarks/emulated_aloha.py). `exact` draws the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, unknown_name
from imitact.core.types import Frame
from imitact.envs.aloha import CAMERAS, AlohaScene
from imitact.envs.aloha_renderer import SceneRenderer

_SHADOW_TEXELS = 1024
_ZOOM, _MOST_ZOOMED = 2, 320 * 240  # pixels of a frame; beyond, pixels take longer than triangles

_LINKS = (0.9, 0.8, 0.35)  # upper arm, forearm, hand; in sixths of the height
_BACKGROUND, _TABLE, _ARM, _JAW = (225, 228, 232), (120, 96, 72), (40, 60, 110), (200, 60, 40)


class Pictures(Protocol):
    """Draws frames from the coordinates of a scene."""

    def draw(self, pose: NDArray[np.float64], camera: str) -> Frame: ...

    def close(self) -> None: ...


def make_pictures(
    kind: str, task: str, cameras: Sequence[str], height: int, width: int, *, exact: bool
) -> Pictures:
    """Return what draws the cameras of a kind of bench.

    Raises:
        BadInput: a camera does not exist, the size is none, or OpenGL does not work.
    """
    check_cameras(kind, cameras, height, width)
    if kind == "aloha":
        return ScenePictures(task, height, width, exact=exact)
    return SketchPictures(height, width)


def check_cameras(kind: str, cameras: Sequence[str], height: int, width: int) -> None:
    """Refuse cameras that a kind of bench does not have, and frames without pixels."""
    if kind == "aloha":
        for name in cameras:
            if name not in CAMERAS:
                raise unknown_name("camera of the ALOHA scene", name, CAMERAS)
    if len(set(cameras)) != len(cameras):
        raise BadInput(f"cameras {', '.join(cameras)}: each may be named once")
    if not (8 <= height <= 2160 and 8 <= width <= 3840):
        raise BadInput(f"frames of {height}x{width} pixels; expected 8x8 to 2160x3840")


class ScenePictures:
    """Cameras of gym-aloha's scene.

    Args:
        task: "cube" or "insertion".
        height: rows of a frame.
        width: columns of a frame.
        exact: whether to draw the pixels of `AlohaEnv`.
    """

    def __init__(self, task: str, height: int, width: int, *, exact: bool = False) -> None:
        self._scene = AlohaScene(task)
        model, self._size = self._scene.model, (height, width)
        self._zoom = 1 if exact or height * width > _MOST_ZOOMED else _ZOOM
        if not exact:
            model.vis.quality.offsamples = 0
            model.vis.quality.shadowsize = _SHADOW_TEXELS
        view = model.vis.global_
        rows, columns = height * self._zoom, width * self._zoom
        view.offheight, view.offwidth = max(view.offheight, rows), max(view.offwidth, columns)
        self._renderer = SceneRenderer(self._scene.mj, model, rows, columns)

    def draw(self, pose: NDArray[np.float64], camera: str) -> Frame:
        """Return the frame of a camera, with arms and objects at (23,) or (30,) coordinates."""
        mj, model, data = self._scene.mj, self._scene.model, self._scene.data
        data.qpos[:] = pose
        mj.mj_kinematics(model, data)
        mj.mj_comPos(model, data)
        mj.mj_camlight(model, data)
        frame = self._renderer.render(data, model.camera(camera).id)
        if self._zoom == 1:
            return frame
        height, width = self._size
        blocks = frame.reshape(height, self._zoom, width, self._zoom, 3).astype(np.uint16)
        count = self._zoom**2
        return ((blocks.sum(axis=(1, 3)) + count // 2) // count).astype(np.uint8)

    def close(self) -> None:
        self._renderer.close()


class SketchPictures:
    """Side views of arms with six joints, drawn as lines: enough to tell the joints from a frame.

    The angle of the pan shifts an arm sideways, lift, elbow and wrist bend it, the roll thickens
    its hand, and the gripper opens two jaws. All cameras see the same.
    """

    def __init__(self, height: int, width: int) -> None:
        self._rows, self._columns = np.mgrid[0:height, 0:width].astype(np.float32)
        self._background = np.empty((height, width, 3), np.float32)
        self._background[:] = _BACKGROUND
        self._background[int(0.9 * height) :] = _TABLE

    def draw(self, pose: NDArray[np.float64], camera: str) -> Frame:
        """Return a frame of one or two arms with joints in rad, (6,) or (12,)."""
        picture = self._background.copy()
        height, width = picture.shape[:2]
        arms = pose.reshape(-1, 6)
        for number, joints in enumerate(arms):
            pan, lift, elbow, wrist, roll, gripper = joints
            x = width * (number + 0.5) / len(arms) + 0.2 * width / len(arms) * np.sin(pan)
            at, angle = np.array([0.9 * height, x]), np.pi / 2 - lift
            for length, bend in zip(_LINKS, (0.0, elbow, wrist), strict=True):
                angle -= bend
                step = length * height / 3 * np.array([-np.sin(angle), np.cos(angle)])
                thick = height / 40 * (1.0 + 0.3 * np.sin(roll) * (length == _LINKS[-1]))
                self._line(picture, at, at + step, thick, _ARM)
                at = at + step
            for side in (-1.0, 1.0):
                jaw = angle + side * (0.2 + 0.4 * np.clip(gripper, -1.0, 1.5))
                step = height / 15 * np.array([-np.sin(jaw), np.cos(jaw)])
                self._line(picture, at, at + step, height / 60, _JAW)
        return picture.round().astype(np.uint8)

    def _line(
        self,
        picture: NDArray[np.float32],
        begin: NDArray[np.float64],
        end: NDArray[np.float64],
        thick: float,
        color: tuple[int, int, int],
    ) -> None:
        along = end - begin
        rows, columns = self._rows - begin[0], self._columns - begin[1]
        part = (rows * along[0] + columns * along[1]) / max(float(along @ along), 1e-9)
        part = np.clip(part, 0.0, 1.0)
        distance = np.hypot(rows - part * along[0], columns - part * along[1])
        cover = np.clip(thick + 0.5 - distance, 0.0, 1.0)[..., None].astype(np.float32)
        picture += cover * (np.array(color, np.float32) - picture)

    def close(self) -> None:
        """Nothing is open."""
