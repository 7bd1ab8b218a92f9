"""The layers: imports go down only, and each folder imports the packages it is allowed to.

`violations` reads the source of a tree and names each breach. The tests apply it to imitact's own
tree, and to small trees that break one rule each, so that every rule is shown to catch something.
Deferred imports (inside a function, or by importlib) count like any other.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import architecture_table
import pytest

from tests.support.paths import ROOT

SOURCE = ROOT / "src" / "imitact"

LAYERS = (
    ("core",),
    ("storage",),
    ("parallel",),
    ("datasets",),
    ("quality", "recording", "models", "envs", "serving"),
    ("training", "evaluation", "deploy"),
    ("control",),
    ("robots", "teleoperation"),
    ("viewer", "api"),
    ("cli",),
    ("__main__",),
)
"""The folders of src/imitact from the lowest layer up. A folder imports itself and lower layers."""

LAYER = {folder: number for number, layer in enumerate(LAYERS) for folder in layer}
PRINTING = ("cli",)

OUTSIDE = {
    "core": {"numpy"},
    "storage": {"msgspec"},
    "parallel": {"numpy", "h5py", "numcodecs"},
    "datasets": {"numpy", "pyarrow", "av", "msgspec", "h5py"},
    "quality": {"numpy"},
    "recording": {"numpy", "msgspec"},
    "models": {"numpy", "torch", "safetensors", "msgspec"},
    "serving": {"numpy", "msgspec", "websockets"},
    "envs": {"numpy", "mujoco", "dm_control", "gym_aloha", "gymnasium", "mink", "OpenGL"},
    "training": {"numpy", "torch", "safetensors", "msgspec", "trackio", "wandb"},
    "evaluation": {"numpy", "scipy", "msgspec", "matplotlib", "PIL"},
    "deploy": {"numpy", "msgspec", "torch", "onnx", "onnxruntime", "openvino", "nncf"},
    "control": {"numpy", "mujoco", "ruckig"},
    "robots": {"numpy", "dynamixel_sdk", "serial", "mujoco", "av", "zmq"},
    "teleoperation": {"numpy", "msgspec", "websockets"},
    "viewer": {"numpy", "av", "rerun", "PIL"},
    "api": {"numpy"},
    "cli": {"numpy", "tyro", "rich", "PIL"},
    "__main__": set(),
}
"""Packages from outside the standard library that each folder may import.

robots: cameras are read through PyAV's "video4linux2" input, whose frames have the kernel's capture
times. linuxpy is under GPL-3.0, and no dependency of imitact may be.
"""

BANNED = {"pickle", "random", "shelve", "dill", "cloudpickle", "joblib"}
PICKLES = {"torch.save": False, "torch.load": True}
"""Calls that write or read a pickle; True where `weights_only=True` makes one harmless."""

WRITES_PICKLES = {"models/interop/act_release.py": {"torch.save"}}
"""The released ACT's own format is a pickle of tensors, and what goes to it must be one."""

READS_PICKLES = {"models/interop/restricted_pickle.py"}
"""The one file that may import pickle, to restrict its Unpickler to NumPy's own names."""

GLOBAL_RANDOM = re.compile(
    r"(np|numpy)\.random\.(?!default_rng|Generator|SeedSequence|PCG64|SFC64|RandomState)\w+"
)


NAMED_BY_THE_USER = ("envs/own_code.py",)
"""Files that import what a user names: the module of an environment or of an expert."""


def folder_of(module: str) -> str:
    """The folder of src/imitact that holds a module: "datasets" for `imitact.datasets.video`."""
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
            # `from imitact import core` names a module, `from imitact.datasets import x` may.
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


