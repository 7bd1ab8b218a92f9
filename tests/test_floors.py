"""The house's law: imports go downwards only, and what stands on each floor stays light.

`violations` reads the source of a tree and names each breach; the laws below apply it to imitact's
own tree, and to small trees that break one law each, so that every law is seen to catch something.
Deferred imports (inside a function, or by importlib) count like any other.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "imitact"

WORDS = ("contract", "stats", "frames", "chunking", "rollout", "checks", "processor")
DOORS = ("verbs", "cli")
FLOOR = {
    **dict.fromkeys(WORDS, 0),
    **dict.fromkeys(("data", "model", "sim"), 1),
    **dict.fromkeys(("train", "evaluate", "deploy", "look"), 2),
    "verbs": 3,
    "cli": 4,
    "__main__": 5,
}
"""A wing (folder) or a room of the top folder, and its floor. Rooms of floor 0 are one wing."""

OUTSIDE = {
    0: {"numpy"},
    "data": {"numpy", "pyarrow", "av", "msgspec", "h5py", "numcodecs"},
    "model": {"numpy", "torch", "safetensors", "msgspec"},
    "sim": {"numpy", "mujoco", "dm_control", "gym_aloha", "gymnasium", "mink", "OpenGL"},
    "train": {"numpy", "torch", "safetensors", "msgspec", "rich", "trackio", "wandb"},
    "evaluate": {"numpy", "torch", "msgspec", "rich", "matplotlib"},
    "deploy": {"numpy", "msgspec", "torch", "onnx", "onnxruntime", "openvino", "nncf"},
    "look": {"numpy", "av", "rerun"},
    "verbs": {"numpy", "msgspec", "tyro", "rich"},
    "cli": {"tyro"},
    "__main__": set(),
}
"""What may be imported from outside the standard library, by floor or wing."""

BANNED = {"pickle", "random", "shelve", "dill", "cloudpickle", "joblib"}
PICKLES = {"torch.save": False, "torch.load": True}
"""Calls that write or read a pickle; True where `weights_only=True` makes one harmless."""

WRITES_PICKLES = {"model/released.py": {"torch.save"}}
"""The released ACT's own format is a pickle of tensors, and what goes to it must be one."""

GLOBAL_RANDOM = re.compile(
    r"(np|numpy)\.random\.(?!default_rng|Generator|SeedSequence|PCG64|SFC64|RandomState)\w+"
)


NAMED_BY_THE_USER = ("sim/gym.py", "verbs/worlds.py")
"""Rooms that import what a command line names: who registers an environment, who demonstrates."""


