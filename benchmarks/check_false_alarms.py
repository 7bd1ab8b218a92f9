"""Study of checks: findings in good demonstrations of seven worlds, and in the same with faults.

    python benchmarks/check_false_alarms.py [--gym-python PYTHON] [--rows runs/check-rows]
        [--real FILE.npz ...] [--write benchmarks/results/check_false_alarms.json]

The worlds are the two ALOHA tasks with their scripted experts, gym-pusht, gym-xarm, and two MuJoCo
arms of six joints with soft and with stiff servos, the soft one also at 10 Hz with short episodes.
gym-pusht and gym-xarm need other versions than imitact; `--gym-python` names the Python of an
environment that has both:
`pip install gym-pusht gym-xarm 'pymunk<7'`. States and actions are kept in `--rows`; no frame is
rendered. `--real` adds datasets of real robots, whose demonstrations nobody vouched for: an npz
file with state, action, lengths and names (JSON: state names, action names, rate). They are
reported, not part of the law: no error in any good episode, and every fault found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Rows = tuple[np.ndarray, np.ndarray]

COUNTS = {
    "cube": 70,
    "insertion": 70,
    "pusht": 100,
    "xarm": 100,
    "soft": 100,
    "stiff": 100,
    "reach": 100,
}
"""Good episodes of each world."""

ARM_JOINTS = ("pan", "lift", "elbow", "wrist", "roll", "gripper")
UNITS = {
    "pusht": ("px",) * 2,
    "xarm": ("unknown",) * 4,
    "soft": ("rad",) * 5 + ("1",),
    "stiff": ("unknown",) * 6,
    "reach": ("rad",) * 5 + ("1",),
}
RATES_HZ = {"pusht": 10.0, "xarm": 25.0, "soft": 30.0, "stiff": 30.0, "reach": 10.0}
ARMS = ("soft", "stiff", "reach")
PARTS = (1, 3, 10)
"""Episodes of small datasets: each world is checked whole and in parts of these sizes."""

FAULTY = 12
"""Episodes of a dataset with a fault, most of which are in episode 5."""


# --- worlds ---


def collect_aloha(task: str, count: int) -> list[Rows]:
    from imitact.core.chunking import Replay
    from imitact.core.rollout import rollout
    from imitact.envs.aloha import AlohaEnv
    from imitact.envs.experts.registry import make_expert

    env, expert, episodes = AlohaEnv(task), make_expert(task), []
    seed = 0
    while len(episodes) < count:
        ticks = list(rollout(expert, env, seed=seed, chunking=Replay(1)))
        seed += 1
        if all(tick.success for tick in ticks[-10:]):
            episodes.append(
                (
                    np.stack([np.asarray(t.observation.state) for t in ticks]),
                    np.stack([t.action for t in ticks]),
                )
            )
    return episodes


def collect_pusht(count: int) -> list[Rows]:
    """Push the block from behind, towards the goal, again and again."""
    import gym_pusht  # noqa: F401  # pyright: ignore[reportMissingImports]
    import gymnasium

    env = gymnasium.make("gym_pusht/PushT-v0", obs_type="state", max_episode_steps=10_000)
    episodes = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        found, _ = env.reset(seed=seed)
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        target = found[:2].copy()
        for _ in range(int(rng.integers(3, 6))):
            towards = np.array([256.0, 256.0]) - found[2:4] + rng.normal(0, 20, 2)
            towards /= np.linalg.norm(towards) + 1e-6
            across = np.array([-towards[1], towards[0]]) * rng.choice([-1, 1])
            behind = found[2:4] - 110 * towards
            speed = rng.uniform(15, 35)
            for goal in (behind + 60 * across, behind, found[2:4] - 40 * towards):
                goal = np.clip(goal, 20, 490)
                for _ in range(40):
                    way = goal - target
                    far = float(np.linalg.norm(way))
                    if far < 3:
                        break
                    step = way * min(1.0, speed / far) * min(1.0, 0.3 + far / 60)
                    target = np.clip(target + step + rng.normal(0, 0.7, 2), 1, 511)
                    rows.append((found[:2].copy(), target.copy()))
                    found = env.step(target.astype(np.float32))[0]
        episodes.append(tuple(np.stack(part) for part in zip(*rows, strict=True)))
    return episodes


def collect_xarm(count: int) -> list[Rows]:
    """Go above the cube, down, close, lift; actions are steps of the hand, not positions."""
    import gym_xarm  # noqa: F401  # pyright: ignore[reportMissingImports]
    import gymnasium

    env = gymnasium.make("gym_xarm/XarmLift-v0", obs_type="state", max_episode_steps=10_000)
    world: Any = env.unwrapped
    episodes = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        gain, rows = rng.uniform(6, 12), []
        for name, ticks in (("above", 30), ("down", 30), ("close", 12), ("lift", 35)):
            top = world.obj + np.array([0, 0, 0.09 if name == "above" else 0.0])
            goal = world.eef + np.array([0, 0, 0.2]) if name == "lift" else top
            for _ in range(ticks):
                way = goal - world.eef if name != "close" else np.zeros(3)
                if name in ("above", "down") and np.linalg.norm(way) < 0.008:
                    break
                grip = 1.0 if name in ("close", "lift") else -1.0
                action = np.append(gain * way, grip) + np.append(rng.normal(0, 0.03, 3), 0)
                action = np.clip(action, -1, 1).astype(np.float32)
                rows.append((np.asarray(world.robot_state, np.float64).copy(), action))
                env.step(action)
        episodes.append(tuple(np.stack(part) for part in zip(*rows, strict=True)))
    return episodes


def arm_xml(stiffness: float, damping: float, weak: float = 1.0) -> str:
    """MJCF of an arm; `weak` scales the servos of wrist and roll, which the others pull along."""
    shares = (1, 1, 0.8, 0.4 * weak, 0.15 * weak, 0.3)
    servos = "".join(
        f'<position joint="{name}" kp="{stiffness * share}" kv="{damping * share}"/>'
        for name, share in zip(ARM_JOINTS, shares, strict=True)
    )
    return f"""
