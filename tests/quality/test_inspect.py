"""What `imitact check` finds in a dataset, where, and what it leaves alone.

Every defect is put into an otherwise sound dataset; beside each stands a near miss, which is no
finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from imitact.datasets.open import open_dataset
from imitact.quality.findings import Finding, by_severity, errors, summary
from imitact.quality.inspect import inspect_frames, inspect_numbers, open_damaged, unusable_episodes
from imitact.quality.tracking import theil_sen_slope
from imitact.quality.video_sync import VideoLimits, measure_motion, nonnegative_least_squares
from tests.support.demonstrations import NAMES, Rows, demonstrate, edit_info, follow, rewrite, write
from tests.support.fake_dataset import FakeDataset
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"
COUNT = 12


@pytest.fixture(scope="module")
def sound() -> tuple[Rows, ...]:
    return tuple(demonstrate(seed) for seed in range(COUNT))


def look_over(root: Path, frames: bool = False) -> list[Finding]:
    source, found = open_damaged(root)
    assert source is not None
    found += inspect_numbers(source, damaged=unusable_episodes(found))
    if frames:
        found += inspect_frames(source, damaged=unusable_episodes(found), workers=1)
    return by_severity(found)


def numbers(tmp_path: Path, episodes: Sequence[Rows], **named: object) -> list[Finding]:
    return look_over(write(tmp_path / "data", episodes, **named))  # type: ignore[arg-type]


def changed(episodes: Sequence[Rows], index: int, change: Callable[..., object]) -> list[Rows]:
    """With copies of one episode's state and action, altered in place."""
    given = list(episodes)
    state, action = (rows.copy() for rows in given[index])
    change(state, action)
    given[index] = (state, action)
    return given


def only(found: Sequence[Finding]) -> Finding:
    assert len(found) == 1, [f.line for f in found]
    return found[0]


def lines(found: Sequence[Finding]) -> list[str]:
    return [f.line for f in found]


# --- sound ones --------------------------------------------------------------------------------


def test_a_sound_dataset_has_nothing_to_find(tmp_path: Path, sound: Sequence[Rows]):
    for number, seeds in enumerate((range(12), range(100, 120), range(200, 203))):
        episodes = [demonstrate(seed) for seed in seeds]
        assert lines(numbers(tmp_path / str(number), episodes)) == []


@pytest.mark.parametrize("name", ["h264", "av1"])
def test_what_lerobot_wrote_has_no_errors(name: str):
    assert lines(errors(look_over(LEROBOT / name, frames=True))) == []


def test_any_source_can_be_looked_over():
    assert lines(errors(inspect_numbers(FakeDataset((60, 70, 80))))) == []


# --- numbers and times -------------------------------------------------------------------------


def test_a_value_that_is_no_number_is_found_with_its_tick(tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)

    def spoil(columns: dict[str, np.ndarray]) -> None:
        columns["observation.state"][17, 1] = np.nan
        columns["observation.state"][20, 1] = np.nan
        columns["action"][5, 3] = np.inf

    rewrite(root, 3, spoil)
    action, state = sorted(look_over(root), key=lambda f: f.part == "elbow")
    assert (state.kind, state.severity, state.episode, state.ticks, state.part, state.fix) == (
        "not-finite", "error", 3, (17, 21), "elbow", "drop",
    )  # fmt: skip
    assert "state is nan at 2 of" in state.what
    assert (action.kind, action.ticks, action.part) == ("not-finite", (5, 6), "gripper")
    assert "inf" in action.what


