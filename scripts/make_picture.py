"""Animated picture: an episode video as a small GIF, for the README.

    python scripts/make_picture.py runs/demo/evaluation/videos/seed-1000.mp4 docs/images/cube.gif

Takes every third picture of the video, reduced: one every 0.12 s, less than 1 MB in all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
from PIL import Image

EVERY = 3
WIDTH = 360
COLOURS = 160


def read_pictures(video: Path) -> tuple[list[Image.Image], float]:
    """Return every third picture, reduced, and the seconds between two of them."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        if rate is None:
            raise SystemExit(f"{video} has no frame rate")
        frames = [
            frame.to_image() for i, frame in enumerate(container.decode(stream)) if i % EVERY == 0
        ]
    height = round(frames[0].height * WIDTH / frames[0].width)
    return [f.resize((WIDTH, height), Image.Resampling.LANCZOS) for f in frames], EVERY / rate


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    frames, seconds = read_pictures(options.video)
    # One palette for all frames: colours do not flicker, and frames compress well.
    palette = frames[len(frames) // 2].quantize(COLOURS)
    flat = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    flat[0].save(
        options.picture,
        save_all=True,
        append_images=flat[1:],
        duration=round(1000 * seconds),
        loop=0,
        optimize=True,
    )
    size = options.picture.stat().st_size
    print(f"{options.picture}: {len(flat)} pictures, {size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
