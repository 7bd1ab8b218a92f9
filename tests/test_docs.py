"""The documentation tells the truth: its examples run, its command lines are understood, its
figures and its page of settings are what the code makes today.

An example in Python is run, in a folder of its own, the examples of a page one after the other. A
command line is parsed as imitact would; where it is marked `<!-- example: run -->` it is run too,
where it takes minutes it is marked so. What an example needs and does not make is in `GIVEN`.
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
from imitact.core.statistics import Accumulator
from imitact.core.types import Camera, Observation, Spec
from imitact.deploy.export import ExportConfig, export
from imitact.envs.aloha import JOINTS, RATE_HZ, UNITS
from imitact.evaluation import report, runner
from imitact.models.act import ActConfig
from imitact.models.policy import TorchPolicy
from imitact.recording.recorder import record
from tests.support import dot_env as worlds
from tests.support import tiny_arm
from tests.support.fake_dataset import FakeSource
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MINUTES, RUN = "takes minutes", "run"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, the line it begins at, and the mark in the
    comment before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Of a page, in order; fences come in pairs."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    begun: tuple[int, str, str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if begun is None:
            mark = re.fullmatch(r"<!-- example: (.*) -->", lines[number - 2] if number > 1 else "")
            begun = number, line[3:].strip(), mark[1] if mark else ""
        else:
            first, language, mark = begun
            text = "\n".join(lines[first : number - 1])
            found.append(Block(page, first, language, text, mark))
            begun = None
    assert begun is None, f"{page}: a fence is not closed"
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


# --- examples in Python ------------------------------------------------------------------------


def aloha_spec() -> Spec:
    """Of the ALOHA's 14 joints and one camera of 480x640."""
    return Spec(JOINTS, JOINTS, UNITS, UNITS, (Camera("top", 480, 640),), RATE_HZ)


class AlohaSource(FakeSource):
    """Noise, with the shapes of the ALOHA."""

    @property
    def spec(self) -> Spec:
        return aloha_spec()


def aloha_policy(path: Path, chunk: int = 60) -> TorchPolicy:
    """An untrained policy of that shape."""
    rows = Accumulator(14)
    rows.add(np.random.default_rng(0).normal(size=(10, 14)))
    config = ActConfig(
        chunk=chunk, input_height=30, input_width=40, width=8, stages=2, norm="batch", dim=16,
        heads=2, ffn=16, encoder_layers=1, cvae=False,
    )  # fmt: skip
    stats = {"state": rows.result(), "action": rows.result()}
    policy = TorchPolicy.create(aloha_spec(), stats, config, seed=0, fingerprint="none")
    policy.save(path)
    return policy


def exported(path: Path) -> None:
    """Such a policy as a file, certified on three ticks."""
    policy = aloha_policy(path.parent.parent / "torch" / "policy")
    source = AlohaSource((3,), ("top",), 480, 640, 14)
    config = ExportConfig(observations=2, calls=3, torch_calls=2, threads=1)
    export(policy, source, path.parent, config, policy_sha256="0" * 64)


def dot_dataset(path: Path) -> None:
    """Two demonstrations of 30 ticks."""
    record(
        path, make_env=worlds.make_dot, make_expert=worlds.make_dot_expert, episodes=2,
        task="go to the mark", seeds=range(1000),
    )  # fmt: skip


def evaluation(path: Path, looks: bool = False) -> None:
    """Six episodes of a tiny arm."""
    found = runner.evaluate(
        partial(tiny_arm.Reacher, looks), tiny_arm.TinyArm, seeds=range(1000, 1006),
        chunking="replay:3", workers=0,
    )  # fmt: skip
    report.write(found, path)


GIVEN: dict[str, Callable[[Path], Any]] = {
    "runs/demo/training/policy": aloha_policy,
    "runs/act/policy": aloha_policy,
    "runs/data": dot_dataset,
    "runs/exported/policy.openvino": exported,
    "runs/eval": evaluation,
    "runs/other-eval": partial(evaluation, looks=True),
}
"""Path that examples speak of to what makes it, small and real."""


def give(text: str, folder: Path) -> None:
    """What that example needs and is not there yet."""
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
            give(block.text, tmp_path)
            code = compile("\n" * block.line + block.text, block.page.name, "exec")
            if file := re.match(r"# (\w+\.py)\n", block.text):
                (tmp_path / file[1]).write_text(block.text, encoding="utf-8")
            else:
                exec(code, names)
    finally:
        for name in set(sys.modules) - before:
            if name in ("reach", "road", "convert"):
                del sys.modules[name]
    if "evaluation" in names:
        assert names["evaluation"].successes >= 40
        assert names["evaluation"].episodes == 50


# --- command lines -----------------------------------------------------------------------------


PROGRAMS = ("imitact", "make", "python", "pip", "torchrun")


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command line; backslashes join lines, comments are left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.split(" ")[0] in PROGRAMS:
            yield shlex.split(line, comments=True)