@pytest.mark.parametrize("lost", ["last", "middle"])
def test_an_episode_with_ticks_too_few_is_found_beside_the_sound_ones(
    lost: str, tmp_path: Path, sound: Sequence[Rows]
):
    root = write(tmp_path / "data", sound)

    def cut(columns: dict[str, np.ndarray]) -> None:
        for name, values in columns.items():
            columns[name] = np.delete(values, -1 if lost == "last" else 30, axis=0)

    rewrite(root, 2, cut)
    rewrite(root, 5, lambda columns: columns["action"].__setitem__((9, 0), np.nan))
    first, second = look_over(root)
    assert (first.kind, first.severity, first.episode, first.fix) == (
        "damaged-file", "error", 2, "drop",
    )  # fmt: skip
    assert (second.kind, second.episode) == ("not-finite", 5)


def test_ticks_that_are_numbered_wrongly_are_found(tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)
    rewrite(root, 4, lambda columns: columns["frame_index"].__setitem__(7, 8))
    found = only(look_over(root))
    assert (found.kind, found.episode) == ("damaged-file", 4)
    assert "numbered from 0" in found.what
    rewrite(root, 4, lambda columns: columns["frame_index"].__setitem__(7, 7))
    assert lines(look_over(root)) == []
    rewrite(root, 6, lambda columns: columns["episode_index"].__setitem__(7, 9))
    assert only(look_over(root)).episode == 6


@pytest.mark.parametrize("name", ["meta/episodes", "data"])
def test_files_that_are_gone_are_each_a_finding(name: str, tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)
    for index in (2, 7):
        (root / name / f"chunk-000/file-{index:03d}.parquet").unlink()
    found = look_over(root)
    assert [(f.kind, f.episode, f.fix) for f in found] == [
        ("damaged-file", 2, "drop"), ("damaged-file", 7, "drop"),
    ]  # fmt: skip


def test_a_dataset_whose_counts_disagree_is_found_and_its_episodes_still_looked_at(
    tmp_path: Path, sound: Sequence[Rows]
):
    root = write(tmp_path / "data", sound)
    edit_info(root, total_frames=17)
    rewrite(root, 5, lambda columns: columns["action"].__setitem__((9, 0), np.nan))
    first, second = look_over(root)
    assert (first.kind, first.episode, first.severity) == ("damaged-file", None, "error")
    assert (second.kind, second.episode) == ("not-finite", 5)
    (root / "meta/info.json").write_text("{")
    source, found = open_damaged(root)
    assert source is None
    assert only(found).kind == "damaged-file"


@pytest.mark.parametrize(
    ("change", "tick", "says"),
    [
        (lambda t: t[50:].__iadd__(0.002), 50, "expected 2.500000 s"),
        (lambda t: t.__setitem__(30, t[29]), 30, "not after the tick before it"),
        (lambda t: t.__imul__(1.0001), 21, "ticks are off"),
        (lambda t: t.__iadd__(1.0), 0, "expected 0.000000 s"),
    ],
)
def test_time_stamps_off_their_schedule_are_found_at_their_first_tick(
    change: Callable[[np.ndarray], object], tick: int, says: str, tmp_path: Path,
    sound: Sequence[Rows],
):  # fmt: skip
    root = write(tmp_path / "data", sound)
    rewrite(root, 8, lambda columns: change(columns["timestamp"]))
    found = only(look_over(root))
    assert (found.kind, found.severity, found.episode) == ("time-stamps", "error", 8)
    assert found.ticks == (tick, tick + 1)
    assert says in found.what


def test_time_stamps_within_the_tolerance_are_no_finding(tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)
    rewrite(root, 8, lambda columns: columns["timestamp"][50:].__iadd__(0.00008))
    assert lines(look_over(root)) == []


# --- motion ------------------------------------------------------------------------------------


