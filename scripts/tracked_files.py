"""Build hook: sdist and wheel hold the files that git tracks, and nothing that lies beside them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KINDS = {".py", ".typed", ".html", ".js", ".css"}
"""Files of the package, where git cannot be asked: in an unpacked sdist, or without git."""


def tracked(root: Path) -> list[str] | None:
    """Return the tracked files below a folder, relative to it; None where git does not tell."""
    if not (root / ".git").exists():
        return None
    # A clone of another user, as in a container, is as good here: nothing of it is run.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    names = done.stdout.decode().split("\0")
    return [name for name in names if name and (root / name).is_file()]


class TrackedFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Names each file to the builder, which selects none by itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        names = tracked(root)
        if self.target_name == "sdist" and names is None:
            raise SystemExit("imitact: an sdist is built in a git clone, with git installed")
        if names is None:
            files = (path for path in (root / "src").rglob("*") if path.suffix in KINDS)
            names = [path.relative_to(root).as_posix() for path in files]
        for name in names:
            if self.target_name == "sdist":
                build_data["force_include"][str(root / name)] = name
            elif name.startswith("src/"):
                build_data["force_include"][str(root / name)] = name.removeprefix("src/")
