"""Small datasets in the layouts of other programs, written with the calls those programs make.

ALOHA: tonyzhaozh/act record_sim_episodes.py and MarkFzp/act-plus-plus compress_data.py. robomimic:
ARISE-Initiative/robomimic docs/datasets/overview.md. diffusion-policy:
real-stanford/diffusion_policy diffusion_policy/common/replay_buffer.py, with the zarr v2 files
written by hand; tests/fixtures/formats has some that zarr itself wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np

from imitact.datasets import images as stills

HEIGHT, WIDTH = 24, 32


def picture(episode: int, tick: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth frame that depends on episode and tick, red on the left and blue at the bottom."""
    rows = np.linspace(0, 120, height)[:, None]
    columns = np.linspace(200, 40, width)[None, :]
    red = np.broadcast_to(columns, (height, width)) + tick
    green = np.full((height, width), 20.0 * episode + tick)
    blue = np.broadcast_to(rows, (height, width)) + 2 * tick
    return np.stack([red, green, blue], axis=2).clip(0, 255).astype(np.uint8)


def film(episode: int, ticks: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.stack([picture(episode, tick, height, width) for tick in range(ticks)])


def walk(seed: int, ticks: int, size: int) -> np.ndarray:
    """A slow random walk, (ticks, size), float64."""
    return np.random.default_rng(seed).normal(size=(ticks, size)).cumsum(axis=0) / 30


def aloha_file(
    path: Path,
    *,
    index: int = 0,
    ticks: int = 9,
    joints: int = 14,
    cameras: Sequence[str] = ("top",),
    size: tuple[int, int] = (HEIGHT, WIDTH),
    dtype: Any = "f4",
    sim: bool | None = True,
    base: bool = False,
    effort: bool = False,
    jpeg: bool = False,
    compress_len: bool = True,
    more: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write one episode as a recorder does; `jpeg` swaps red and blue, as OpenCV does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", rdcc_nbytes=1024**2 * 2) as root:
        if sim is not None:
            root.attrs["sim"] = sim
        obs = root.create_group("observations")
        images = obs.create_group("images")
        sizes = []
        for camera in cameras:
            frames = film(index, ticks, *size)
            if not jpeg:
                images.create_dataset(
                    camera, (ticks, *size, 3), dtype="uint8", chunks=(1, *size, 3), data=frames
                )
                continue
            packed = [stills.jpeg(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]
            widest = max(map(len, packed))
            array = images.create_dataset(camera, (ticks, widest), dtype="uint8")
            for tick, data in enumerate(packed):
                array[tick, : len(data)] = np.frombuffer(data, np.uint8)
            sizes.append([len(data) for data in packed])
        if jpeg:
            root.attrs["compress"] = True
        if jpeg and compress_len:
            root.create_dataset("compress_len", data=np.array(sizes, "f4"))
        state = walk(index, ticks, joints)
        obs.create_dataset("qpos", data=state.astype(dtype))
        obs.create_dataset("qvel", data=(np.gradient(state, axis=0) * 50).astype(dtype))
        if effort:
            obs.create_dataset("effort", data=walk(100 + index, ticks, joints).astype(dtype))
        root.create_dataset("action", data=(state + 0.01).astype(dtype))
        if base:
            root.create_dataset("base_action", data=walk(200 + index, ticks, 2).astype(dtype))
        for name, values in (more or {}).items():
            root.create_dataset(name, data=values)
    return path


def aloha(folder: Path, lengths: Sequence[int] = (9, 5, 7), **kind: Any) -> Path:
    """Write a folder of episodes."""
    for index, ticks in enumerate(lengths):
        aloha_file(folder / f"episode_{index}.hdf5", index=index, ticks=ticks, **kind)
    return folder


def robomimic(
    path: Path, lengths: Sequence[int] = (9, 5, 7), rate: float | None = 20, camera: str = "agent"
) -> Path:
    """Write demonstrations, with images compressed by gzip as dataset_states_to_obs.py can."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(lengths)
        kwargs = {} if rate is None else {"control_freq": rate}
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": kwargs})
        for index, ticks in enumerate(lengths):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = ticks
            demo.create_dataset("actions", data=walk(index, ticks, 7))
            demo.create_dataset("rewards", data=np.zeros(ticks))
            demo.create_dataset("dones", data=np.zeros(ticks, np.int64))
            for group in ("obs", "next_obs"):
                obs = demo.create_group(group)
                obs.create_dataset("robot0_eef_pos", data=walk(10 + index, ticks, 3))
                obs.create_dataset("robot0_gripper_qpos", data=walk(20 + index, ticks, 2))
                obs.create_dataset(
                    f"{camera}view_image", data=film(index, ticks), compression="gzip"
                )
        names = [f"demo_{i}" for i in range(len(lengths))]
        file["mask/train"] = np.array(names[1:], dtype="S8")
    return path


def zarr_array(
    folder: Path, values: np.ndarray, chunks: Sequence[int], codec: Any = "blosc", order: str = "C"
) -> None:
    """Write an array in the zarr v2 format; `codec` is one of numcodecs, or None."""
    folder.mkdir(parents=True, exist_ok=True)
    coder = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=2) if codec == "blosc" else codec
    about = {
        "zarr_format": 2, "shape": list(values.shape), "chunks": list(chunks),
        "dtype": values.dtype.str, "compressor": coder.get_config() if coder else None,
        "fill_value": 0, "order": order, "filters": None,
    }  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(about))
    grid = [range(-(-n // c)) for n, c in zip(values.shape, chunks, strict=True)]
    for at in np.ndindex(*(len(axis) for axis in grid)):
        chunk = np.zeros(chunks, values.dtype)
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(at, chunks, strict=True))]
        chunk[tuple(slice(0, n) for n in part.shape)] = part
        data = chunk.tobytes(order=order)  # type: ignore[arg-type]
        data = bytes(coder.encode(data)) if coder else data
        (folder / ".".join(map(str, at))).write_bytes(data)


def replay_buffer(
    folder: Path, lengths: Sequence[int] = (9, 5, 7), floats: bool = False, codec: Any = "blosc"
) -> Path:
    """Write a diffusion-policy dataset; `floats` stores images as floats, as in pusht."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    films = np.concatenate([film(i, n) for i, n in enumerate(lengths)])
    state = np.concatenate([walk(i, n, 5) for i, n in enumerate(lengths)]).astype("f4")
    zarr_array(folder / "data/img", films.astype("f4") if floats else films, (4, 24, 32, 3), codec)
    zarr_array(folder / "data/state", state, (8, 5), codec)
    zarr_array(folder / "data/action", state[:, :2] + np.float32(0.01), (8, 2), codec)
    zarr_array(folder / "data/n_contacts", state[:, :1], (8, 1), codec)
    zarr_array(folder / "meta/episode_ends", np.cumsum(lengths).astype("i8"), (3,), codec)
    return folder
