"""Tests of the documentation: examples run, command lines parse, generated pages are current.

Python examples run in a temporary folder, those of one page one after the other. Command lines are
parsed by imitact; those marked `<!-- example: run -->` also run, and those marked `<!-- example:
takes minutes -->` do not. `GIVEN` makes the files that examples read.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest
import settings_page

from imitact.cli import main
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.feature_statistics import Accumulator
from imitact.core.types import Camera, Observation, Spec
from imitact.deploy.export import export
from imitact.deploy.export_config import ExportConfig
from imitact.evaluation import report, runner
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from tests.support import tiny_arm
from tests.support.dot_dataset import record_dots
from tests.support.fake_dataset import FakeDataset
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MINUTES, RUN = "takes minutes", "run"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page.
        line: line of its fence.
        language: language after the fence, or empty.
        text: its contents.
        mark: mark in the comment before it, or empty.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if opened is None:
            mark = re.fullmatch(r"<!-- example: (.*) -->", lines[number - 2] if number > 1 else "")
            opened = number, line[3:].strip(), mark[1] if mark else ""
        else:
            first, language, mark = opened
            text = "\n".join(lines[first : number - 1])
            found.append(Block(page, first, language, text, mark))
            opened = None
    assert opened is None, f"{page}: a fence is not closed"
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


# --- examples in Python ------------------------------------------------------------------------


def aloha_spec() -> Spec:
    """Return the Spec of ALOHA's 14 joints and one camera of 480x640."""
    return Spec(
        ALOHA_JOINTS,
        ALOHA_JOINTS,
        ALOHA_UNITS,
        ALOHA_UNITS,
        (Camera("top", 480, 640),),
        ALOHA_RATE_HZ,
    )


class AlohaDataset(FakeDataset):
    """A dataset of noise with ALOHA's Spec."""

    @property
    def spec(self) -> Spec:
        return aloha_spec()


def aloha_policy(path: Path, chunk: int = 60) -> TorchPolicy:
    """Save an untrained policy with ALOHA's Spec."""
    rows = Accumulator(14)
    rows.add(np.random.default_rng(0).normal(size=(10, 14)))
    config = ActConfig(
        chunk_size=chunk, input_height=30, input_width=40, backbone_width=8, backbone_stages=2,
        backbone_norm="batch", hidden_dim=16, num_heads=2, dim_feedforward=16, encoder_layers=1,
        use_vae=False,
    )  # fmt: skip
    stats = {"state": rows.result(), "action": rows.result()}
    policy = TorchPolicy.create(aloha_spec(), stats, config, seed=0, fingerprint="none")
    policy.save(path)
    return policy


def training(path: Path) -> None:
    """Save an untrained policy where a training leaves its own."""
    aloha_policy(path / "policy")


def exported(path: Path) -> None:
    """Export an untrained policy, certified on three ticks."""
    policy = aloha_policy(path.parent.parent / "torch" / "policy")
    dataset = AlohaDataset((3,), ("top",), 480, 640, 14)
    config = ExportConfig(observations=2, calls=3, torch_calls=2, threads=1)
    export(policy, dataset, path.parent, config, policy_sha256="0" * 64)


def dot_dataset(path: Path) -> None:
    """Record two demonstrations of 30 ticks."""
    record_dots(path, 2)


def evaluation(path: Path, looks: bool = False) -> None:
    """Evaluate six episodes of a tiny arm."""
    found = runner.evaluate(
        partial(tiny_arm.Reacher, looks), tiny_arm.TinyArm, seeds=range(1000, 1006),
        execution="replay:3", workers=0,
    )  # fmt: skip
    report.write(found, path)


GIVEN: dict[str, Callable[[Path], Any]] = {
    "runs/demo/training": training,
    "runs/act": training,
    "runs/act/policy": aloha_policy,
    "runs/data": dot_dataset,
    "runs/exported/policy.openvino": exported,
    "runs/eval": evaluation,
    "runs/other-eval": partial(evaluation, looks=True),
}
"""Path in the examples to what makes a small file or folder of its kind there."""


def make_given(text: str, folder: Path) -> None:
    """Make the paths of GIVEN that an example names and that do not exist yet."""
    for path, make in GIVEN.items():
        if re.search(rf"(?<![\w/-]){re.escape(path)}(?![\w/-])", text):
            target = folder / path
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                make(target)


PYTHON = {
    page.relative_to(ROOT).as_posix(): [b for b in blocks(page) if b.language == "python"]
    for page in PAGES
    if page.name != "README.md"  # tests/test_readme.py
}