def wing_of(module: str) -> str:
    """`imitact.data.video` stands in "data", `imitact.cli` in "cli", `imitact.frames` in "0"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Every module that the code imports, wherever it does so, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")
                parent = parent[: len(parent) - node.level + is_package]
                base = ".".join([*parent, *([base] if base else [])])
            # `from imitact import data` names a module too, `from imitact.data import x` may.
            for alias in node.names:
                yield (f"{base}.{alias.name}" if base.startswith("imitact") else base), node.lineno
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__"):
                given = node.args[0]
                known = isinstance(given, ast.Constant) and isinstance(given.value, str)
                yield (given.value if known else "<computed>"), node.lineno  # type: ignore[union-attr]


def top_level_work(tree: ast.Module) -> Iterator[int]:
    """Lines at the top of a module that do something when it is imported."""
    allowed = (
        ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        | ast.Assign | ast.AnnAssign
    )  # fmt: skip
    for node in tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_seal = isinstance(node, ast.Expr) and ast.unparse(node).endswith(
            ".setflags(write=False)"
        )
        is_guard = isinstance(node, ast.If) and (
            ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
        )
        if not (isinstance(node, allowed) or is_text or is_seal or is_guard):
            yield node.lineno


def violations(source: Path) -> list[str]:
    """Each breach of the floors in a tree laid out like src/imitact, as "file:line: what"."""
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    files = sorted(source.rglob("*.py"))
    modules: dict[Path, str] = {}
    for file in files:
        parts = ["imitact", *file.relative_to(source).with_suffix("").parts]
        modules[file] = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    known = set(modules.values())
    for file in files:
        module = modules[file]
        tree = ast.parse(file.read_text())

        def say(line: int, what: str, file: Path = file) -> None:
            found.append(f"{file.relative_to(source)}:{line}: {what}")

        if ast.get_docstring(tree) is None:
            say(1, "a file opens with its one idea, in a docstring")
        wing = wing_of(module)
        if file.name == "__init__.py":
            rest = tree.body[1:]
            is_version = len(rest) == 1 and ast.unparse(rest[0]).startswith("__version__ = ")
            if rest and not (wing == "" and is_version):
                say(rest[0].lineno, "an __init__ holds a docstring and nothing else")
            continue
        if wing not in FLOOR:
            say(1, f"{wing!r} has no floor; give it one in {Path(__file__).name}")
            continue
        for line in top_level_work(tree):
            say(line, "importing it does work")
        graph[module] = set()
        for target, line in imports(tree, module, is_package=False):
            root = target.split(".")[0]
            if target == "<computed>":
                if file.relative_to(source).as_posix() in NAMED_BY_THE_USER:
                    continue
                say(line, "imports a module whose name is computed; write the name out")
            elif root == "imitact":
                owner = wing_of(target)
                if owner not in FLOOR:
                    if owner not in ("", "__version__"):
                        say(line, f"imports {target}, which has no floor")
                    continue
                same = owner == wing or FLOOR[owner] == FLOOR[wing] == 0
                if not same and FLOOR[owner] >= FLOOR[wing]:
                    say(
                        line, f"floor {FLOOR[wing]} ({wing}) imports floor {FLOOR[owner]}: {target}"
                    )
                room = target if target in known else target.rpartition(".")[0]
                if room != module and room in known:
                    graph[module].add(room)
            elif root in BANNED:
                say(line, f"imports {root}")
            elif root not in sys.stdlib_module_names:
                allowed = OUTSIDE[0 if FLOOR[wing] == 0 else wing]
                if root not in allowed:
                    say(line, f"{wing} imports {root}; it may use {sorted(allowed)}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "print" and wing not in DOORS:
                    say(node.lineno, "prints; only the doors talk to a terminal")
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
                allowed = WRITES_PICKLES.get(file.relative_to(source).as_posix(), set())
                harmless = name in allowed or (PICKLES.get(name) and safe == "True")
                if name in PICKLES and not harmless:
                    say(node.lineno, f"{name} writes or reads a pickle")
                if any(
                    k.arg == "allow_pickle" and getattr(k.value, "value", True)
                    for k in node.keywords
                ):
                    say(node.lineno, "allows a pickle")
                if GLOBAL_RANDOM.fullmatch(name):
                    say(node.lineno, f"{name} is the global random state; pass a generator")
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node) == "sys.argv"
                and wing != "cli"
            ):
                say(node.lineno, "reads sys.argv; only cli does")
    found.extend(f"{a} and {b} import each other" for a, b in circles(graph))
    return found


def circles(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs (a, b), a < b, of modules that reach each other through imports."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for further in graph.get(ahead.pop(), ()):
                if further not in seen:
                    seen.add(further)
                    ahead.append(further)
        reach[start] = seen
    return sorted((a, b) for a in reach for b in reach[a] if a < b and a in reach.get(b, ()))


def tree(folder: Path, **rooms: str) -> Path:
    """A small source tree; `data__video="import torch"` writes data/video.py with a docstring."""
    for name, code in rooms.items():
        file = folder / (name.replace("__", "/", 1) + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"""A room."""\n\n{code}\n')
    return folder


def test_imports_go_downwards_only():
    assert violations(SOURCE) == []


def test_the_law_looks_at_every_room_of_the_house():
    rooms = {p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py")}
    assert {"contract.py", "data/lerobot.py", "model/act.py", "sim/aloha.py", "train/loop.py",
            "evaluate/trials.py", "cli.py"} <= rooms  # fmt: skip


def test_the_map_of_the_house_names_every_room_and_no_other():
    rows = [
        line.split("|")[2:4]
        for line in (SOURCE.parents[1] / "docs" / "architecture.md").read_text().splitlines()
        if line.count("|") == 5 and ".py`" in line
    ]
    wing, named = "", set()
    for folder, files in rows:
        wing = folder.strip(" `/") or wing
        named |= {f"{wing}/{file.strip('`')}" for file in files.split()}
    rooms = {p for p in SOURCE.rglob("*.py") if p.name != "__init__.py"}
    assert named == {
        p.relative_to(SOURCE.parent)
        .as_posix()
        .replace("imitact/", "imitact/" if p.parent == SOURCE else "")
        for p in rooms
    }


def test_a_lawful_tree_is_not_accused(tmp_path: Path):
    lawful = tree(
        tmp_path,
        contract="import numpy as np",
        data__video="import av\n\nfrom imitact.contract import x\nfrom imitact.data import lerobot",
        data__lerobot="import os\n\nfrom imitact import contract",
        train__loop="import torch\n\nfrom imitact.data.video import y\nimport imitact.model.act",
        model__act="from .transformer import z\n\nx = torch.load(p, weights_only=True)",
        model__transformer="import torch",
        cli="def main():\n    from imitact.train.loop import train\n    print(train)",
    )
    assert violations(lawful) == []


@pytest.mark.parametrize(
    ("room", "code", "says"),
    [
        ("contract", "import torch", "contract imports torch"),
        ("contract", "from imitact.data import video", "floor 0 (contract) imports floor 1"),
        ("data__video", "from imitact.sim.aloha import x", "floor 1 (data) imports floor 1"),
        ("data__video", "from ..sim import aloha", "floor 1 (data) imports floor 1"),
        ("data__video", "def f():\n    import imitact.model.act", "floor 1 (data) imports floor 1"),
        ("data__video", "def f():\n    import torch", "data imports torch"),
        ("data__video", "from importlib import import_module\n\nx = import_module('imitact.cli')",
         "floor 1 (data) imports floor 4"),
        ("data__video", "import importlib\n\nx = importlib.import_module('mu' + 'joco')",
         "name is computed"),
        ("train__loop", "import imitact.evaluate.trials", "floor 2 (train) imports floor 2"),
        ("evaluate__trials", "def f():\n    from imitact import cli", "imports floor 4"),
        ("verbs__demo", "from imitact.cli import main", "floor 3 (verbs) imports floor 4"),
        ("model__act", "import mujoco", "model imports mujoco"),
        ("model__act", "import pickle", "imports pickle"),
        ("model__act", "import torch\n\n\ndef f(p):\n    return torch.load(p)", "a pickle"),
        ("model__act", "import numpy\n\n\ndef f(p):\n    numpy.load(p, allow_pickle=True)",
         "allows a pickle"),
        ("sim__aloha", "import numpy as np\n\n\ndef f():\n    np.random.seed(0)", "global random"),
        ("sim__aloha", "import os\n\nos.environ['A'] = 'b'\nos.putenv('A', 'b')", "does work"),
        ("sim__aloha", "def f():\n    print(1)", "prints"),
        ("sim__aloha", "import sys\n\nx = sys.argv[1:]", "reads sys.argv"),
        ("sim____init__", "from imitact.sim import aloha", "docstring and nothing else"),
        ("helpers", "x = 1", "'helpers' has no floor"),
        ("robot__safety", "x = 1", "'robot' has no floor"),
    ],
)  # fmt: skip
def test_a_breach_is_caught(tmp_path: Path, room: str, code: str, says: str):
    found = violations(tree(tmp_path, **{room: code}))
    assert len(found) == 1, found
    assert says in found[0]
    assert room.replace("__", "/", 1) in found[0]


def test_a_circle_within_a_wing_is_caught(tmp_path: Path):
    found = violations(
        tree(
            tmp_path,
            data__a="from imitact.data import b",
            data__b="def f():\n    from imitact.data.c import x",
            data__c="from imitact.data.a import y",
        )
    )
    assert found == [
        "imitact.data.a and imitact.data.b import each other",
        "imitact.data.a and imitact.data.c import each other",
        "imitact.data.b and imitact.data.c import each other",
    ]


def test_a_file_without_its_idea_is_caught(tmp_path: Path):
    (tmp_path / "frames.py").write_text("x = 1\n")
    assert violations(tmp_path) == ["frames.py:1: a file opens with its one idea, in a docstring"]


def loaded_by(code: str) -> set[str]:
    """The top-level names of the modules that a fresh interpreter holds after some code."""
    script = f"{code}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {
    "torch",
    "mujoco",
    "dm_control",
    "gym_aloha",
    "gymnasium",
    "mink",
    "pyarrow",
    "av",
    "scipy",
}


def test_importing_the_doors_imports_nothing_heavy():
    assert not loaded_by("import imitact.cli") & HEAVY


def test_the_words_need_numpy_alone():
    code = "\n".join(f"import imitact.{room}" for room in WORDS)
    assert not loaded_by(code) & (HEAVY | {"tyro", "rich", "msgspec", "safetensors"})


def test_data_does_not_import_torch_nor_the_simulator():
    loaded = loaded_by("import imitact.data.lerobot, imitact.data.samples")
    assert not loaded & {"torch", "mujoco", "dm_control", "gym_aloha"}


def test_an_exported_policy_needs_no_torch():
    loaded = loaded_by("import imitact.deploy.runtime")
    light = HEAVY | {"onnx", "onnxruntime", "openvino", "nncf", "safetensors", "tyro", "rich"}
    assert not loaded & light
    assert "torch" in loaded_by("import imitact.deploy.export")


def test_what_an_import_loads_is_seen_by_this_test():
    assert "mujoco" in loaded_by("import mujoco")
