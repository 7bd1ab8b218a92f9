"""Recording by environment name: demonstrations of an expert in an environment, as a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput
from imitact.datasets.video_config import VideoConfig
from imitact.envs import aloha, registry
from imitact.envs.gym import GymConfig
from imitact.recording import recorder, start_selection
from imitact.recording.manifest import RecordingReport, is_recording
from imitact.recording.recorder import RecordingProgress
from imitact.storage.output_guard import check_output

MAX_EVEN_SEEDS = 2_000
"""Largest number of seeds that `starts="even"` puts in order; the time grows with its square."""


def record(
    out: Path | str,
    *,
    env: str = "cube",
    gym: GymConfig | Mapping[str, Any] | None = None,
    expert: str = "",
    task: str = "",
    hold: int = recorder.HOLD_TICKS,
    episodes: int = 50,
    first_seed: int = 0,
    last_seed: int = 999,
    starts: Literal["even", "random"] = "even",
    spread: float = 1.0,
    styles: int = 1,
    cameras: Sequence[str] = ("top",),
    height: int = 480,
    width: int = 640,
    workers: int = 0,
    video: VideoConfig | None = None,
    on_progress: Callable[[RecordingProgress], None] | None = None,
    on_line: Callable[[str], object] = lambda line: None,
) -> RecordingReport:
    """Record successful demonstrations until the dataset in `out` holds `episodes` of them.

    The arguments are the options of `imitact record` (docs/settings.md). Interrupted, the same call
    continues; with more episodes the dataset grows.

    Args:
        on_progress: called as episodes finish, and about once a second in between.
        on_line: receives what is to be known about the environment, before it begins.

    Returns:
        What the dataset holds, and which seeds failed.
    """
    check_output(out, "recording")
    make_env = registry.env_factory(env, cameras, height, width, gym)
    if not 0 <= first_seed <= last_seed:
        raise BadInput(
            f"first_seed is {first_seed} and last_seed {last_seed}; expected 0 <= first_seed <= "
            "last_seed"
        )
    seeds: Sequence[int] = range(first_seed, last_seed + 1)
    if starts == "even":
        if len(seeds) > MAX_EVEN_SEEDS:
            raise BadInput(
                f"starts even chooses among at most {MAX_EVEN_SEEDS} seeds, got {len(seeds)}; give "
                "fewer, or use starts random"
            )
        seeds = even_starts(env, seeds)
    tried = None if is_recording(Path(out)) else seeds[0]
    make_expert = registry.expert_factory(
        env, spread, expert, gym, styles=styles, seed=tried, on_line=on_line
    )
    demonstrator = registry.demonstrator_settings(env, spread, expert, gym, styles=styles)
    return recorder.record(
        out,
        make_env=make_env,
        make_expert=make_expert,
        episodes=episodes,
        task=task or registry.TASK_TEXTS.get(env, env),
        seeds=seeds,
        workers=workers or available_cores(),
        video=video or VideoConfig(),
        on_progress=on_progress,
        extra={**demonstrator, "starts": starts},
        hold_ticks=hold,
        end_when_held=env not in aloha.TASKS,
    )


def even_starts(env: str, seeds: Sequence[int]) -> list[int]:
    """Return the seeds in the order in which their starts cover all starts best.

    Only the ALOHA scene's starts are known without running it; other seeds keep their order.
    """
    if env not in aloha.TASKS:
        return [*seeds]
    return [seeds[row] for row in start_selection.coverage_order(aloha.start_positions(env, seeds))]