def write_file(block: Block, folder: Path) -> bool:
    """Write a block that begins with the name of a file as that file; return whether it does."""
    file = re.match(r"# (\w+\.py)\n", block.text)
    if file:
        (folder / file[1]).write_text(block.text, encoding="utf-8")
    return file is not None


@pytest.mark.parametrize("page", [name for name, found in PYTHON.items() if found])
def test_the_examples_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {
        "np": np,
        "observation": Observation(np.zeros(14), {"top": np.zeros((480, 640, 3), np.uint8)}),
        "__name__": "example",
    }
    before = set(sys.modules)
    try:
        for block in PYTHON[page]:
            make_given(block.text, tmp_path)
            code = compile("\n" * block.line + block.text, block.page.name, "exec")
            if not write_file(block, tmp_path):
                exec(code, names)
    finally:
        for name in set(sys.modules) - before:
            if name in ("reach", "road", "convert", "myarm"):
                del sys.modules[name]
    if "evaluation" in names:
        assert names["evaluation"].successes >= 40
        assert names["evaluation"].episodes == 50


# --- command lines -----------------------------------------------------------------------------


PROGRAMS = ("imitact", "make", "python", "pip", "torchrun")


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command line, continued lines joined and comments removed."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.split(" ")[0] in PROGRAMS:
            yield shlex.split(line, comments=True)


