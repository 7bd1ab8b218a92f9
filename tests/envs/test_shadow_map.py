"""Shadow map: equal to MuJoCo's in every pose, or not used."""

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


class DmControlRenderer:
    """Renders the state of an AlohaEnv with dm_control, as gym-aloha does."""

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
    """Return the shadow map in use; skip the test on a machine without software rendering."""
    assert env._renderer is not None
    if env._renderer._shadows is None:
        from OpenGL import GL

        with env._renderer._gl.make_current() as gl:
            name = gl.call(GL.glGetString, GL.GL_RENDERER)
        assert b"llvmpipe" not in name, "the map is not used with the renderer that it is for"
        pytest.skip(f"the renderer is {name}")
    return env._renderer._shadows


def casts(env: AlohaEnv, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that records the number of geoms drawn by each call."""
    own_map(env)
    counts: list[int] = []
    cast = ShadowMap._cast

    def counted(self: ShadowMap, casters: dict[int, Any], ids: Any) -> None:
        counts.append(len(ids))
        cast(self, casters, ids)

    monkeypatch.setattr(ShadowMap, "_cast", counted)
    return counts


def test_frames_of_a_carried_cube_equal_dm_controls_for_every_camera(
    env: AlohaEnv,
) -> None:
    theirs, expert = DmControlRenderer("cube"), CubeExpert()
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
def test_the_map_equals_mujocos_after_arbitrary_jumps(env: AlohaEnv) -> None:
    theirs, rng = DmControlRenderer(env.task), np.random.default_rng(3)
    for jump in range(5):
        observation = env.reset(jump)
        low, high = env._model.jnt_range[:16].T
        env._data.qpos[:16] = rng.uniform(low, high)
        # Also outside of the map, on its edge and above the light's view.
        env._data.qpos[16:18] += rng.uniform(-2.0, 2.0, 2) * jump
        env._mj.mj_forward(env._model, env._data)
        for camera in CAMERAS:
            assert np.array_equal(observation.frames[camera], theirs.frame(env, camera)), (
                jump,
                camera,
            )
    own_map(env)
    theirs.close()


def test_static_geoms_are_drawn_once_and_moving_ones_once_per_tick(
    env: AlohaEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = env.reset(0)
    _ = observation.frames["top"]
    counts = casts(env, monkeypatch)
    _ = observation.frames["angle"]
    assert counts == []
    observation = env.step(observation.state).observation
    _ = dict(observation.frames)
    assert len(own_map(env)._static) == 3, "the table and two bases"
    assert counts == [len(own_map(env)._moving)]


def test_a_map_that_differs_from_mujocos_is_not_used(
    env: AlohaEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dict(env.reset(0).frames)
    own_map(env)
    # As if another version of MuJoCo offset casters more.
    monkeypatch.setattr(shadow_map, "_OFFSET_UNITS", -5.0)
    other = AlohaEnv("cube", CAMERAS)
    frames = dict(other.reset(0).frames)
    assert other._renderer is not None
    assert other._renderer._shadows is None
    assert all(np.array_equal(frames[camera], expected[camera]) for camera in CAMERAS)
    other.close()
