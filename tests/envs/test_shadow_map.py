"""Laws of the shadow map: MuJoCo's own to the bit wherever the arms are, or not used at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from imitact.envs import shadow_map
from imitact.envs.aloha import CAMERAS, TASKS, AlohaEnv, scene_folder
from imitact.envs.aloha_renderer import load_mujoco
from imitact.envs.experts.cube import CubeExpert
from imitact.envs.shadow_map import ShadowMap

_SCENES = {
    "cube": "bimanual_viperx_transfer_cube.xml",
    "insertion": "bimanual_viperx_insertion.xml",
}


class Theirs:
    """dm_control's own render, which is all that gym-aloha calls, of the state of an AlohaEnv."""

    def __init__(self, task: str) -> None:
        load_mujoco()
        from dm_control.mujoco import Physics

        self._physics: Any = Physics.from_xml_path(str(scene_folder() / _SCENES[task]))

    def frame(self, env: AlohaEnv, camera: str) -> np.ndarray:
        self._physics.data.qpos[:] = env._data.qpos
        self._physics.forward()
        return self._physics.render(height=480, width=640, camera_id=camera)

    def close(self) -> None:
        self._physics.free()


@pytest.fixture
def env(request: pytest.FixtureRequest) -> Iterator[AlohaEnv]:
    made = AlohaEnv(getattr(request, "param", "cube"), CAMERAS)
    yield made
    made.close()


def own_map(env: AlohaEnv) -> ShadowMap:
    """The map that is in use; on a machine without a software renderer there is none to test."""
    assert env._renderer is not None
    if env._renderer._shadows is None:
        from OpenGL import GL

        with env._renderer._gl.make_current() as gl:
            name = gl.call(GL.glGetString, GL.GL_RENDERER)
        assert b"llvmpipe" not in name, "the map is not used where it was made for"
        pytest.skip(f"the renderer is {name}")
    return env._renderer._shadows


def casts(env: AlohaEnv, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many geoms are drawn into the map, call by call."""
    own_map(env)
    told: list[int] = []
    cast = ShadowMap._cast

    def counted(self: ShadowMap, casters: dict[int, Any], ids: Any) -> None:
        told.append(len(ids))
        cast(self, casters, ids)

    monkeypatch.setattr(ShadowMap, "_cast", counted)
    return told


def test_a_carried_cube_looks_the_same_from_every_camera_as_dm_control_draws_it(
    env: AlohaEnv,
) -> None:
    theirs, expert = Theirs("cube"), CubeExpert()
    observation = env.reset(42)
    expert.reset(42)
    reached = set()
    for tick in range(env.step_cap):
        if tick % 40 == 1:
            for camera in CAMERAS:
                expected = theirs.frame(env, camera)
                assert np.array_equal(observation.frames[camera], expected), (tick, camera)
        outcome = env.step(expert.chunk(observation)[0])
        observation = outcome.observation
        reached.add(outcome.reward)
    assert reached >= {0, 2, 4}
    own_map(env)
    theirs.close()


@pytest.mark.parametrize("env", TASKS, indirect=True)
def test_arms_that_jump_anywhere_leave_no_shadow_behind(env: AlohaEnv) -> None:
    theirs, rng = Theirs(env.task), np.random.default_rng(3)
    for jump in range(5):
        observation = env.reset(jump)
        low, high = env._model.jnt_range[:16].T
        env._data.qpos[:16] = rng.uniform(low, high)
        # Beside the map, on its edge and above the light's view too.
        env._data.qpos[16:18] += rng.uniform(-2.0, 2.0, 2) * jump
        env._mj.mj_forward(env._model, env._data)
        for camera in CAMERAS:
            assert np.array_equal(observation.frames[camera], theirs.frame(env, camera)), (
                jump,
                camera,
            )
    own_map(env)
    theirs.close()


def test_what_never_moves_is_drawn_once_and_a_tick_once_for_all_cameras(
    env: AlohaEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = env.reset(0)
    _ = observation.frames["top"]
    told = casts(env, monkeypatch)
    _ = observation.frames["angle"]
    assert told == []
    observation = env.step(observation.state).observation
    _ = dict(observation.frames)
    assert len(own_map(env)._static) == 3, "the table and two bases"
    assert told == [len(own_map(env)._moving)]


def test_a_map_that_is_not_mujocos_is_not_used(
    env: AlohaEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dict(env.reset(0).frames)
    own_map(env)
    # As if another MuJoCo moved casters a little further from the light.
    monkeypatch.setattr(shadow_map, "_OFFSET_UNITS", -5.0)
    other = AlohaEnv("cube", CAMERAS)
    frames = dict(other.reset(0).frames)
    assert other._renderer is not None
    assert other._renderer._shadows is None
    assert all(np.array_equal(frames[camera], expected[camera]) for camera in CAMERAS)
    other.close()