def test_idle_ends_are_found_where_they_are_longer_than_they_may_be(
    tmp_path: Path, sound: Sequence[Rows]
):
    episodes = [*sound]
    episodes[1] = demonstrate(1, head=30)
    episodes[6] = demonstrate(6, tail=120)
    head, tail = (f for f in numbers(tmp_path, episodes) if f.kind.startswith("idle"))
    assert (head.kind, head.severity, head.episode, head.fix) == (
        "idle-head", "warning", 1, "trim",
    )  # fmt: skip
    # A move begins slowly: it is seen some ticks after its first.
    assert head.value is not None
    assert 1.5 <= head.value <= 1.8
    assert head.ticks == (0, round(head.value * 20) - 4)
    length = len(episodes[6][0])
    assert (tail.kind, tail.episode, tail.fix) == ("idle-tail", 6, "trim")
    assert tail.ticks is not None
    # It ends slowly, and the state comes last; a second of it stays.
    assert length - 120 + 20 - 6 <= tail.ticks[0] <= length - 120 + 20 + 8
    assert tail.ticks[1] == length


def test_a_short_pause_at_either_end_is_no_finding(tmp_path: Path, sound: Sequence[Rows]):
    episodes = [demonstrate(seed, head=5, tail=90) for seed in range(COUNT)]
    assert lines(numbers(tmp_path, episodes)) == []


def test_an_episode_in_which_nothing_moves_is_found(tmp_path: Path, sound: Sequence[Rows]):
    still = np.tile(sound[0][1][0], (150, 1))
    found = numbers(tmp_path, [*sound, (follow(still, seed=9), still)])
    assert [f.episode for f in found] == [COUNT] * len(found)
    assert "no-motion" in {f.kind for f in found}


def test_a_joint_that_reads_the_same_while_its_action_moves_is_found(
    tmp_path: Path, sound: Sequence[Rows]
):
    def freeze(state: np.ndarray, action: np.ndarray) -> None:
        state[:, 2] = state[0, 2] + np.random.default_rng(0).normal(0, 0.0005, len(state))

    found = numbers(tmp_path, changed(sound, 4, freeze))
    frozen = only([f for f in found if f.severity == "error"])
    assert (frozen.kind, frozen.episode, frozen.part, frozen.fix) == (
        "frozen-joint", 4, "wrist", "drop",
    )  # fmt: skip


def test_a_joint_that_nobody_moves_is_not_frozen(tmp_path: Path, sound: Sequence[Rows]):
    def rest(state: np.ndarray, action: np.ndarray) -> None:
        state[:, 2], action[:, 2] = 0.401, 0.4 + 0.02 * np.sin(np.arange(len(action)))

    assert lines(numbers(tmp_path, changed(sound, 4, rest))) == []


def moving(action: np.ndarray, ticks: int) -> int:
    """Where the actions go farthest in so many ticks."""
    speed = np.abs(np.diff(action[:, :3], axis=0)).sum(axis=1)
    return int(np.argmax(np.convolve(speed, np.ones(ticks), "valid")))


def test_readings_that_stop_for_a_while_are_found_with_their_ticks(
    tmp_path: Path, sound: Sequence[Rows]
):
    first = moving(sound[5][1], 12)

    def stop(state: np.ndarray, action: np.ndarray) -> None:
        state[first : first + 12] = state[first]

    found = [f for f in numbers(tmp_path, changed(sound, 5, stop)) if f.severity == "error"]
    assert (only(found).kind, only(found).episode) == ("state-dropout", 5)
    assert only(found).ticks == (first, first + 12)


def test_readings_that_repeat_for_a_few_ticks_or_at_rest_are_no_finding(
    tmp_path: Path, sound: Sequence[Rows]
):
    first = moving(sound[5][1], 12)

    def repeat(state: np.ndarray, action: np.ndarray) -> None:
        state[first : first + 4] = state[first]
        state[-10:] = state[-10]

    assert lines(numbers(tmp_path, changed(sound, 5, repeat))) == []


