"""Rendering benchmark: time of a frame of the ALOHA scene, by part, beside gym-aloha's.

    LP_NUM_THREADS=1 taskset -c 1 python benchmarks/render.py --write

gym-aloha renders with `env.physics.render` of dm_control. Both render the same states in turn, in
one process, so that the load of the machine affects both alike: compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from imitact.envs.aloha import CAMERAS, REAL_ALOHA_CAMERAS, AlohaEnv
from imitact.envs.aloha_renderer import load_mujoco
from imitact.envs.experts.cube import CubeExpert

RESULTS = Path(__file__).parent / "results" / "render.json"


class Bench:
    """The same states of a cube transfer in AlohaEnv and in gym-aloha's environment."""

    def __init__(self) -> None:
        load_mujoco()
        import gym_aloha  # noqa: F401  # registers its environments
        import gymnasium

        self.env: Any = AlohaEnv("cube", CAMERAS)
        gym: Any = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
        gym.reset(seed=1003)
        self.physics: Any = gym.unwrapped._env.physics
        self.expert = CubeExpert()
        self.seen = self.env.reset(1003)
        self.expert.reset(1003)
        _ = self.seen.frames["top"]

    def move(self, ticks: int) -> None:
        """Advance ours, and copy its state to gym-aloha's."""
        for _ in range(ticks):
            self.seen = self.env.step(self.expert.chunk(self.seen)[0]).observation
        self.physics.data.qpos[:] = self.env._data.qpos
        self.physics.forward()

    def theirs(self, camera: str) -> np.ndarray:
        return self.physics.render(height=480, width=640, camera_id=camera)

    def ours(self, camera: str) -> np.ndarray:
        return self.env._render(camera)

    def parts(self, camera: str) -> dict[str, float]:
        """Return the ms of each part of one of our frames, in a tick without a shadow map yet.

        Each part waits until the previous one is finished, which rendering a frame does not.
        """
        renderer, mj, env = self.env._renderer, self.env._mj, self.env
        scene, context, gl = renderer._scene, renderer._context, renderer._gl
        frame = np.empty((480, 640, 3), np.uint8)
        renderer._camera.fixedcamid = env._camera_ids[camera]
        if renderer._shadows is not None:
            renderer._shadows._drawn = b""
        parts_ms: dict[str, float] = {}
        with gl.make_current() as current:

            def part(name: str, call: Callable[..., object], *args: Any) -> None:
                began = time.perf_counter()
                current.call(call, *args)
                current.call(mj.mjr_finish)
                parts_ms[name] = parts_ms.get(name, 0.0) + 1e3 * (time.perf_counter() - began)

            view = (renderer._option, renderer._perturb, renderer._camera, mj.mjtCatBit.mjCAT_ALL)
            part("update scene", mj.mjv_updateScene, env._model, env._data, *view, scene)
            if renderer._shadows is not None:
                part("shadow map", renderer._shadows.draw, scene, env._data)
            part("draw", mj.mjr_render, renderer._rect, scene, context)
            part("resolve and read", mj.mjr_readPixels, frame, None, renderer._rect, context)
            part("turn upright", np.ascontiguousarray, frame[::-1])
        return parts_ms


def timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the ms of a call, and its frame."""
    began = time.perf_counter()
    frame = call()
    return 1e3 * (time.perf_counter() - began), frame


def median(values: list[float]) -> float:
    return round(float(np.median(values)), 2)


def compare(bench: Bench, states: int) -> dict[str, Any]:
    """Time one camera per tick, for each camera of the scene, then ALOHA's four in one tick."""
    found: dict[str, Any] = {"one camera a tick": {}}
    for camera in CAMERAS:
        before, after, parts, equal = [], [], [], True
        for _ in range(states):
            bench.move(3)
            their_ms, their_frame = timed(lambda camera=camera: bench.theirs(camera))
            our_ms, our_frame = timed(lambda camera=camera: bench.ours(camera))
            equal &= np.array_equal(their_frame, our_frame)
            before.append(their_ms)
            after.append(our_ms)
            parts.append(bench.parts(camera))
        found["one camera a tick"][camera] = {
            "gym-aloha ms": median(before),
            "ours ms": median(after),
            "ratio": median([b / a for a, b in zip(before, after, strict=True)]),
            "same pixels": bool(equal),
            "parts ms": {name: median([part[name] for part in parts]) for name in parts[0]},
        }
    before, after = [], []
    for _ in range(states):
        bench.move(3)
        before.append(sum(timed(lambda c=c: bench.theirs(c))[0] for c in REAL_ALOHA_CAMERAS))
        after.append(sum(timed(lambda c=c: bench.ours(c))[0] for c in REAL_ALOHA_CAMERAS))
    found["four cameras a tick"] = {
        "gym-aloha ms": median(before),
        "ours ms": median(after),
        "ratio": median([b / a for a, b in zip(before, after, strict=True)]),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--states", type=int, default=9, help="states per camera, for the medians")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    bench = Bench()
    found = compare(bench, args.states)
    found["own shadow map"] = bench.env._renderer._shadows is not None
    found["versions"] = {name: version(name) for name in ("mujoco", "dm-control", "gym-aloha")}
    for camera, row in found["one camera a tick"].items():
        parts = ", ".join(f"{name} {ms:.1f}" for name, ms in row["parts ms"].items())
        print(
            f"{camera:12} gym-aloha {row['gym-aloha ms']:6.1f} ms, ours {row['ours ms']:6.1f} ms, "
            f"ratio {row['ratio']:.2f}, same pixels {row['same pixels']}  ({parts})"
        )
    row = found["four cameras a tick"]
    print(
        f"four cameras gym-aloha {row['gym-aloha ms']:6.1f} ms, ours {row['ours ms']:6.1f} ms, "
        f"ratio {row['ratio']:.2f}"
    )
    if args.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
