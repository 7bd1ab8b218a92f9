"""Read options: what a dataset does not store about itself and its reader must be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.ranges import Count, Range, RateOrStored, Seconds, check_ranges
from imitact.storage.settings_diff import plain_json

Layout = Literal["lerobot", "aloha-hdf5", "robomimic", "diffusion-policy"]

OnDamage = Callable[[DamagedFile, Sequence[int]], None]
"""Called with each damage that opening a dataset finds and the episodes that it affects; no
episodes where it affects the dataset as a whole."""

_OF_EVERY_LAYOUT = ("layout", "episodes", "every")
"""Options that need nothing of a layout."""

MAX_EPISODE_TICKS = 500_000
"""Ticks of an episode, 2.8 hours at 50 Hz; more are taken for damage. A compressed file of some
hundred kilobytes can hold millions of equal ticks, and checking them takes 20 µs each."""

MAX_VECTOR_SIZE = 10_000
"""Values of a state or action; more are refused as a mistake: each needs a name in memory."""


@dataclass(frozen=True)
class ReadConfig:
    """How to read a dataset: what its layout leaves open, and what to read of it."""

    layout: Literal["auto", "lerobot", "aloha-hdf5", "robomimic", "diffusion-policy"] = "auto"
    """Layout of the dataset; auto detects it from the files."""

    rate_hz: RateOrStored = 0.0
    """Ticks per second; 0 takes the stored rate (robomimic) or the recorder's fixed one (ALOHA:
    50). diffusion-policy stores none: give it."""

    state: tuple[str, ...] = ()
    """Features (LeRobot) or arrays that make up the state, side by side in this order; none reads
    the layout's own. robomimic and diffusion-policy have none: give them."""

    action: tuple[str, ...] = ()
    """Features or arrays that make up the action, side by side; none reads the layout's own."""

    environment: tuple[str, ...] = ()
    """Features or arrays with the state of the environment (object poses, goals), such as
    observation.environment_state; the policy gets them beside the state."""

    cameras: tuple[str, ...] = ()
    """Cameras to read, in this order; none reads all."""

    tolerance_s: Seconds = 0.0
    """LeRobot: largest distance of a time stamp from tick / rate, and of a frame from its time
    stamp, s. 0 takes half a tick where the video has one frame for each tick, else 0.0001 s."""

    colour: Literal["unsaid", "rgb", "bgr"] = "unsaid"
    """Channel order of decoded images: rgb, or bgr where red and blue are exchanged, as in JPEG of
    the ALOHA recorders. Needed for JPEG (`imitact convert SRC --colour-picture FILE.png` shows
    both); images stored raw are rgb unless given."""

    action_offset: Annotated[int, Range(0, 1)] = 0
    """ALOHA: 1 pairs each tick with the action of the tick before, as the released ACT does for
    real robots; 0 keeps the recorded pairs."""

    files: str = ""
    """ALOHA: pattern of the files to read; none reads *.hdf5 and *.h5. 'episode_*.hdf5' leaves
    mirrored copies out."""

    subset: str = ""
    """robomimic: filter key whose demonstrations to read (train, valid, ...); none reads all."""

    episodes: str = ""
    """Episodes to read, in this order: numbers from 0 and ranges as in Python, "0:10,15"; none
    reads all. With several datasets, of each."""

    every: Count = 1
    """Read every n-th tick: 30 Hz at 2 is a dataset of 15 Hz, every second action left out."""

    def __post_init__(self) -> None:
        for name in ("state", "action", "environment", "cameras"):
            given = getattr(self, name)  # one name may be given as text
            names = (given,) * bool(given) if isinstance(given, str) else tuple(given)
            object.__setattr__(self, name, names)
        check_ranges(self)
        if self.colour not in ("unsaid", "rgb", "bgr"):
            raise BadInput(f"colour is {self.colour}; it must be rgb or bgr")

    def refuse_unused(self, layout: str, used: Sequence[str]) -> None:
        """Refuse options that a layout does not use, which would be ignored silently."""
        unused = [name for name in self.given() if name not in (*used, *_OF_EVERY_LAYOUT)]
        if unused:
            raise BadInput(
                f"{' and '.join(map(_option, unused))} given, but the layout {layout} does not use "
                f"{'it' if len(unused) == 1 else 'them'}; it uses "
                f"{', '.join(map(_option, used)) or 'none'}"
            )

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as plain JSON; one action as text."""
        defaults = asdict(ReadConfig())
        given = {n: v for n, v in asdict(self).items() if v != defaults[n]}
        if len(self.action) == 1:  # as stored before there could be several
            given["action"] = self.action[0]
        return plain_json(given)


def _option(name: str) -> str:
    return f"--read.{name.replace('_', '-')}"