def test_one_joint_that_stands_for_a_second_is_a_warning_but_a_gripper_holds(
    tmp_path: Path, sound: Sequence[Rows]
):
    first = moving(sound[5][1][:, [1, 1, 1]], 24)

    def hold(joint: int) -> Callable[..., None]:
        def change(state: np.ndarray, action: np.ndarray) -> None:
            state[first : first + 24, joint] = state[first, joint]

        return change

    found = only(numbers(tmp_path / "joint", changed(sound, 5, hold(1))))
    assert (found.kind, found.severity, found.part) == ("stuck-joint", "warning", "elbow")
    assert (found.episode, found.ticks) == (5, (first, first + 24))
    assert lines(numbers(tmp_path / "gripper", changed(sound, 5, hold(3)))) == []


def test_dimensions_that_never_change_are_told(tmp_path: Path, sound: Sequence[Rows]):
    both, action_only = list(sound), list(sound)
    for index in range(COUNT):
        for given, dimensions in ((both, (0, 1)), (action_only, (1,))):
            rows = [r.copy() for r in given[index]]
            for which in dimensions:
                rows[which][:, 2] = 0.25
            given[index] = (rows[0], rows[1])
    assert [(f.kind, f.severity, f.part) for f in numbers(tmp_path / "both", both)] == [
        ("constant-dimension", "note", "wrist")
    ] * 2
    found = only(numbers(tmp_path / "one", action_only))
    assert (found.severity, found.part) == ("warning", "wrist")
    assert "action is 0.25" in found.what


# --- tracking ----------------------------------------------------------------------------------


def shifted(episodes: Sequence[Rows], ticks: int, which: Sequence[int]) -> list[Rows]:
    """States so many ticks later against their actions (earlier: below 0)."""
    given = list(episodes)
    for index in which:
        state, action = given[index]
        if ticks >= 0:
            later = np.concatenate([np.tile(state[0], (ticks, 1)), state])
            given[index] = (later[: len(action)], action)
        else:
            given[index] = (state[-ticks:], action[:ticks])
    return given


def test_a_state_that_follows_late_everywhere_is_told_in_seconds(
    tmp_path: Path, sound: Sequence[Rows]
):
    found = numbers(tmp_path, shifted(sound, 4, range(COUNT)))
    late = only(found)
    assert (late.kind, late.severity, late.episode) == ("tracking-lag", "warning", None)
    assert all(name in f"{late.part} {late.what}" for name in NAMES)
    assert late.value == pytest.approx(6.3 / 20, abs=0.3 / 20)
    assert lines(numbers(tmp_path / "near", shifted(sound, 1, range(COUNT)))) == []


def test_a_delay_is_told_to_a_part_of_a_tick(tmp_path: Path):
    for number, ticks in enumerate((4.6, 5.3, 6.85)):
        episodes = []
        for seed in range(COUNT):
            _, action = demonstrate(seed)
            at = np.arange(len(action))
            state = np.stack([np.interp(at - ticks, at, column) for column in action.T], axis=1)
            noise = np.random.default_rng(seed).normal(0, 0.0005, state.shape)
            episodes.append((state + noise, action))
        late = only(numbers(tmp_path / str(number), episodes))
        assert late.kind == "tracking-lag"
        assert late.value == pytest.approx(ticks / 20, abs=0.15 / 20)


def test_actions_that_come_after_their_state_are_an_error(tmp_path: Path, sound: Sequence[Rows]):
    found = numbers(tmp_path / "all", shifted(sound, -5, range(COUNT)))
    late = only(found)
    assert (late.kind, late.severity, late.episode) == ("action-late", "error", None)
    assert all(name in f"{late.part} {late.what}" for name in NAMES)
    assert lines(numbers(tmp_path / "near", shifted(sound, -1, range(COUNT)))) == []


def test_one_episode_whose_actions_are_shifted_is_named(tmp_path: Path, sound: Sequence[Rows]):
    found = only(numbers(tmp_path / "late", shifted(sound, 5, [7])))
    assert (found.kind, found.severity, found.episode) == ("lag-differs", "warning", 7)
    found = only(numbers(tmp_path / "early", shifted(sound, -5, [7])))
    assert (found.kind, found.severity, found.episode, found.fix) == (
        "action-late", "error", 7, "drop",
    )  # fmt: skip
    assert lines(numbers(tmp_path / "near", shifted(sound, 1, [7]))) == []


