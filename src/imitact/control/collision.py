"""Collision check: whether a step would make arms touch what they do not touch now.

MuJoCo's kinematics and collision detection run on the commanded pose, without dynamics. Objects
that move freely in the scene are left out: where they are is not known on a robot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.types import FloatArray
from imitact.envs.aloha_renderer import load_mujoco

DEEPER_M = 1e-4
"""By how much a contact that is there may get deeper in a tick, m: rounding, not a push."""

Pair = tuple[int, int]


class CollisionCheck:
    """Compares the contacts of poses in a MuJoCo scene.

    A contact is a pair of bodies. Those of `allow` never count.
    """

    def __init__(
        self,
        model: Any,
        to_qpos: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    ) -> None:
        """Take a scene; its model is the check's own from now on.

        Args:
            model: MjModel; the geometries of its free bodies are switched off.
            to_qpos: returns the first positions of the scene for an action, (A,).
        """
        mujoco = load_mujoco()

        self._mj, self._model, self._to_qpos = mujoco, model, to_qpos
        self._data: Any = mujoco.MjData(model)
        free = model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
        moves_freely = np.isin(model.body_rootid[model.geom_bodyid], free)
        model.geom_contype[moves_freely] = 0
        model.geom_conaffinity[moves_freely] = 0
        self._allowed: set[Pair] = set()
        self._kept: tuple[bytes, dict[Pair, float]] = (b"", {})

    def contacts(self, pose: FloatArray) -> dict[Pair, float]:
        """Return the pairs of bodies that touch at a commanded pose, (A,), with their distance in
        m, which is negative."""
        model, data = self._model, self._data
        qpos = self._to_qpos(np.asarray(pose, np.float64))
        data.qpos[: len(qpos)] = qpos
        self._mj.mj_kinematics(model, data)
        self._mj.mj_collision(model, data)
        found: dict[Pair, float] = {}
        if data.ncon:
            bodies = np.sort(model.geom_bodyid[data.contact.geom], axis=1)
            for (one, other), distance in zip(
                bodies.tolist(), data.contact.dist.tolist(), strict=True
            ):
                pair = (one, other)
                if distance < 0 and pair not in self._allowed:
                    found[pair] = min(found.get(pair, 0.0), distance)
        return found

    def allow(self, poses: Iterable[FloatArray]) -> tuple[str, ...]:
        """Allow the contacts of poses, each (A,): of the start, or of demonstrations.

        Returns:
            The pairs that these added, in words.
        """
        before = set(self._allowed)
        for pose in poses:
            self._allowed.update(self.contacts(pose))
        self._kept = b"", {}
        return tuple(self._words(pair) for pair in sorted(self._allowed - before))

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
                    return f"{self._words(pair)} would touch"
                if distance < before[pair] - DEEPER_M:
                    return f"{self._words(pair)} touch and would press on"
        if later:  # of the next tick
            self._kept = later[0].tobytes(), found[0]
        return ""

    def _words(self, pair: Pair) -> str:
        return " and ".join(self._model.body(body).name or "the world" for body in pair)


def aloha_collisions(task: str = "cube") -> CollisionCheck:
    """Return the check for ALOHA's arms over the table, in gym-aloha's scene.

    What touches at the start pose of the scene is allowed.

    Raises:
        BadInput: MuJoCo or gym-aloha is not installed.
    """
    from imitact.envs.aloha import FINGER_CLOSED_M, FINGER_OPEN_M, AlohaScene

    scene = AlohaScene(task)
    scene.reset(0)
    start = np.delete(scene.data.qpos[:16], (7, 15))
    fingers = (start[6::7] - FINGER_CLOSED_M) / (FINGER_OPEN_M - FINGER_CLOSED_M)
    start[6::7] = fingers

    def to_qpos(pose: NDArray[np.float64]) -> NDArray[np.float64]:
        if pose.shape != (14,):
            raise BadInput(f"a pose of ALOHA has 14 values, not the shape {pose.shape}")
        qpos = np.empty(16)
        for arm in (0, 1):
            travel = pose[7 * arm + 6] * (FINGER_OPEN_M - FINGER_CLOSED_M) + FINGER_CLOSED_M
            qpos[8 * arm : 8 * arm + 6] = pose[7 * arm : 7 * arm + 6]
            qpos[8 * arm + 6 : 8 * arm + 8] = travel, -travel
        return qpos

    check = CollisionCheck(scene.model, to_qpos)
    check.allow([start])
    return check