SHELL = [b for b in BLOCKS if b.language in ("", "sh", "console", "bash")]
COMMANDS = [(block, words) for block in SHELL for words in commands(block)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def check_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command line of imitact up to its parsed settings."""
    parsed: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(main.VERBS[words[0]].module(), "run", parsed.append)
        assert main.run(words) == 0, words
    assert len(parsed) == 1 or "--help" in words


@pytest.mark.parametrize(
    ("block", "words"), COMMANDS, ids=[f"{b.where}-{' '.join(w)[:40]}" for b, w in COMMANDS]
)
def test_a_command_line_is_valid(block: Block, words: list[str], monkeypatch: pytest.MonkeyPatch):
    program, *rest = words
    if program == "torchrun":
        assert rest[rest.index("-m") + 1] == "imitact"
        program, rest = "imitact", rest[rest.index("imitact") + 1 :]
    if program == "imitact":
        if rest[1:] != ["--help"] and "..." not in rest:
            check_parses(rest, monkeypatch)
        assert rest[0] in main.VERBS
    if program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if program == "python" and rest[0] != "-m":
        source = (ROOT / rest[0]).read_text()
        unknown = [o for o in rest if o.startswith("--") and f'"{o}"' not in source]
        assert unknown == []
    if program == "pip":
        for extras in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
            assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_commands_that_take_minutes_are_marked_on_the_first_pages():
    slow = {"demo", "record", "train", "evaluate", "export"}
    for block, words in COMMANDS:
        if block.page.parent.name in ("docs", "concepts") and block.page.stem in FIRST_PAGES:
            verbs = {words[1]} if words[0] in ("imitact", "make") else set()
            if verbs & slow:
                assert block.mark == MINUTES, block.where


FIRST_PAGES = {"index", "start", "own_data", "own_environment", "troubleshooting",
               "chunking", "ensemble", "cvae", "targets"}  # fmt: skip
"""Pages for newcomers, whose slow commands are marked."""


@pytest.mark.parametrize(
    "block", [b for b in SHELL if b.mark == RUN], ids=lambda block: block.where
)
def test_a_command_line_marked_as_run_runs(
    block: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    make_given(block.text, tmp_path)
    for each in PYTHON.get(block.page.relative_to(ROOT).as_posix(), []):
        write_file(each, tmp_path)
    for words in commands(block):
        assert words[0] == "imitact"
        assert main.run(words[1:]) == 0
        assert capsys.readouterr().out


def spans(page: Path) -> list[str]:
    """Return the inline code of a page's prose."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(s.split()) for s in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


REPORTED = [s for s in spans(DOCS / "field_reports.md") if s.startswith("imitact ")]


@pytest.mark.parametrize("command", REPORTED)
def test_a_command_of_the_reported_situations_is_valid(
    command: str, monkeypatch: pytest.MonkeyPatch
):
    check_parses(shlex.split(command)[1:], monkeypatch)


def known_options() -> set[str]:
    """Return the options of all verbs, programs, benchmarks and of other tools in the pages."""
    found = {option for verb in settings_page.options().values() for option in verb}
    for folder in ("scripts", "benchmarks", "tests/faults"):
        for file in (ROOT / folder).glob("*.py"):
            found |= set(re.findall(r'"(--[\w-]+)"', file.read_text()))
    found |= {"--max-restarts", "--nnodes", "--node-rank", "--shutdown-timeout"}  # torchrun's
    found |= {"--logdir"}  # tensorboard's
    found |= {"--policy.type", "--policy.preset", "--policy.chunking"}  # LeRobot's
    found |= {"--policy.path", "--fps", "--robot.type"}  # lerobot-rollout's
    found |= {"--robot.use_degrees", "--robot.max_relative_target"}
    return found | {"--help", "--version", "--no-deps", "--nproc-per-node", "--record"}


def test_every_option_in_the_prose_exists():
    known = known_options()
    missing = [
        (page.name, option)
        for page in PAGES
        for span in spans(page)
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*\w(?![\w.…*-])", span)
        if option not in known
    ]
    assert missing == []
    assert "--model.chnk" not in known


def test_every_error_that_the_prose_quotes_is_in_the_code():
    source = "\n".join(p.read_text() for p in (ROOT / "src").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)  # strings over several lines
    quoted = re.findall(r'\*\*"([^"]+)"', (DOCS / "troubleshooting.md").read_text())
    assert len(quoted) >= 5
    for text in quoted:
        for part in re.split(r"v\d\.\d|\d[\d.]*|'top'", text):
            assert part.strip() in joined, f"{text}: no error contains {part!r}"


def test_every_file_that_the_docs_name_exists():
    missing = []
    for page in PAGES:
        for span in spans(page):
            found = re.fullmatch(r"((?:benchmarks|scripts|tests|docs|src)/[\w./-]+\.\w+)", span)
            if found and not (ROOT / found[1]).is_file():
                missing.append((page.name, span))
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", page.read_text()):
            if not (page.parent / target).is_file():
                missing.append((page.name, target))
    assert missing == []


# --- what is generated -------------------------------------------------------------------------


def test_the_page_of_settings_is_current():
    assert settings_page.PAGE.read_text() == settings_page.page(), (
        "docs/settings.md is not current; run: python scripts/settings_page.py"
    )


def test_the_page_of_settings_has_every_verb_and_every_option():
    page = settings_page.PAGE.read_text()
    for verb, options in settings_page.options().items():
        assert f"## imitact {verb}\n" in page
        off = {o for o in options if re.search(r"(--|\.)no-", o)}
        assert {o for o in options - off if f"`{o}`" not in page} == set()


def same_figure(a: str, b: str, tolerance: float = 0.05) -> bool:
    """Whether two SVG files differ only by rounding, and in 1 % of their numbers by some pixels.

    Processors round differently, and a simulated gripper may close a tick earlier.
    """
    number = r"-?\d+(?:\.\d+)?"
    x, y = ([float(n) for n in re.findall(number, text)] for text in (a, b))
    same_words = re.sub(number, "#", a) == re.sub(number, "#", b)
    if not same_words or len(x) != len(y):
        return False
    off = np.abs(np.subtract(x, y))
    return bool(np.mean(off > tolerance) < 0.01 and off.max() < 5.0)


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_equals_what_its_command_draws(name: str):
    stored = figures.path_of(name).read_text()
    assert same_figure(stored, figures.draw(name)), f"run: python scripts/figures.py {name}"
    assert not same_figure(stored, stored.replace(".5", ".9"))


def test_the_recorded_joint_targets_equal_the_simulators():
    from concepts import targets

    recorded = json.loads(targets.NUMBERS.read_text())
    state, action = targets.episode(recorded["seed"])
    for name, rows, joint in (
        ("command_rad", action, targets.JOINT),
        ("measured_rad", state, targets.JOINT),
        ("gripper_measured", state, targets.GRIPPER),
    ):
        simulated = rows[:, ALOHA_JOINTS.index(joint)]
        np.testing.assert_allclose(
            recorded[name], simulated, atol=0.01,
            err_msg="run: python scripts/figures.py targets --measure",
        )  # fmt: skip


# --- the site ----------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html",
               "-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path / "site")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {p.relative_to(DOCS).with_suffix(".html") for p in DOCS.rglob("*.md")}
    assert {p for p in pages if not (tmp_path / "site" / p).is_file()} == set()
    fetched = re.compile(r'(?:src|href)="https?://[^"]+\.(?:js|css|woff2?)"')
    for file in (tmp_path / "site").rglob("*.html"):
        assert not fetched.search(file.read_text()), f"{file.name} loads a file from a network"
    reference = (tmp_path / "site" / "reference.html").read_text()
    assert 'id="imitact.core.types.Spec"' in reference
    assert 'id="imitact.load_policy"' in reference