def moved(episodes: Sequence[Rows], joint: int, by: Callable[[int], float]) -> list[Rows]:
    """States of a joint beside what they were, by so many rad in each episode."""
    given = []
    for index, (state, action) in enumerate(episodes):
        state = state.copy()
        state[:, joint] += by(index)
        given.append((state, action))
    return given


@pytest.mark.parametrize(("by", "severity"), [(0.08, "warning"), (-0.3, "error")])
def test_a_calibration_that_is_off_is_told_in_rad(
    by: float, severity: str, tmp_path: Path, sound: Sequence[Rows]
):
    found = only(numbers(tmp_path, moved(sound, 1, lambda index: by)))
    assert (found.kind, found.severity, found.episode, found.part, found.unit, found.fix) == (
        "tracking-offset", severity, None, "elbow", "rad", "",
    )  # fmt: skip
    assert found.value == pytest.approx(by, abs=0.01)


def test_what_a_servo_carries_is_no_finding(tmp_path: Path, sound: Sequence[Rows]):
    assert lines(numbers(tmp_path, moved(sound, 1, lambda index: -0.03 + 0.001 * index))) == []


def test_a_gripper_that_holds_something_is_not_off(tmp_path: Path, sound: Sequence[Rows]):
    assert lines(numbers(tmp_path, moved(sound, 3, lambda index: 0.2))) == []


def test_a_calibration_that_drifts_is_told_from_its_first_to_its_last_episode(
    tmp_path: Path, sound: Sequence[Rows]
):
    found = numbers(tmp_path, moved(sound, 0, lambda index: 0.012 * (index - 5.5)))
    drift = only(found)
    assert (drift.kind, drift.part, drift.severity) == ("tracking-drift", "shoulder", "warning")
    assert drift.value == pytest.approx(0.012 * 11, abs=0.02)
    near = moved(sound, 0, lambda index: 0.003 * (index - 5.5))
    assert lines(numbers(tmp_path / "near", near)) == []


def test_a_calibration_that_was_lost_at_once_is_told_with_the_episode(
    tmp_path: Path, sound: Sequence[Rows]
):
    found = numbers(tmp_path, moved(sound, 2, lambda index: 0.3 if index >= 8 else 0.0))
    # That later starts lie elsewhere too is a note of its own.
    drift = only([each for each in found if each.kind != "outlier-start"])
    assert drift.kind == "tracking-drift"
    assert (drift.episode, drift.part, drift.severity) == (8, "wrist", "error")
    assert drift.value == pytest.approx(0.3, abs=0.02)


def test_one_episode_beside_the_others_is_named(tmp_path: Path, sound: Sequence[Rows]):
    found = only(numbers(tmp_path, moved(sound, 2, lambda index: 0.15 if index == 3 else 0.0)))
    assert (found.kind, found.episode, found.part, found.fix) == ("offset-differs", 3, "wrist", "")
    assert found.value == pytest.approx(0.15, abs=0.02)


def test_values_of_unknown_unit_are_judged_by_how_far_they_go(
    tmp_path: Path, sound: Sequence[Rows]
):
    """The same arm in degrees, as many datasets have it without saying so."""
    degrees = [(np.rad2deg(state), np.rad2deg(action)) for state, action in sound]
    unknown = ("unknown",) * 4
    assert lines(numbers(tmp_path / "sound", degrees, units=unknown)) == []
    off = moved(degrees, 1, lambda index: 30.0)
    found = only(numbers(tmp_path / "off", off, units=unknown))
    assert (found.kind, found.part) == ("tracking-offset", "elbow")
    assert found.value == pytest.approx(30, abs=1)