SHELL = [b for b in BLOCKS if b.language in ("", "sh", "console", "bash")]
COMMANDS = [(block, words) for block in SHELL for words in commands(block)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by imitact's own door, and not done."""
    given: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(main.VERBS[words[0]].room(), "run", given.append)
        assert main.run(words) == 0, words
    assert len(given) == 1 or "--help" in words


@pytest.mark.parametrize(
    ("block", "words"), COMMANDS, ids=[f"{b.where}-{' '.join(w)[:40]}" for b, w in COMMANDS]
)
def test_a_command_line_is_understood(
    block: Block, words: list[str], monkeypatch: pytest.MonkeyPatch
):
    program, *rest = words
    if program == "torchrun":
        assert rest[rest.index("-m") + 1] == "imitact"
        program, rest = "imitact", rest[rest.index("imitact") + 1 :]
    if program == "imitact":
        if rest[1:] != ["--help"] and "..." not in rest:
            understood(rest, monkeypatch)
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


def test_what_takes_minutes_is_marked_and_all_else_that_works_is_run():
    slow = {"demo", "record", "train", "evaluate", "export"}
    for block, words in COMMANDS:
        if block.page.parent.name in ("docs", "concepts") and block.page.stem in OURS:
            verbs = {words[1]} if words[0] in ("imitact", "make") else set()
            if verbs & slow:
                assert block.mark == MINUTES, block.where


OURS = {"index", "start", "own_data", "own_environment", "troubleshooting",
        "chunking", "ensemble", "cvae", "targets"}  # fmt: skip
"""Pages for a first reader, whose slow commands are marked."""


@pytest.mark.parametrize(
    "block", [b for b in SHELL if b.mark == RUN], ids=lambda block: block.where
)
def test_a_command_line_that_is_marked_so_runs(
    block: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    give(block.text, tmp_path)
    for words in commands(block):
        assert words[0] == "imitact"
        assert main.run(words[1:]) == 0
        assert capsys.readouterr().out


def spans(page: Path) -> list[str]:
    """The `code` of a page's prose."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(s.split()) for s in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def known_options() -> set[str]:
    """Of all verbs, of the scripts and benchmarks, and of make, pip and torchrun."""
    found = {option for verb in settings_page.options().values() for option in verb}
    for folder in ("scripts", "benchmarks", "tests/faults"):
        for file in (ROOT / folder).glob("*.py"):
            found |= set(re.findall(r'"(--[\w-]+)"', file.read_text()))
    found |= {"--max-restarts", "--nnodes", "--node-rank", "--shutdown-timeout"}  # torchrun's
    found |= {"--logdir"}  # tensorboard's
    found |= {"--policy.type", "--policy.preset", "--policy.chunking"}  # LeRobot's
    found |= {"--policy.path", "--fps", "--robot.type"}  # lerobot-rollout's
    return found | {"--help", "--version", "--no-deps", "--nproc-per-node", "--record"}


def test_every_option_that_the_prose_names_exists():
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


def test_an_error_that_the_prose_quotes_is_one_of_ours():
    source = "\n".join(p.read_text() for p in (ROOT / "src").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)  # strings over several lines
    quoted = re.findall(r'\*\*"([^"]+)"', (DOCS / "troubleshooting.md").read_text())
    assert len(quoted) >= 5
    for text in quoted:
        for part in re.split(r"v\d\.\d|\d[\d.]*|'top'", text):
            assert part.strip() in joined, f"{text}: no error says {part!r}"


def test_every_file_that_the_docs_name_is_there():
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


def test_the_page_of_settings_is_what_the_code_says():
    assert settings_page.PAGE.read_text() == settings_page.page(), (
        "docs/settings.md is not current; run: python scripts/settings_page.py"
    )


def test_the_page_of_settings_has_every_verb_and_every_option():
    page = settings_page.PAGE.read_text()
    for verb, options in settings_page.options().items():
        assert f"## imitact {verb}\n" in page
        off = {o for o in options if re.search(r"(--|\.)no-", o)}
        assert {o for o in options - off if f"`{o}`" not in page} == set()


def alike(a: str, b: str, tolerance: float = 0.05) -> bool:
    """Two SVG files, but for the last digits of numbers, and for a number in a hundred that is off
    by some pixels: processors round differently, and where a simulated gripper closes a tick
    earlier a step in a curve does."""
    number = r"-?\d+(?:\.\d+)?"
    x, y = ([float(n) for n in re.findall(number, text)] for text in (a, b))
    same_words = re.sub(number, "#", a) == re.sub(number, "#", b)
    if not same_words or len(x) != len(y):
        return False
    off = np.abs(np.subtract(x, y))
    return bool(np.mean(off > tolerance) < 0.01 and off.max() < 5.0)


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_what_its_command_draws(name: str):
    there = figures.path_of(name).read_text()
    assert alike(there, figures.draw(name)), f"run: python scripts/figures.py {name}"
    assert not alike(there, there.replace(".5", ".9"))


def test_the_numbers_of_the_joint_targets_are_the_simulators():
    from concepts import targets

    kept = json.loads(targets.NUMBERS.read_text())
    state, action = targets.episode(kept["seed"])
    for name, rows, joint in (
        ("command_rad", action, targets.JOINT),
        ("measured_rad", state, targets.JOINT),
        ("gripper_measured", state, targets.GRIPPER),
    ):
        again = rows[:, JOINTS.index(joint)]
        np.testing.assert_allclose(
            kept[name], again, atol=0.01,
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
        assert not fetched.search(file.read_text()), f"{file.name} fetches something"
    policy = (tmp_path / "site" / "reference.html").read_text()
    assert 'id="imitact.core.types.Spec"' in policy
