"""Read options: what a dataset does not store about itself and its reader must be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from imitact.core.errors import BadInput, DamagedFile
from imitact.storage.settings_diff import plain_json

Layout = Literal["lerobot", "aloha-hdf5", "robomimic", "diffusion-policy"]

OnDamage = Callable[[DamagedFile, Sequence[int]], None]
"""Called with each damage that opening a dataset finds and the episodes that it affects; no
episodes where it affects the dataset as a whole."""

MAX_VECTOR_SIZE = 10_000
"""Values of a state or action; more are refused as a mistake: each needs a name in memory."""


@dataclass(frozen=True)
class ReadConfig:
    """How to read a dataset. LeRobot's layout stores all of it, other layouts leave some open."""

    layout: Literal["auto", "lerobot", "aloha-hdf5", "robomimic", "diffusion-policy"] = "auto"
    """Layout of the dataset; auto detects it from the files."""

    rate_hz: float = 0.0
    """Ticks per second; 0 takes the stored rate (robomimic) or the recorder's fixed one (ALOHA:
    50). diffusion-policy stores none: give it."""

    state: tuple[str, ...] = ()
    """robomimic and diffusion-policy: observations that make up the state, in this order."""

    action: str = ""
    """robomimic and diffusion-policy: array of the actions, if not the usual one."""

    cameras: tuple[str, ...] = ()
    """Cameras to read, in this order; none reads all by name. Not for LeRobot's layout."""

    colour: Literal["unsaid", "rgb", "bgr"] = "unsaid"
    """Channel order of decoded images: rgb, or bgr where red and blue are exchanged, as in JPEG of
    the ALOHA recorders. Needed for JPEG (`imitact convert SRC --colour-picture FILE.png` shows
    both); images stored raw are rgb unless given."""

    action_offset: int = 0
    """ALOHA: 1 pairs each tick with the action of the tick before, as the released ACT does for
    real robots; 0 keeps the recorded pairs."""

    files: str = ""
    """ALOHA: pattern of the files to read; none reads *.hdf5 and *.h5. 'episode_*.hdf5' leaves
    mirrored copies out."""

    subset: str = ""
    """robomimic: filter key whose demonstrations to read (train, valid, ...); none reads all."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate_hz < float("inf"):
            raise BadInput(f"rate_hz is {self.rate_hz}; it must be a positive number of ticks/s")
        if self.colour not in ("unsaid", "rgb", "bgr"):
            raise BadInput(f"colour is {self.colour}; it must be rgb or bgr")
        if self.action_offset not in (0, 1):
            raise BadInput(f"action_offset is {self.action_offset}; it must be 0 or 1 ticks")

    def refuse_unused(self, layout: str, used: Sequence[str]) -> None:
        """Refuse options that a layout does not use, which would be ignored silently."""
        unused = [name for name in self.given() if name not in (*used, "layout")]
        if unused:
            raise BadInput(
                f"{' and '.join(map(_option, unused))} given, but the layout {layout} does not use "
                f"{'it' if len(unused) == 1 else 'them'}; it uses "
                f"{', '.join(map(_option, used)) or 'none'}"
            )

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as plain JSON."""
        defaults = asdict(ReadConfig())
        return plain_json({n: v for n, v in asdict(self).items() if v != defaults[n]})


def _option(name: str) -> str:
    return f"--read.{name.replace('_', '-')}"