def test_states_in_another_unit_than_their_actions_are_told(tmp_path: Path, sound: Sequence[Rows]):
    mixed = [(np.rad2deg(state), action) for state, action in sound]
    found = numbers(tmp_path, mixed, units=("unknown",) * 4)
    assert {f.kind for f in found} >= {"tracking-gain"}
    assert "tracking-offset" not in {f.kind for f in found}


def test_actions_that_copy_the_state_are_told(tmp_path: Path, sound: Sequence[Rows]):
    found = only(numbers(tmp_path, [(state, state) for state, _ in sound]))
    assert (found.kind, found.severity) == ("action-is-state", "warning")


def test_an_approach_that_fits_every_delay_tells_none(tmp_path: Path):
    """The speeds of one exponential are alike at any delay: no order can be read from them."""
    ticks = np.arange(120)[:, None]
    rest = 0.9**ticks
    episodes = []
    for seed in range(10):
        to = np.random.default_rng(seed).uniform(0.5, 1.0, 4)
        state = to * (1 - rest)
        episodes.append((state, state + 0.3 * (to - state)))
    assert [f for f in numbers(tmp_path, episodes) if "late" in f.kind or "lag" in f.kind] == []


# --- among the others --------------------------------------------------------------------------


def test_an_episode_that_is_there_twice_is_found(tmp_path: Path, sound: Sequence[Rows]):
    found = only(numbers(tmp_path, [*sound[:9], sound[2], *sound[9:]]))
    assert (found.kind, found.severity, found.episode, found.fix) == (
        "duplicate", "warning", 9, "drop",
    )  # fmt: skip
    assert "episode 2" in found.what


def test_the_same_actions_with_another_outcome_are_no_duplicate(
    tmp_path: Path, sound: Sequence[Rows]
):
    again = (follow(sound[2][1], seed=77), sound[2][1])
    assert lines(numbers(tmp_path, [*sound, again])) == []


def test_an_episode_unlike_the_others_is_told(tmp_path: Path, sound: Sequence[Rows]):
    found = numbers(tmp_path / "long", [*sound, demonstrate(50, moves=15)])
    assert {(f.kind, f.episode) for f in found} == {
        ("outlier-length", COUNT), ("outlier-motion", COUNT),
    }  # fmt: skip
    assert lines(numbers(tmp_path / "longer", [*sound, demonstrate(50, moves=6)])) == []

    def begin(by: float) -> list[Rows]:
        state, action = (rows.copy() for rows in sound[4])
        fade = by * np.clip(1 - np.arange(len(state)) / 40, 0, 1)
        state[:, 1] += fade
        action[:, 1] += fade
        return [*sound[:4], (state, action), *sound[5:]]

    found = only(numbers(tmp_path / "start", begin(0.6)))
    assert (found.kind, found.severity, found.episode, found.part) == (
        "outlier-start", "note", 4, "elbow",
    )  # fmt: skip
    assert lines(numbers(tmp_path / "near", begin(0.2))) == []


# --- video -------------------------------------------------------------------------------------


def filmed(tmp_path: Path, change: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None,
           index: int = 2, count: int = 5) -> list[Finding]:  # fmt: skip
    """Findings of a filmed dataset, in which one episode's frames are changed."""
    episodes = [demonstrate(seed) for seed in range(count)]

    def film(number: int, frames: list[np.ndarray]) -> list[np.ndarray]:
        return change(frames) if change and (number == index or index < 0) else frames

    root = write(tmp_path / "data", episodes, cameras=["top"], film=film)
    return look_over(root, frames=True)


