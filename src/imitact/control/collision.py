"""Collision check: whether a step would make ALOHA's arms touch each other or themselves.

MuJoCo's kinematics and collision detection run on the commanded pose, without dynamics, with the
convex hulls of gym-aloha's meshes of the ViperX. Table, objects, cameras and cables are left out:
on a robot nobody knows where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imitact.core.errors import BadInput
from imitact.core.types import FloatArray
from imitact.core.words import counted
from imitact.envs.aloha import FINGER_CLOSED_M, FINGER_OPEN_M, scene_folder
from imitact.envs.aloha_renderer import load_mujoco

DEEPER_M = 1e-4
"""By how much a contact that is there may get deeper in a tick, m: rounding, not a push."""

_MODELS = ("vx300s_left", "vx300s_right")
_FINGERS = ("left_finger_link", "right_finger_link")

Pair = tuple[int, int]


class CollisionCheck:
    """Compares the contacts of poses of one or two ViperX arms.

    A contact is a pair of bodies. Two kinds of pairs never count: fingers with fingers, of one hand
    or of two, which are made to touch and do in every hand-over; and a base with the shoulder that
    turns on it.
    """

    def __init__(self, bases: Mapping[str, Sequence[float]]) -> None:
        """Build the model of the arms, about 0.3 s.

        Args:
            bases: x and y in m, and the heading in degrees, of the base of each arm, by side, in
                the order of the commanded joints.

        Raises:
            BadInput: there are more than two arms, or MuJoCo or gym-aloha is not installed.
        """
        if not 1 <= len(bases) <= len(_MODELS):
            raise BadInput(
                f"collisions of {counted(len(bases), 'arm')} cannot be checked; only of one or two"
            )
        self._bases = {side: tuple(map(float, base)) for side, base in bases.items()}
        self._mj: Any = load_mujoco()
        self._model, self._words = _built(self._mj, self._bases)
        self._data: Any = self._mj.MjData(self._model)
        self._kept: tuple[bytes, dict[Pair, float]] = (b"", {})

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made anew in the process of the control loop: it keeps nothing that matters there."""
        return CollisionCheck, (self._bases,)

    def contacts(self, pose: FloatArray) -> dict[Pair, float]:
        """Return the pairs of bodies that touch at a commanded pose with their distance in m, which
        is negative.

        Args:
            pose: (7 * arms,), six joints in rad and the gripper, 0 closed to 1 open, of each arm.
                Between its ends a gripper is taken to be linear in the position of its fingers.

        Raises:
            BadInput: the pose is of another size.
        """
        model, data = self._model, self._data
        arms = np.asarray(pose, np.float64)
        if arms.shape != (7 * len(self._bases),):
            raise BadInput(
                f"a pose of {counted(len(self._bases), 'arm')} has not the shape {arms.shape}"
            )
        arms = arms.reshape(-1, 7)
        travel = arms[:, 6:] * (FINGER_OPEN_M - FINGER_CLOSED_M) + FINGER_CLOSED_M
        data.qpos[:] = np.concatenate([arms[:, :6], travel, -travel], axis=1).ravel()
        self._mj.mj_kinematics(model, data)
        self._mj.mj_collision(model, data)
        found: dict[Pair, float] = {}
        if data.ncon:
            bodies = np.sort(model.geom_bodyid[data.contact.geom], axis=1)
            for (one, other), distance in zip(
                bodies.tolist(), data.contact.dist.tolist(), strict=True
            ):
                if distance < 0:
                    found[one, other] = min(found.get((one, other), 0.0), distance)
        return found

    def refusal(self, now: FloatArray, *later: FloatArray) -> str:
        """Return which contact a step makes, in words; empty where it makes none.

        Contacts that are there may be kept and left, but not deepened.

        Args:
            now: the last command, (A,).
            later: where the step goes, and where the robot could stop after it, each (A,).
        """
        pose, contacts = self._kept
        before = contacts if pose == now.tobytes() else self.contacts(now)
        found = [self.contacts(pose) for pose in later]
        for contacts in found:
            for pair, distance in contacts.items():
                if pair not in before:
                    return f"{self.words(pair)} would touch"
                if distance < before[pair] - DEEPER_M:
                    return f"{self.words(pair)} touch and would press on"
        if later:  # of the next tick
            self._kept = later[0].tobytes(), found[0]
        return ""

    def words(self, pair: Pair) -> str:
        """Return the names of two bodies: "left forearm and right wrist"."""
        return " and ".join(self._words[body] for body in pair)


_PARTS = {
    "": "base",
    "shoulder_link": "shoulder",
    "upper_arm_link": "upper arm",
    "upper_forearm_link": "elbow",
    "lower_forearm_link": "forearm",
    "wrist_link": "wrist",
    "gripper_link": "gripper",
    "gripper_prop_link": "gripper",
    "left_finger_link": "finger",
    "right_finger_link": "finger",
}
"""Bodies of gym-aloha's arms, in words."""


def _built(mujoco: Any, bases: Mapping[str, tuple[float, ...]]) -> tuple[Any, tuple[str, ...]]:
    """Return the model of the arms alone, and the words of its bodies."""
    path = scene_folder() / "bimanual_viperx_transfer_cube.xml"
    spec = mujoco.MjSpec.from_file(str(path))
    used = dict(zip(_MODELS, bases.items(), strict=False))
    for thing in (*spec.keys, *spec.actuators, *spec.cameras, *spec.lights):
        spec.delete(thing)
    for name in ("box", "table", *(model for model in _MODELS if model not in used)):
        spec.delete(spec.body(name))
    for model, (_, (x_m, y_m, heading_deg)) in used.items():
        base, turn = spec.body(model), np.radians(heading_deg) / 2
        base.pos = x_m, y_m, 0.0
        base.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT  # instead of its Euler angles
        base.quat = np.cos(turn), 0.0, 0.0, np.sin(turn)
        bottom = spec.geom(f"{model}/1_base")  # gym-aloha lets everything through it
        bottom.contype = bottom.conaffinity = 1
        spec.add_exclude(bodyname1=model, bodyname2=f"{model}/shoulder_link")
    fingers = [f"{model}/{finger}" for model in used for finger in _FINGERS]
    for at, one in enumerate(fingers):
        for other in fingers[at + 1 :]:
            spec.add_exclude(bodyname1=one, bodyname2=other)
    built = spec.compile()
    words = {
        f"{model}/{part}".rstrip("/"): f"{side} {text}"
        for model, (side, _) in used.items()
        for part, text in _PARTS.items()
    }
    names = [str(built.body(body).name) for body in range(built.nbody)]
    return built, tuple(words.get(name, name) for name in names)