def front_door_breaches(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What `imitact/__init__.py` does at import beside naming what it re-exports."""
    for node in tree.body[1:]:
        is_version = ast.unparse(node).startswith("from imitact.core.version import __version__")
        is_plain = isinstance(node, ast.Assign | ast.AnnAssign | ast.FunctionDef)
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        is_standard = isinstance(node, ast.Import | ast.ImportFrom) and (
            (getattr(node, "module", None) or node.names[0].name).split(".")[0]
            in sys.stdlib_module_names
        )
        if not (is_version or is_plain or is_typing or is_standard):
            yield node.lineno, "the front door imports or runs something"


def violations(source: Path) -> list[str]:
    """Each breach of the layers in a tree laid out like src/imitact, as "file:line: what"."""
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

        def breach(line: int, what: str, file: Path = file) -> None:
            found.append(f"{file.relative_to(source)}:{line}: {what}")

        if ast.get_docstring(tree) is None:
            breach(1, "a module needs a docstring")
        folder = folder_of(module)
        if module == "imitact":
            for line, what in front_door_breaches(tree):
                breach(line, what)
            continue
        if file.name == "__init__.py":
            if tree.body[1:]:
                breach(tree.body[1].lineno, "an __init__ holds a docstring and nothing else")
            continue
        if folder not in LAYER:
            breach(1, f"{folder!r} has no layer; give it one in {Path(__file__).name}")
            continue
        for line in top_level_work(tree):
            breach(line, "importing it does work")
        graph[module] = set()
        for target, line in imports(tree, module, is_package=False):
            root = target.split(".")[0]
            if target == "<computed>":
                if file.relative_to(source).as_posix() in NAMED_BY_THE_USER:
                    continue
                breach(line, "imports a module whose name is computed; write the name out")
            elif root == "imitact":
                owner = folder_of(target)
                if owner not in LAYER:
                    breach(line, f"imports {target}, which has no layer")
                    continue
                if owner != folder and LAYER[owner] >= LAYER[folder]:
                    breach(
                        line,
                        f"layer {LAYER[folder]} ({folder}) imports layer {LAYER[owner]}: {target}",
                    )
                imported = target if target in known else target.rpartition(".")[0]
                if imported != module and imported in known:
                    graph[module].add(imported)
            elif root in BANNED and file.relative_to(source).as_posix() not in READS_PICKLES:
                breach(line, f"imports {root}")
            elif root not in sys.stdlib_module_names:
                allowed = OUTSIDE[folder]
                if root not in allowed:
                    breach(line, f"{folder} imports {root}; it may use {sorted(allowed)}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "print" and folder not in PRINTING:
                    breach(node.lineno, "prints; only the command line writes to a terminal")
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
                allowed = WRITES_PICKLES.get(file.relative_to(source).as_posix(), set())
                harmless = name in allowed or (PICKLES.get(name) and safe == "True")
                if name in PICKLES and not harmless:
                    breach(node.lineno, f"{name} writes or reads a pickle")
                if any(
                    k.arg == "allow_pickle" and getattr(k.value, "value", True)
                    for k in node.keywords
                ):
                    breach(node.lineno, "allows a pickle")
                if GLOBAL_RANDOM.fullmatch(name):
                    breach(node.lineno, f"{name} is the global random state; pass a generator")
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node) == "sys.argv"
                and folder != "cli"
            ):
                breach(node.lineno, "reads sys.argv; only cli does")
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


def tree(folder: Path, **modules: str) -> Path:
    """A small source tree; `datasets__video="import av"` writes datasets/video.py."""
    for name, code in modules.items():
        file = folder / (name.replace("__", "/", 1) + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"""A module."""\n\n{code}\n')
    return folder


def test_imports_go_down_only():
    assert violations(SOURCE) == []


def test_the_rules_are_applied_to_every_file():
    files = {p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py")}
    assert {"core/types.py", "storage/atomic.py", "datasets/lerobot/reader.py", "models/act.py",
            "envs/aloha.py", "training/loop.py", "evaluation/runner.py",
            "cli/main.py"} <= files  # fmt: skip


def test_the_largest_folder_holds_less_than_a_sixth_of_the_files():
    """A newcomer finds a file by its folder; `data/` once held 36 % of all files directly."""
    files = list(SOURCE.rglob("*.py"))
    direct = Counter(p.parent for p in files)
    folder, count = direct.most_common(1)[0]
    assert count / len(files) < 0.16, f"{folder.name} holds {count} of {len(files)} files"


def test_the_table_of_folders_in_the_architecture_page_is_generated():
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert architecture_table.inserted(page) == page, "run python scripts/architecture_table.py"


def test_a_tree_that_keeps_the_rules_is_accepted(tmp_path: Path):
    lawful = tree(
        tmp_path,
        core__types="import numpy as np",
        datasets__video="import av\n\nfrom imitact.core.types import x\nimport imitact.datasets.y",
        datasets__y="import os\n\nfrom imitact.core import types",
        training__loop="import torch\n\nfrom imitact.datasets.video import y\nimport imitact.core",
        models__act="from .transformer import z\n\nx = torch.load(p, weights_only=True)",
        models__transformer="import torch",
        cli__main="def main():\n    from imitact.training.loop import train\n    print(train)",
    )
    assert violations(lawful) == []


@pytest.mark.parametrize(
    ("module", "code", "message"),
    [
        ("core__types", "import torch", "core imports torch"),
        ("core__types", "from imitact.datasets import video", "layer 0 (core) imports layer 3"),
        ("storage__lock", "import imitact.parallel.signals", "layer 1 (storage) imports layer 2"),
        ("datasets__video", "from imitact.envs.aloha import x", "layer 3 (datasets) imports"),
        ("datasets__video", "from ..envs import aloha", "layer 3 (datasets) imports layer 4"),
        ("quality__fix", "import imitact.models.act", "layer 4 (quality) imports layer 4"),
        ("datasets__video", "def f():\n    import imitact.models.act", "imports layer 4"),
        ("datasets__video", "def f():\n    import torch", "datasets imports torch"),
        ("datasets__video",
         "from importlib import import_module\n\nx = import_module('imitact.cli.main')",
         "layer 3 (datasets) imports layer 9"),
        ("datasets__video", "import importlib\n\nx = importlib.import_module('mu' + 'joco')",
         "name is computed"),
        ("training__loop", "import imitact.evaluation.runner", "layer 5 (training) imports"),
        ("evaluation__runner", "def f():\n    from imitact.cli import main", "imports layer 9"),
        ("models__act", "import mujoco", "models imports mujoco"),
        ("models__act", "import pickle", "imports pickle"),
        ("models__act", "import torch\n\n\ndef f(p):\n    return torch.load(p)", "a pickle"),
        ("models__act", "import numpy\n\n\ndef f(p):\n    numpy.load(p, allow_pickle=True)",
         "allows a pickle"),
        ("envs__aloha", "import numpy as np\n\n\ndef f():\n    np.random.seed(0)", "global random"),
        ("envs__aloha", "import os\n\nos.environ['A'] = 'b'\nos.putenv('A', 'b')", "does work"),
        ("envs__aloha", "def f():\n    print(1)", "prints"),
        ("envs__aloha", "import sys\n\nx = sys.argv[1:]", "reads sys.argv"),
        ("envs____init__", "from imitact.envs import aloha", "docstring and nothing else"),
        ("helpers", "x = 1", "'helpers' has no layer"),
        ("safety__filter", "x = 1", "'safety' has no layer"),
    ],
)  # fmt: skip
def test_a_breach_is_caught(tmp_path: Path, module: str, code: str, message: str):
    found = violations(tree(tmp_path, **{module: code}))
    assert len(found) == 1, found
    assert message in found[0]
    assert module.replace("__", "/", 1) in found[0]


def test_a_front_door_that_imports_at_once_is_caught(tmp_path: Path):
    (tmp_path / "__init__.py").write_text('"""A."""\n\nfrom imitact.models import act\n')
    assert violations(tmp_path) == ["__init__.py:3: the front door imports or runs something"]


def test_a_circle_within_a_folder_is_caught(tmp_path: Path):
    found = violations(
        tree(
            tmp_path,
            datasets__a="from imitact.datasets import b",
            datasets__b="def f():\n    from imitact.datasets.c import x",
            datasets__c="from imitact.datasets.a import y",
        )
    )
    assert found == [
        "imitact.datasets.a and imitact.datasets.b import each other",
        "imitact.datasets.a and imitact.datasets.c import each other",
        "imitact.datasets.b and imitact.datasets.c import each other",
    ]


def test_a_module_without_a_docstring_is_caught(tmp_path: Path):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "camera_view.py").write_text("x = 1\n")
    assert violations(tmp_path) == ["core/camera_view.py:1: a module needs a docstring"]


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


def test_importing_the_command_line_imports_nothing_heavy():
    assert not loaded_by("import imitact.cli.main") & HEAVY


def test_importing_imitact_imports_nothing_outside_the_standard_library():
    assert not loaded_by("import imitact") & (HEAVY | {"numpy", "tyro", "rich", "msgspec"})


def test_core_needs_numpy_alone():
    files = sorted(p.stem for p in (SOURCE / "core").glob("*.py") if p.stem != "__init__")
    code = "\n".join(f"import imitact.core.{file}" for file in files)
    assert not loaded_by(code) & (HEAVY | {"tyro", "rich", "msgspec", "safetensors"})


def test_datasets_import_neither_torch_nor_the_simulator():
    loaded = loaded_by("import imitact.datasets.open, imitact.datasets.convert")
    assert not loaded & {"torch", "mujoco", "dm_control", "gym_aloha"}


def test_an_exported_policy_needs_no_torch():
    loaded = loaded_by("import imitact.deploy.runtime")
    light = HEAVY | {"onnx", "onnxruntime", "openvino", "nncf", "safetensors", "tyro", "rich"}
    assert not loaded & light
    assert "torch" in loaded_by("import imitact.deploy.export")


def test_what_an_import_loads_is_seen_by_these_tests():
    assert "mujoco" in loaded_by("import mujoco")