def late(ticks: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    def change(frames: list[np.ndarray]) -> list[np.ndarray]:
        if ticks >= 0:
            return [*[frames[0]] * ticks, *frames][: len(frames)]
        return [*frames, *[frames[-1]] * -ticks][-ticks:]

    return change


def test_a_video_that_shows_its_joints_is_no_finding(tmp_path: Path):
    assert lines(filmed(tmp_path)) == []


@pytest.mark.parametrize("ticks", [5, 8, -6])
def test_a_video_out_of_step_is_found_with_its_delay(ticks: int, tmp_path: Path):
    found = only(filmed(tmp_path, late(ticks)))
    assert (found.kind, found.severity, found.episode, found.part, found.fix) == (
        "video-out-of-step", "error", 2, "top", "drop",
    )  # fmt: skip
    assert found.value == pytest.approx(ticks / 20, abs=0.051)


def test_a_video_a_tick_late_is_no_finding(tmp_path: Path):
    assert lines(filmed(tmp_path, late(1))) == []


def test_a_video_of_another_episode_is_never_called_in_order_by_a_delay(tmp_path: Path):
    """It agrees at no delay: nothing is told that is not known."""
    other = demonstrate(99)

    def swap(frames: list[np.ndarray]) -> list[np.ndarray]:
        from tests.support.demonstrations import picture

        shown = [picture(row) for row in other[0]]
        return [*shown, *[shown[-1]] * len(frames)][: len(frames)]

    assert errors(filmed(tmp_path, swap)) == []


def test_videos_that_are_all_late_are_one_warning(tmp_path: Path):
    found = only(filmed(tmp_path, late(5), index=-1))
    assert (found.kind, found.severity, found.episode) == ("video-lag", "warning", None)
    assert found.value == pytest.approx(0.25, abs=0.051)


def test_a_video_that_stops_is_found_with_its_ticks(tmp_path: Path):
    first = moving(demonstrate(2)[1][:, [0, 1, 1]], 30)

    def stop(frames: list[np.ndarray]) -> list[np.ndarray]:
        return [*frames[:first], *[frames[first]] * 30, *frames[first + 30 :]]

    found = only(filmed(tmp_path, stop))
    assert (found.kind, found.severity, found.episode, found.part) == (
        "video-frozen", "error", 2, "top",
    )  # fmt: skip
    assert found.ticks is not None
    assert abs(found.ticks[0] - first) <= 3
    assert abs(found.ticks[1] - first - 30) <= 3


def test_a_camera_that_sees_an_arm_rest_is_not_frozen(tmp_path: Path):
    """Joints that it does not see move on: what it sees of each joint is learned from all."""
    episodes = []
    for seed in range(5):
        _, action = demonstrate(seed)
        first = len(action) // 2
        action[first : first + 40, :2] = action[first, :2]
        action[first + 40 :, :2] += action[first, :2] - action[first + 40, :2]
        action[first : first + 40, 2] += np.sin(np.arange(40) / 4)
        episodes.append((follow(action, seed=seed), action))
    root = write(tmp_path / "data", episodes, cameras=["top"])
    assert [f for f in look_over(root, frames=True) if f.kind.startswith("video")] == []


@pytest.mark.parametrize(
    ("count", "level", "severity"),
    [(2, 0, "warning"), (10, 0, "error"), (10, 128, "error"), (10, 12, "error")],
)
def test_black_frames_are_found_with_their_ticks(
    count: int, level: int, severity: str, tmp_path: Path
):
    def black(frames: list[np.ndarray]) -> list[np.ndarray]:
        return [*frames[:40], *[np.full_like(frames[0], level)] * count, *frames[40 + count :]]

    found = only(filmed(tmp_path, black))
    assert (found.kind, found.severity, found.episode, found.part) == (
        "blank-frames", severity, 2, "top",
    )  # fmt: skip
    assert found.ticks == (40, 40 + count)


def test_a_video_with_frames_too_few_is_found_at_the_first_that_is_missing(tmp_path: Path):
    found = only(filmed(tmp_path, lambda frames: frames[:100]))
    assert (found.kind, found.severity, found.episode, found.ticks, found.fix) == (
        "video-unreadable", "error", 2, (100, 101), "drop",
    )  # fmt: skip


def test_a_video_that_is_cut_or_gone_is_found_beside_the_others(tmp_path: Path):
    root = write(tmp_path / "data", [demonstrate(seed) for seed in range(4)], cameras=["top"])
    videos = root / "videos/observation.images.top/chunk-000"
    (videos / "file-001.mp4").unlink()
    data = (videos / "file-003.mp4").read_bytes()
    (videos / "file-003.mp4").write_bytes(data[: len(data) // 2])
    found = look_over(root, frames=True)
    assert [(f.kind, f.episode, f.severity) for f in found] == [
        ("damaged-file", 1, "error"), ("damaged-file", 3, "error"),
    ]  # fmt: skip


def test_a_camera_that_never_sees_anything_move_is_told(tmp_path: Path):
    found = only(filmed(tmp_path, lambda frames: [frames[0]] * len(frames), index=-1))
    assert (found.kind, found.severity, found.part) == ("video-still", "warning", "top")


def test_threads_change_nothing(tmp_path: Path):
    root = write(
        tmp_path / "data", [demonstrate(seed) for seed in range(2)], cameras=["top", "side"],
        film=lambda index, frames: late(6)(frames) if index == 1 else frames,
    )  # fmt: skip
    source = open_dataset(root)
    one, three = (inspect_frames(source, workers=workers) for workers in (1, 3))
    assert one == three
    assert {(f.episode, f.part) for f in one} == {(1, "top"), (1, "side")}


def test_a_frame_is_forgotten_when_the_next_has_come(tmp_path: Path):
    """Memory does not grow with the video: each frame is gone once it was compared."""
    import weakref

    source = FakeDataset((30,))
    alive: list[int] = []

    class Watched:
        def frames(self, camera: str):
            before = []
            for frame in source.episode(0).frames(camera):
                before.append(weakref.ref(frame))
                yield frame
                del frame
                alive.append(sum(ref() is not None for ref in before))

    seen = measure_motion(Watched(), "top", VideoLimits())  # type: ignore[arg-type]
    assert len(seen.blank) == 30
    assert len(seen.change) == 29
    assert max(alive) <= 2


# --- the mathematics ---------------------------------------------------------------------------


def test_a_third_of_wild_points_cannot_turn_the_slope():
    rng = np.random.default_rng(0)
    x = np.arange(30.0)
    y = 0.25 * x + rng.normal(0, 0.01, 30)
    y[rng.permutation(30)[:8]] += rng.uniform(-50, 50, 8)
    assert theil_sen_slope(x, y) == pytest.approx(0.25, abs=0.05)
    assert theil_sen_slope(np.arange(4000.0), 0.25 * np.arange(4000.0)) == pytest.approx(0.25)


def test_what_a_camera_sees_of_each_joint_is_never_below_nothing():
    rng = np.random.default_rng(0)
    speeds = rng.uniform(0, 1, (400, 4))
    want = np.array([0.5, 0.0, 2.0, 0.0])
    right = speeds.T @ (speeds @ want)
    np.testing.assert_allclose(nonnegative_least_squares(speeds.T @ speeds, right), want, atol=1e-6)
    pulled = nonnegative_least_squares(
        speeds.T @ speeds, speeds.T @ (speeds @ np.array([0.5, -1.0, 2.0, 0.0]))
    )
    assert np.all(pulled >= 0)
    assert pulled[1] == 0


def test_the_worst_stands_first_and_the_count_says_how_many():
    def finding(severity: str, episode: int | None) -> Finding:
        return Finding("kind", severity, "what", "remedy", episode)  # type: ignore[arg-type]

    given = [finding("note", 1), finding("error", 3), finding("warning", None), finding("error", 2)]
    assert [(f.severity, f.episode) for f in by_severity(given)] == [
        ("error", 2), ("error", 3), ("warning", None), ("note", 1),
    ]  # fmt: skip
    assert summary(given) == "2 errors in 2 episodes, 1 warning, 1 note in 1 episode"
    assert summary([]) == "nothing found"
