"""ALOHA simulation: equal to gym-aloha, without global state, rendered only on demand."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imitact.core import validate
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ
from imitact.core.errors import BadInput, ImitactError, NotFinite, SpecMismatch
from imitact.envs import aloha
from imitact.envs.aloha import CAMERAS, REAL_ALOHA_CAMERAS, AlohaEnv, AlohaTruth
from imitact.envs.aloha_renderer import load_mujoco
from imitact.envs.experts.cube import CubeExpert

GYM_IDS = {"cube": "gym_aloha/AlohaTransferCube-v0", "insertion": "gym_aloha/AlohaInsertion-v0"}


def gym_env(task: str) -> Any:
    load_mujoco()
    import gym_aloha  # noqa: F401  # registers its environments
    import gymnasium

    return gymnasium.make(GYM_IDS[task], obs_type="pixels_agent_pos", max_episode_steps=400)


def random_actions(task: str, ticks: int, seed: int, dtype: Any) -> np.ndarray:
    """Return random actions around the start pose, with grippers beyond 0 and 1."""
    start = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.5] * 2)
    rng = np.random.default_rng(seed)
    return (start + np.cumsum(rng.normal(0, 0.1, (ticks, 14)), axis=0)).astype(dtype)


@pytest.mark.parametrize(
    ("task", "dtype"), [("cube", np.float64), ("cube", np.float32), ("insertion", np.float64)]
)
def test_state_and_pixels_equal_gym_alohas_bit_for_bit(task: str, dtype: Any) -> None:
    seed = 1003
    ours, small, theirs = AlohaEnv(task), AlohaEnv(task, ("angle", "top"), 60, 90), gym_env(task)
    seen, (expected, _) = ours.reset(seed), theirs.reset(seed=seed)
    small.reset(seed + 1)
    for action in [*random_actions(task, 3, 1, dtype), None]:
        assert np.array_equal(seen.state, expected["agent_pos"])
        # Render in another context in between: neither may draw into the other.
        assert small.step(small.reset(7).state).observation.frames["top"].shape == (60, 90, 3)
        assert np.array_equal(seen.frames["top"], expected["pixels"]["top"])
        if action is not None:
            result = ours.step(action)
            expected, reward, _, _, _ = theirs.step(action)
            seen = result.observation
            assert result.reward == reward
    ours.close()
    small.close()


def test_states_and_rewards_of_a_transfer_equal_gym_alohas_at_every_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = 42
    ours, expert, theirs = AlohaEnv("cube", ()), CubeExpert(), gym_env("cube").unwrapped
    from dm_control.mujoco import Physics

    blank = np.zeros((480, 640, 3), np.uint8)
    monkeypatch.setattr(Physics, "render", lambda self, *size, **camera: blank)
    observation, _ = ours.reset(seed), theirs.reset(seed=seed)
    expert.reset(seed)
    reached = set()
    for _ in range(ours.step_cap):
        action = expert.chunk(observation)[0]
        result = ours.step(action)
        expected, reward, terminated, _, _ = theirs.step(action)
        observation = result.observation
        assert np.array_equal(observation.state, expected["agent_pos"])
        assert result.reward == reward
        assert result.success == terminated
        reached.add(reward)
    assert reached >= {0, 2, 4}


@pytest.mark.parametrize("task", ["cube", "insertion"])
def test_rewards_of_random_contacts_equal_gym_alohas(task: str) -> None:
    env = AlohaEnv(task, ())
    from gym_aloha.tasks import sim

    judge = sim.TransferCubeTask() if task == "cube" else sim.InsertionTask()
    names = ["table", "vx300s_left/10_left_gripper_finger", "vx300s_right/10_right_gripper_finger"]
    names += ["vx300s_left/10_right_gripper_finger", "vx300s_right/10_left_gripper_finger"]
    names += ["red_box"] if task == "cube" else ["red_peg", "pin", "socket-1", "socket-4"]
    ids = {env._model.geom(name).id: name for name in names}
    pairs = list(itertools.permutations(ids, 2))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(3000):
        some = rng.choice(len(pairs), size=rng.integers(0, 7), replace=False)
        contacts = np.array([pairs[i] for i in some], np.int32).reshape(-1, 2)
        physics = SimpleNamespace(
            data=SimpleNamespace(
                ncon=len(contacts),
                contact=[SimpleNamespace(geom1=a, geom2=b) for a, b in contacts.tolist()],
            ),
            model=SimpleNamespace(id2name=lambda at, kind: ids[at]),
        )
        expected = judge.get_reward(physics)
        assert env._scene._rewards.reward(contacts) == expected
        seen.add(expected)
    assert seen == {0, 1, 2, 3, 4}


def test_names_and_constants_equal_gym_alohas() -> None:
    from gym_aloha import constants

    assert list(ALOHA_JOINTS) == constants.JOINTS == constants.ACTIONS
    assert aloha._START.tolist() == constants.START_ARM_POSE
    assert aloha.FINGER_OPEN_M == constants.PUPPET_GRIPPER_POSITION_OPEN
    assert aloha.FINGER_CLOSED_M == constants.PUPPET_GRIPPER_POSITION_CLOSE
    assert 1 / ALOHA_RATE_HZ == constants.DT
    assert aloha.scene_folder() == constants.ASSETS_DIR


@pytest.mark.parametrize("task", ["cube", "insertion"])
def test_the_environment_fulfills_the_contract_of_an_env(task: str) -> None:
    env = AlohaEnv(task, ("left_wrist",), 48, 64)
    validate.check_env(env, ticks=2)
    assert (env.step_cap, len(env.stages)) == ({"cube": 400, "insertion": 500}[task], 5)
    assert env.spec.state_names == env.spec.action_names == ALOHA_JOINTS
    assert [
        u for u, n in zip(env.spec.state_units, ALOHA_JOINTS, strict=True) if "gripper" in n
    ] == [
        "1",
        "1",
    ]
    env.close()


def test_two_environments_are_independent() -> None:
    alone, other = AlohaEnv("cube", ()), AlohaEnv("cube", ())
    actions = random_actions("cube", 20, 2, np.float64)
    alone.reset(5)
    expected = [alone.step(action).observation.state for action in actions]
    alone.reset(5)
    other.reset(6)
    for tick, action in enumerate(actions):
        other.step(actions[-1 - tick])
        assert np.array_equal(alone.step(action).observation.state, expected[tick])


@pytest.mark.parametrize(("task", "objects"), [("cube", 1), ("insertion", 2)])
def test_the_start_depends_on_the_seed_only(task: str, objects: int) -> None:
    env = AlohaEnv(task, ())

    def start(seed: int) -> np.ndarray:
        truth = env.reset(seed).privileged
        assert isinstance(truth, AlohaTruth)
        assert truth.tick == 0
        assert truth.qpos.shape == (16 + 7 * objects,)
        return np.array([truth.pose(i)[:2] for i in range(objects)])

    first = start(11)
    env.step(random_actions(task, 1, 0, np.float64)[0])
    assert np.array_equal(start(11), first)
    assert not np.array_equal(start(12), first)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_gym_alohas_range_is_refused(seed: int) -> None:
    with pytest.raises(BadInput, match="gym-aloha's seeds are from 0 to 2"):
        AlohaEnv("cube", ()).reset(seed)


def test_nothing_is_rendered_unless_a_frame_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(aloha.SceneRenderer, "__init__", lambda self, *a: None)
    monkeypatch.setattr(
        aloha.SceneRenderer, "render", lambda self, data, camera: drawn.append(camera)
    )
    env = AlohaEnv("cube", ("top", "angle"))
    observation = env.reset(0)
    for action in random_actions("cube", 5, 3, np.float64):
        observation = env.step(action).observation
    assert drawn == []
    _ = observation.frames["angle"], observation.frames["angle"]
    assert drawn == [env._model.camera("angle").id]


def test_a_frame_is_never_taken_from_a_later_tick() -> None:
    env = AlohaEnv("cube", ("top", "angle"), 24, 32)
    early = env.reset(0)
    kept = early.frames["top"].copy()
    env.step(early.state)
    assert np.array_equal(early.frames["top"], kept)
    with pytest.raises(ImitactError, match="environment had moved on"):
        _ = early.frames["angle"]
    late = env.reset(0)
    env.close()
    with pytest.raises(ImitactError, match="environment had moved on"):
        _ = late.frames["angle"]


def test_cameras_show_different_views_at_any_size() -> None:
    # Larger than the 640x480 pixels of the scene's framebuffer, and of another aspect ratio.
    env = AlohaEnv("cube", CAMERAS, 500, 700)
    frames = dict(env.reset(3).frames)
    assert tuple(frames) == CAMERAS == tuple(c.name for c in env.spec.cameras)
    assert {f.shape for f in frames.values()} == {(500, 700, 3)}
    assert len({f.tobytes() for f in frames.values()}) == len(CAMERAS) == 7
    assert all(f.std() > 5 for f in frames.values()), "a view is empty"
    env.close()


def test_the_real_alohas_cameras_exist_in_the_scene() -> None:
    assert len(REAL_ALOHA_CAMERAS) == 4
    assert set(REAL_ALOHA_CAMERAS) < set(CAMERAS)
    assert "top" in REAL_ALOHA_CAMERAS


def test_unknown_tasks_and_cameras_are_refused_with_the_choices() -> None:
    with pytest.raises(
        BadInput, match=r'no task of the ALOHA scene "cubes"; expected cube, insertion'
    ):
        AlohaEnv("cubes")
    with pytest.raises(BadInput, match=r'no camera of the ALOHA scene "side"; .*front_close'):
        AlohaEnv("cube", ("top", "side"))
    with pytest.raises(BadInput, match="camera names must differ"):
        AlohaEnv("cube", ("top", "top"))
    with pytest.raises(BadInput, match="0x640"):
        AlohaEnv("cube", ("top",), 0, 640)


def test_a_single_camera_may_be_given_as_a_string() -> None:
    assert [c.name for c in AlohaEnv("cube", "top").spec.cameras] == ["top"]


def test_an_invalid_action_does_not_change_the_state() -> None:
    env = AlohaEnv("cube", ())
    with pytest.raises(ImitactError, match=r"reset\(seed\) first"):
        env.step(np.zeros(14))
    state = env.reset(0).state
    for wrong, error in ((np.zeros(13), SpecMismatch), (np.full(14, np.nan), NotFinite)):
        with pytest.raises(error, match="left_arm_waist"):
            env.step(wrong)
    assert np.array_equal(env._observation().state, state)


def test_a_diverged_simulation_raises_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a MUJOCO_LOG.TXT
    env = AlohaEnv("cube", ())
    state = env.reset(0).state
    env._data.qvel[:] = 1e12
    with pytest.raises(NotFinite, match=r"tick 1 \(mjWARN_BAD"):
        env.step(state)
    env.reset(0)
    env.step(state)


def digest(seed: int, build: Any) -> str:
    env = build()
    frames = env.step(env.reset(seed).state).observation.frames
    found = hashlib.sha256(frames["top"].tobytes() + frames["angle"].tobytes()).hexdigest()
    env.close()
    return found


def test_a_spawned_process_renders_the_same_pixels() -> None:
    build = partial(AlohaEnv, "cube", ("top", "angle"), 96, 128)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(digest, 4, build).result(timeout=120) == digest(4, build)


def in_a_fresh_python(code: str, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_environment_imports_no_simulator_and_sets_no_variable() -> None:
    code = (
        "import os, sys, imitact.envs.aloha, imitact.envs.experts.registry\n"
        "loaded = {'mujoco', 'dm_control', 'mink', 'gym_aloha', 'torch'} & set(sys.modules)\n"
        "print(sorted(loaded), os.environ.get('MUJOCO_GL'))"
    )
    assert in_a_fresh_python(code) == "[] None"
    # The check can fail: it finds a module that is imported.
    assert in_a_fresh_python(f"import mujoco\n{code}").startswith("['mujoco']")


def test_egl_is_selected_only_if_nothing_else_is() -> None:
    code = (
        "import os\nfrom imitact.envs.aloha import AlohaEnv\n"
        "AlohaEnv('cube', ()); print(os.environ['MUJOCO_GL'])"
    )
    assert in_a_fresh_python(code) == "egl"
    assert in_a_fresh_python(code, MUJOCO_GL="disabled") == "disabled"


def test_outside_linux_mujoco_chooses_its_opengl() -> None:
    code = (
        "import os, sys, types\nfrom imitact.envs.aloha import load_mujoco\n"
        "sys.modules['mujoco'] = types.ModuleType('mujoco')\n"
        "sys.platform = 'darwin'; load_mujoco(); print(os.environ.get('MUJOCO_GL'))\n"
        "sys.platform = 'linux'; load_mujoco(); print(os.environ.get('MUJOCO_GL'))"
    )
    assert in_a_fresh_python(code) == "None\negl"


def test_python_exits_silently_with_an_open_environment() -> None:
    code = (
        "from imitact.envs.aloha import AlohaEnv\n"
        "env = AlohaEnv('cube', 'top', 48, 64); print(env.reset(0).frames['top'].shape)"
    )
    assert in_a_fresh_python(code) == "(48, 64, 3)"


def test_without_opengl_the_error_names_the_debian_packages() -> None:
    code = (
        "from imitact.core.types import BadInput\nfrom imitact.envs.aloha import AlohaEnv\n"
        "try:\n    AlohaEnv('cube').reset(0).frames['top']\n"
        "except BadInput as error:\n    print(error)"
    )
    for backend in ("disabled", "nonsense"):
        message = in_a_fresh_python(code, MUJOCO_GL=backend)
        assert f"MUJOCO_GL {backend}" in message
        for package in ("libegl1", "libgl1-mesa-dri", "libosmesa6"):
            assert package in message