<mujoco><option timestep="0.002"/><compiler angle="radian"/>
<default><joint damping="{0.15 * weak}" armature="0.005" frictionloss="{0.02 * weak}"/>
<geom type="capsule" size="0.02" density="900"/></default>
<worldbody><body pos="0 0 0.1"><joint name="pan" axis="0 0 1"/><geom fromto="0 0 0 0 0 .05"/>
<body pos="0 0 0.05"><joint name="lift" axis="0 1 0"/><geom fromto="0 0 0 0 0 .2"/>
<body pos="0 0 0.2"><joint name="elbow" axis="0 1 0"/><geom fromto="0 0 0 .18 0 0"/>
<body pos="0.18 0 0"><joint name="wrist" axis="0 1 0"/><geom fromto="0 0 0 .06 0 0"/>
<body pos="0.06 0 0"><joint name="roll" axis="1 0 0"/><geom fromto="0 0 0 .03 .05 0"/>
<body pos="0.03 0.03 0"><joint name="gripper" axis="0 0 1"/><geom fromto="0 0 0 .07 .01 0"
size=".01" density="{900 / weak}"/>
</body></body></body></body></body></body></worldbody>
<actuator>{servos}</actuator></mujoco>"""


def collect_arm(kind: str, count: int) -> list[Rows]:
    """Min-jerk motions between random points; pan or roll are hardly commanded in some datasets.

    The stiff arm reads whole encoder counts of 360/4096 degrees, and is measured in degrees.
    """
    import mujoco

    kp, kv = (60.0, 1.5) if kind == "stiff" else (10.0, 0.6)
    rate_hz = RATES_HZ[kind]
    model: Any = mujoco.MjModel.from_xml_string(arm_xml(kp, kv, 0.15 if kind == "reach" else 1.0))  # pyright: ignore
    data: Any = mujoco.MjData(model)  # pyright: ignore
    centre = np.array([0.0, 0.3, 0.4, 0.4, 0.2, 0.5])
    episodes = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        # Ten episodes in a row are of one task, in which some joints are hardly commanded.
        task = np.random.default_rng(1000 + seed // 10)
        spread = np.array([0.9, 0.5, 0.5, 0.6, 0.8, 0.5])
        spread[task.choice([0, 3, 4], task.integers(0, 3), replace=False)] *= 0.1
        moves, rest_s = int(task.integers(2, 6)), task.uniform(0, 0.4)
        if kind == "reach":
            moves, rest_s = 2, 0.4
        at = centre + rng.normal(0, 0.05, 6)
        wanted = [at[None]] * int(rng.integers(0, int(rate_hz / 3)))
        for _ in range(moves):
            to = centre + spread * rng.uniform(-1, 1, 6)
            to[5] = rng.choice([0.0, 0.9])
            if kind == "reach":  # hardly commanded, and pulled along by the others
                to[3] = centre[3] - 0.25 * (to[1] + to[2] - centre[1] - centre[2])
            along = np.linspace(0, 1, int(rng.uniform(0.5, 1.4) * rate_hz))[1:, None]
            wanted.append(at + (to - at) * (10 * along**3 - 15 * along**4 + 6 * along**5))
            wanted.append(np.tile(to, (int(rest_s * rate_hz), 1)))
            at = to
        action = np.concatenate(
            [*wanted, np.tile(at, (int(rng.integers(int(rate_hz / 5), int(rate_hz))), 1))]
        )
        mujoco.mj_resetData(model, data)  # pyright: ignore
        data.qpos[:] = data.ctrl[:] = action[0]
        for _ in range(int(rng.choice([0, 500]))):  # some begin while the arm still sags
            mujoco.mj_step(model, data)  # pyright: ignore
        state = np.empty_like(action)
        for tick, command in enumerate(action):
            state[tick] = data.qpos
            data.ctrl[:] = command
            for _ in range(round(1 / rate_hz / 0.002)):
                mujoco.mj_step(model, data)  # pyright: ignore
        if kind == "stiff":
            count_deg = 360 / 4096
            state = np.round(np.rad2deg(state) / count_deg) * count_deg
            action = np.rad2deg(action)
        else:
            state = state + rng.normal(0, 0.0005, state.shape)
        episodes.append((state, action))
    return episodes


def collect(world: str, count: int) -> list[Rows]:
    if world in ("cube", "insertion"):
        return collect_aloha(world, count)
    if world in ARMS:
        return collect_arm(world, count)
    return {"pusht": collect_pusht, "xarm": collect_xarm}[world](count)


def save(path: Path, episodes: list[Rows]) -> None:
    state, action = (
        np.concatenate([episode[part] for episode in episodes]).astype(np.float32)
        for part in (0, 1)
    )
    np.savez(path, state=state, action=action, lengths=[len(state) for state, _ in episodes])


def load(path: Path) -> list[Rows]:
    with np.load(path, allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["lengths"])[:-1]
        parts = [np.split(arrays[name], ends) for name in ("state", "action")]
    return list(zip(*parts, strict=True))


# --- faults: each takes the episodes and returns them with the fault, and the episode of the fault


def _one(change: Callable[[np.ndarray, np.ndarray], Rows], episode: int = 5) -> Any:
    def apply(episodes: list[Rows]) -> tuple[list[Rows], int | None]:
        given = list(episodes)
        state, action = given[episode]
        given[episode] = change(state.copy(), action.copy())
        return given, episode

    return apply


def _all(change: Callable[[np.ndarray, np.ndarray], Rows]) -> Any:
    return lambda episodes: ([change(s.copy(), a.copy()) for s, a in episodes], None)


def _busiest(state: np.ndarray, action: np.ndarray) -> int:
    """The joint that is commanded to move farthest; no gripper, which is the last where it is."""
    travel = np.ptp(action, axis=0)[: max(2, action.shape[1] - 1)]
    return int(np.argmax(travel))


def late(state: np.ndarray, action: np.ndarray, ticks: int = 3) -> Rows:
    return state[ticks:], action[:-ticks]


def early(state: np.ndarray, action: np.ndarray, ticks: int = 3) -> Rows:
    return state[:-ticks], action[ticks:]


def offset(state: np.ndarray, action: np.ndarray) -> Rows:
    joint = _busiest(state, action)
    state[:, joint] += 0.4 * np.ptp(state[:, joint])
    return state, action


def offset_all(episodes: list[Rows]) -> tuple[list[Rows], int | None]:
    """One joint off by the same amount in all: 0.3 of what it usually moves, or more."""
    joint = _busiest(*episodes[5])
    by = 0.3 * float(np.median([np.ptp(state[:, joint]) for state, _ in episodes]))
    change = np.zeros(episodes[0][0].shape[1])
    change[joint] = max(by, 0.25) if np.ptp(episodes[5][0]) < 20 else by
    return [(state + change, action) for state, action in episodes], None


def swapped(state: np.ndarray, action: np.ndarray) -> Rows:
    state[:, [0, 1]] = state[:, [1, 0]]
    return state, action


def frozen(state: np.ndarray, action: np.ndarray) -> Rows:
    joint = _busiest(state, action)
    state[:, joint] = state[0, joint]
    return state, action


def dropout(state: np.ndarray, action: np.ndarray) -> Rows:
    ticks = max(5, len(state) // 8)
    speed = np.abs(np.diff(state, axis=0) / np.maximum(np.ptp(state, axis=0), 1e-6)).sum(axis=1)
    first = int(np.argmax(np.convolve(speed, np.ones(ticks), "valid")))
    state[first : first + ticks] = state[first]
    return state, action


def spike(state: np.ndarray, action: np.ndarray) -> Rows:
    state[len(state) // 2, _busiest(state, action)] = 2147.0
    return state, action


def small_spike(state: np.ndarray, action: np.ndarray) -> Rows:
    joint = _busiest(state, action)
    state[len(state) // 2, joint] += 1.5 * np.ptp(state[:, joint])
    return state, action


def runs_over(state: np.ndarray, action: np.ndarray) -> Rows:
    joint = _busiest(state, action)
    turn = max(2.5 * np.ptp(state[:, joint]), 1e-3)
    for rows in (state, action) if action.shape == state.shape else (state,):
        rows[:, joint] += turn / 2 - np.median(state[:, joint]) if rows is state else 0.0
    state[:, joint] = (state[:, joint] + turn / 2) % turn - turn / 2
    return state, action


def joined(episodes: list[Rows]) -> tuple[list[Rows], int | None]:
    given = list(episodes)
    parts = [(s[: len(s) * 2 // 3], a[: len(a) * 2 // 3]) for s, a in episodes[5:8]]
    given[5] = tuple(np.concatenate(rows) for rows in zip(*parts, strict=True))  # type: ignore
    return given, 5


def duplicated(episodes: list[Rows]) -> tuple[list[Rows], int | None]:
    return [*episodes, episodes[3]], len(episodes)


FAULTS: dict[str, Any] = {
    "actions late by 3 ticks, all": _all(late),
    "actions late by 3 ticks, one": _one(late),
    "actions early by 3 ticks, one": _one(early),
    "offset, all": offset_all,
    "offset, one": _one(offset),
    "joints swapped, all": _all(swapped),
    "joints swapped, one": _one(swapped),
    "frozen state, one": _one(frozen),
    "readings repeat, one": _one(dropout),
    "spike to 2147, one": _one(spike),
    "spike of 1.5 ranges, one": _one(small_spike),
    "counter runs over, one": _one(runs_over),
    "three rollouts joined": joined,
    "duplicate": duplicated,
}


# --- checks ---


def check(episodes: list[Rows], spec: Any) -> list[Any]:
    """Return the findings of `imitact check --no-frames`."""
    from imitact.quality.dataset_check import inspect_numbers

    def episode(index: int) -> Any:
        state, action = (np.asarray(part, np.float32) for part in episodes[index])
        return SimpleNamespace(index=index, state=state, action=action, times_s=None)

    lengths = tuple(len(state) for state, _ in episodes)
    dataset: Any = SimpleNamespace(spec=spec, lengths=lengths, episode=episode, extra_columns={})
    return inspect_numbers(dataset)


def spec_of(world: str) -> Any:
    from imitact.core.types import Spec

    if world in ("cube", "insertion"):
        from imitact.envs.aloha import AlohaEnv

        own = AlohaEnv(world).spec
        return Spec(
            own.state_names, own.action_names, own.state_units, own.action_units, (), own.rate_hz
        )
    units = UNITS[world]
    if world in ARMS:
        names = actions = ARM_JOINTS
    else:
        names = tuple(f"agent_pos_{n}" for n in range(len(units)))
        actions = tuple(f"action_{n}" for n in range(len(units)))
    return Spec(names, actions, units, units, (), RATES_HZ[world])


def without_units(spec: Any) -> Any:
    from dataclasses import replace

    return replace(
        spec,
        state_units=("unknown",) * spec.state_size,
        action_units=("unknown",) * spec.action_size,
    )


def count(found: list[Any]) -> dict[str, dict[str, int]]:
    severities = ("error", "warning")
    return {s: dict(Counter(f.kind for f in found if f.severity == s)) for s in severities}


def added(counts: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    return {
        s: dict(sum((Counter(each[s]) for each in counts), Counter())) for s in ("error", "warning")
    }


def new_kinds(found: list[Any], clean: list[Any], episode: int | None) -> list[str]:
    """Kinds of findings that name the fault, in its episode where it has one."""
    before = {(f.kind, f.episode, f.part) for f in clean}
    fresh = [f for f in found if (f.kind, f.episode, f.part) not in before]
    return sorted({f"{f.kind} ({f.severity})" for f in fresh if episode in (None, f.episode)})


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--gym-python", default=sys.executable)
    parser.add_argument("--rows", type=Path, default=Path("runs/check-rows"))
    parser.add_argument("--real", type=Path, nargs="*", default=())
    parser.add_argument("--write", type=Path)
    parser.add_argument("--label", default="now", help="key of the results in the file")
    parser.add_argument("--collect", nargs=2, metavar=("WORLD", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect:
        world, file = options.collect
        save(Path(file), collect(world, COUNTS[world]))
        return
    options.rows.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"good": {}, "faults": {}, "real": {}}
    episodes_total = errors_total = 0
    for world, wanted in COUNTS.items():
        file = options.rows / f"{world}.npz"
        if not file.exists():
            python = options.gym_python if world in ("pusht", "xarm") else sys.executable
            subprocess.run([python, __file__, "--collect", world, str(file)], check=True)
        episodes, spec = load(file), spec_of(world)
        assert len(episodes) == wanted
        row: dict[str, Any] = {"episodes": len(episodes)}
        for name, used in (("units", spec), ("no units", without_units(spec))):
            row[f"whole, {name}"] = count(check(episodes, used))
            for size in PARTS:
                parts = [episodes[at : at + size] for at in range(0, len(episodes), size)]
                row[f"parts of {size}, {name}"] = added([count(check(p, used)) for p in parts])
        episodes_total += len(episodes)
        errors_total += sum(sum(c["error"].values()) for c in row.values() if isinstance(c, dict))
        result["good"][world] = row
        print(world, json.dumps(row), flush=True)
        some = episodes[:FAULTY]
        clean = check(some, spec)
        for fault, apply in FAULTS.items():
            given, episode = apply(some)
            kinds = new_kinds(check(given, spec), clean, episode)
            result["faults"].setdefault(fault, {})[world] = kinds
            print(f"  {fault}: {', '.join(kinds) or 'NOT FOUND'}", flush=True)
    for file in options.real:
        from imitact.core.types import Spec

        with np.load(file, allow_pickle=False) as arrays:
            states, actions, rate_hz = json.loads(str(arrays["names"]))
        unknown = ("unknown",) * len(states), ("unknown",) * len(actions)
        spec = Spec(tuple(states), tuple(actions), *unknown, (), rate_hz)
        found = check(load(file), spec)
        result["real"][file.stem] = {"episodes": len(load(file)), **count(found)}
        print(file.stem, json.dumps(result["real"][file.stem]), flush=True)
    print(f"{errors_total} errors in {episodes_total} good episodes")
    if options.write:
        old = json.loads(options.write.read_text()) if options.write.exists() else {}
        text = json.dumps({**old, options.label: result}, separators=(",", ":"))
        options.write.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
