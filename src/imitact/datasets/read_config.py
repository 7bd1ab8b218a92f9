"""What has to be said about a dataset that does not say everything of itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from imitact.core.errors import BadInput

Layout = Literal["lerobot", "aloha-hdf5", "robomimic", "diffusion-policy"]

COLOURS = ("unsaid", "rgb", "bgr")


@dataclass(frozen=True)
class ReadConfig:
    """How a dataset is read. LeRobot's layout says all of it, others leave something open."""

    layout: Literal["auto", "lerobot", "aloha-hdf5", "robomimic", "diffusion-policy"] = "auto"
    """The dataset's layout; auto tells it from what is on disk."""

    rate_hz: float = 0.0
    """Ticks a second; 0 takes what the dataset says (robomimic) or what its recorder always does
    (ALOHA: 50). diffusion-policy says none: give it."""

    state: tuple[str, ...] = ()
    """robomimic and diffusion-policy: the observations that make up the state, in this order."""

    action: str = ""
    """robomimic and diffusion-policy: the array of the actions, where it is not the usual one."""

    cameras: tuple[str, ...] = ()
    """Cameras to read, in this order, of layouts other than LeRobot's; none takes all by name."""

    colour: Literal["unsaid", "rgb", "bgr"] = "unsaid"
    """Order of the colours in stored images, as a usual decoder gives them: rgb, or bgr where red
    and blue are exchanged, as in JPEG that the ALOHA recorders write. Images stored as they are
    count as rgb unless said; of JPEG it must be said: `imitact convert SRC --colour-picture
    FILE.png` shows both."""

    action_offset: int = 0
    """ALOHA: 1 gives each tick the action of the tick before, as the released code does for real
    robots; 0 takes them as recorded."""

    files: str = ""
    """ALOHA: which files of the folder, as a pattern; none takes *.hdf5 and *.h5. Give
    'episode_*.hdf5' to leave mirrored copies out."""

    subset: str = ""
    """robomimic: the filter key whose demonstrations are read (train, valid, ...); none reads
    all."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate_hz < float("inf"):
            raise BadInput(f"rate_hz is {self.rate_hz}; it must be a positive number of ticks/s")
        if self.colour not in COLOURS:
            raise BadInput(f"colour is {self.colour!r}; it must be rgb or bgr")
        if self.action_offset not in (0, 1):
            raise BadInput(f"action_offset is {self.action_offset}; it must be 0 or 1 ticks")

    def refuse_others(self, layout: str, taken: tuple[str, ...]) -> None:
        """Refuse settings that the layout has no use for: they would be silently ignored.

        taken: names of those that it has a use for.
        """
        unused = [n for n in self.given() if n not in (*taken, "layout")]
        if unused:
            raise BadInput(
                f"{' and '.join(unused)} {'is' if len(unused) == 1 else 'are'} given, which the "
                f"layout {layout} has no use for; it takes {', '.join(taken) or 'none'}"
            )

    def given(self) -> dict[str, Any]:
        """The settings that are not as usual, as plain JSON."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {f.name: f.default for f in fields(self)}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in told.items() if v != usual[n]}
