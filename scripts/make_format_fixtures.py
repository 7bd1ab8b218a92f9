"""Write tests/fixtures/formats: small datasets by the libraries that other projects use.

    python -m venv fixtures && fixtures/bin/pip install zarr imagecodecs opencv-python-headless h5py
    fixtures/bin/python scripts/make_format_fixtures.py

Three replay buffers as diffusion-policy's ReplayBuffer stores them (zarr, with the compressors of
its simulated data, its real data and UMI's), and a compressed ALOHA episode (OpenCV, as
act-plus-plus compress_data.py). `read.npz` holds what zarr and OpenCV read from them,
`versions.json` their versions.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import h5py
import imagecodecs.numcodecs as image_codecs
import numcodecs
import numpy as np
import zarr

OUT = Path(__file__).parents[1] / "tests/fixtures/formats"
HEIGHT, WIDTH, ENDS = 24, 32, (5, 8)


def picture(tick: int) -> np.ndarray:
    """Return a smooth RGB frame: red on the left, blue at the bottom."""
    red = np.broadcast_to(np.linspace(220, 40, WIDTH)[None, :], (HEIGHT, WIDTH)) - tick
    blue = np.broadcast_to(np.linspace(0, 160, HEIGHT)[:, None], (HEIGHT, WIDTH)) + tick
    return np.stack([red, np.full((HEIGHT, WIDTH), 20.0 * tick), blue], 2).astype(np.uint8)


FILM = np.stack([picture(tick) for tick in range(ENDS[-1])])
STATE = np.random.default_rng(0).normal(size=(ENDS[-1], 5)).astype("f4")


def replay_buffer(name: str, films: np.ndarray, chunks: tuple[int, ...], codec: Any) -> np.ndarray:
    """Write a replay buffer of diffusion-policy and return the images as zarr reads them."""
    root = zarr.open_group(OUT / name, mode="w", zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    lz4 = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=0)  # its 'default'
    for key, values, size, compressor in (
        ("img", films, chunks, codec),
        ("state", STATE, (4, 5), lz4),
        ("action", STATE[:, :2], (4, 2), lz4),
    ):
        array = data.create_array(key, shape=values.shape, chunks=size, dtype=values.dtype,
                                  compressors=[compressor])  # fmt: skip
        array[...] = values
    ends = meta.create_array("episode_ends", shape=(2,), chunks=(2,), dtype="i8", compressors=None)
    ends[...] = ENDS
    return np.asarray(zarr.open_group(OUT / name, mode="r", zarr_format=2)["data/img"][...])


def aloha() -> np.ndarray:
    """Write a compressed episode and return its frames as act-plus-plus reads them."""
    quality = [int(cv2.IMWRITE_JPEG_QUALITY), 50]
    packed = [cv2.imencode(".jpg", frame, quality)[1] for frame in FILM]
    widest = max(map(len, packed))
    (OUT / "aloha").mkdir()
    with h5py.File(OUT / "aloha/episode_0.hdf5", "w") as root:
        root.attrs["sim"], root.attrs["compress"] = False, True
        images = root.create_dataset("observations/images/cam_high", (len(FILM), widest), "uint8")
        for tick, data in enumerate(packed):
            images[tick, : len(data)] = data
        root.create_dataset("observations/qpos", data=np.zeros((len(FILM), 14), "f4"))
        root.create_dataset("observations/qvel", data=np.zeros((len(FILM), 14), "f4"))
        root.create_dataset("action", data=np.zeros((len(FILM), 14), "f4"))
        root.create_dataset("compress_len", data=np.array([[len(d) for d in packed]], "f4"))
    with h5py.File(OUT / "aloha/episode_0.hdf5") as root:
        return np.stack([cv2.imdecode(row, 1) for row in root["observations/images/cam_high"]])


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    image_codecs.register_codecs()
    frame = (1, HEIGHT, WIDTH, 3)
    read = {
        "pusht.zarr": replay_buffer(
            "pusht.zarr", FILM.astype("f4"), (3, *frame[1:]),
            numcodecs.Blosc(cname="zstd", clevel=5, shuffle=2),
        ),
        "real.zarr": replay_buffer("real.zarr", FILM, frame, image_codecs.Jpeg2k(level=50)),
        "umi.zarr": replay_buffer(
            "umi.zarr", FILM, frame, image_codecs.Jpegxl(level=99, numthreads=1)
        ),
        "aloha": aloha(),
    }  # fmt: skip
    np.savez_compressed(OUT / "read.npz", film=FILM, state=STATE, **read)
    names = ("zarr", "numcodecs", "imagecodecs", "opencv-python-headless", "h5py")
    versions = {name: importlib.metadata.version(name) for name in names}
    (OUT / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
