"""Runs in the viewer: a log becomes curves, marks and sentences; a damaged one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from imitact.cli import main
from imitact.control.run_log import RUN, TICKS, RunLog
from imitact.control.safety_filter import Stage
from imitact.core.errors import DamagedFile
from imitact.core.hold import Hold
from imitact.recording.tick_record import TickFormat
from imitact.viewer import run_ticks, runs
from imitact.viewer.page import Blobs
from tests.support.tick_stream import SPEC, record_of, sent_at, state_at

TICKS_IN_LOG = 100
PHASES = [{"number": 1, "name": "policy", "ended": "success"}]


def write_log(folder: Path, *, ended: bool = True) -> Path:
    """Write two seconds of a run that holds, filters, skips, hears answers and a person."""
    form = TickFormat.of(SPEC)
    with RunLog(folder, SPEC, {"verb": "run", "robot": "x"}) as log:
        for tick in range(TICKS_IN_LOG):
            changes: dict[str, object] = {"engaged": int(80 <= tick < 90)}
            if 20 <= tick < 25:
                changes |= {"hold": Hold.ANSWER_LATE, "held": 1, "words": "no answer for 0.4 s"}
                changes |= {"stage": int(Stage.AGE if tick < 22 else Stage.NOT_ASKED)}
                changes |= {"asked": np.full(3, np.nan)}
            if 40 <= tick < 50:
                changes |= {"stage": int(Stage.MOTION), "joint": "elbow"}
                changes |= {"words": f"too fast {tick}", "asked": state_at(tick + 2) + 1}
            if tick == 60:
                changes |= {"skipped": 2}
            if tick % 30 == 10:
                changes |= {"answered_tick": tick - 2, "answer_s": 0.04, "seam": tick / 100}
            packed = form.pack(record_of(tick, **changes))  # type: ignore[arg-type]
            log.add(form.unpack(packed))  # as from the mailbox of a control loop
        if ended:
            log.end({"ticks": TICKS_IN_LOG, "phases": PHASES})
    return folder


def section_of(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    blobs = Blobs()
    section = runs.run_section(folder, blobs)
    return section, {n: np.frombuffer(b, "<f4") for n, b in blobs.by_name.items()}


def sentences(section: dict) -> str:
    return "\n".join(line["text"] for line in section["summary"])


def test_curves_show_what_was_asked_commanded_sent_and_measured_at_each_tick(tmp_path: Path):
    section, blobs = section_of(write_log(tmp_path / "log"))
    series = {name: blobs[blob].reshape(-1, 3) for name, blob in section["series"].items()}
    measured = np.array([state_at(tick) for tick in range(TICKS_IN_LOG)])
    np.testing.assert_allclose(series["state"], measured, atol=2e-5)
    assert np.isnan(series["asked"][20:25]).all()
    np.testing.assert_allclose(series["asked"][45] - series["action"][45], 1, atol=1e-4)
    # The record of a tick says what its predecessor's command became: it stands where it belongs.
    sent = np.array([sent_at(tick) for tick in range(TICKS_IN_LOG - 1)])
    np.testing.assert_allclose(series["sent"][:-1], sent, atol=2e-5)
    assert np.isnan(series["sent"][-1]).all()
    np.testing.assert_allclose(blobs[section["late_ms"]], 0.5, atol=0.02)
    assert set(section["ages_ms"]) == {"state", "camera top", "camera wrist", "leader"}


def test_marks_have_their_time_their_length_and_the_first_words(tmp_path: Path):
    section, _ = section_of(write_log(tmp_path / "log"))
    (hold,) = section["spans"]["hold"]
    assert (hold["name"], hold["ticks"], hold["words"]) == ("answer late", 5, "no answer for 0.4 s")
    assert (hold["from"], hold["to"]) == (pytest.approx(0.4), pytest.approx(0.5))
    (act,) = section["spans"]["filter"]  # not the hold, which only passed through it
    assert (act["name"], act["joint"], act["words"]) == ("motion", "elbow", "too fast 40")
    (person,) = section["spans"]["person"]
    assert (person["from"], person["ticks"]) == (pytest.approx(1.6), 10)
    assert section["skips"] == [[pytest.approx(1.2), 2]]
    assert [size for _, size in section["seams"]] == [0.1, 0.4, 0.7]
    assert [ms for _, ms in section["answers"]] == [40, 40, 40]
    assert section["phases"][0]["name"] == "policy"


def test_the_summary_says_how_long_how_it_ended_and_what_held_it(tmp_path: Path):
    section, _ = section_of(write_log(tmp_path / "log"))
    text = sentences(section)
    assert "It lasted 2 s: 100 ticks at 50 Hz, 2 ticks skipped." in text
    assert "It ended: success (in policy)." in text
    assert "Held once, for 0.1 s: answer late (no answer for 0.4 s)." in text
    assert "acted at 10 ticks (10 %), stage motion, most at elbow" in text
    assert "largest seam between two chunks is 0.7 legal steps" in text
    assert "A person had the command once, for 0.2 s." in text
    severities = {line["severity"] for line in section["summary"] if "answer late" in line["text"]}
    assert severities == {"error"}


def test_a_killed_run_is_shown_up_to_its_last_whole_line(tmp_path: Path):
    folder = write_log(tmp_path / "log", ended=False)
    file = folder / TICKS
    file.write_bytes(file.read_bytes()[:-20])
    section, blobs = section_of(folder)
    assert len(blobs[section["x"]]) == TICKS_IN_LOG - 1
    assert "was killed" in sentences(section)


def test_a_long_run_shows_fewer_points_and_its_largest_lateness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runs, "MAX_CURVE_BYTES", 4 * 12 * 40)
    with RunLog(tmp_path / "log", SPEC, {}) as log:
        for tick in range(TICKS_IN_LOG):
            log.add(record_of(tick, start_s=100 + tick / 50 + (0.1 if tick == 31 else 0)))
    section, blobs = section_of(tmp_path / "log")
    assert section["every"] == 3
    late_ms = blobs[section["late_ms"]]
    assert len(late_ms) == section["points"] == 34
    assert late_ms.max() == pytest.approx(100, abs=0.1)
    assert int(late_ms.argmax()) == 10


@pytest.mark.parametrize(
    "changes",
    [
        {"t": None}, {"t": "1"}, {"late": "x"}, {"state": [1.0]}, {"action": None},
        {"state": "abc"}, {"stage": 0.5}, {"hold": True}, {"tick": 1e300}, {"frame_ages": [{}, {}]},
    ],
)  # fmt: skip
def test_a_row_that_is_no_tick_is_refused_with_its_line(tmp_path: Path, changes: dict):
    folder = write_log(tmp_path / "log")
    lines = (folder / TICKS).read_text().splitlines()
    lines[4] = json.dumps({**json.loads(lines[4]), **changes})
    (folder / TICKS).write_text("\n".join(lines) + "\n")
    if changes == {"action": None}:  # nothing was commanded: a gap, and no damage
        assert len(run_ticks.load_ticks(folder, SPEC)) == TICKS_IN_LOG
        return
    with pytest.raises(DamagedFile, match=TICKS):
        run_ticks.load_ticks(folder, SPEC)


def test_a_log_without_ticks_or_spec_is_refused(tmp_path: Path):
    folder = write_log(tmp_path / "log")
    (folder / TICKS).write_text("")
    with pytest.raises(DamagedFile, match="no tick"):
        section_of(folder)
    about = json.loads((folder / RUN).read_text())
    (folder / RUN).write_text(json.dumps({**about, "spec": {"state_names": 3}}))
    with pytest.raises(DamagedFile, match="spec"):
        section_of(folder)


def test_a_stage_of_a_later_version_has_its_number(tmp_path: Path):
    with RunLog(tmp_path / "log", SPEC, {}) as log:
        log.add(record_of(0, stage=99))
        log.add(record_of(1, stage=-1))
    section, _ = section_of(tmp_path / "log")
    assert [span["name"] for span in section["spans"]["filter"]] == ["number 99", "filter failed"]


def test_the_page_of_a_log_is_written_beside_it(tmp_path: Path):
    write_log(tmp_path / "log")
    assert main.run(["view", str(tmp_path / "log")]) == 0
    assert '"kind":"run"' in (tmp_path / "log.html").read_text()


def test_rerun_reads_back_the_joints_and_words_of_a_log(tmp_path: Path):
    chunk = pytest.importorskip("rerun.chunk")
    write_log(tmp_path / "log")
    assert main.run(["view", str(tmp_path / "log"), "--rerun", str(tmp_path / "log.rrd")]) == 0
    paths: dict[str, list[int]] = {}
    for part in chunk.RrdReader(tmp_path / "log.rrd").stream():
        batch = part.to_record_batch()
        if "tick" in batch.schema.names:
            ticks = paths.setdefault(part.entity_path.strip("/"), [])
            ticks += batch.column("tick").to_pylist()
    assert paths["log/joint/elbow/measured"] == list(range(TICKS_IN_LOG))
    assert paths["log/joint/elbow/sent"] == list(range(TICKS_IN_LOG - 1))
    assert paths["log/joint/elbow/asked"] == [*range(20), *range(25, TICKS_IN_LOG)]
    assert paths["log/words"] == [20, 40, 80]
