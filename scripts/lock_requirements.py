"""Write requirements/: the versions of constraints.txt with the hash of every file of each.

    make lock

It asks the package index through uv (`--uv` names it) and downloads no package. The files serve
Linux, macOS and Windows: a hash for each wheel of a version, a marker where a package is for one
system. Each Makefile set of extras has one file. torch and what only its Linux build from the
index brings (CUDA, triton) are in torch.txt, so that another build of torch can take its place:
torch-cpu.txt has the CPU build that PyTorch itself offers.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "requirements"
SETS = {
    "demo": ("sim",),
    "all": ("sim", "gym", "formats", "export", "robot", "serve", "view", "trackers", "docs", "dev"),
}
"""The files that `make demo` and everything else install, with their extras."""

UNNEEDED = ("imageio-ffmpeg",)
"""Asked for by gym-aloha (`imageio[ffmpeg]`), imported by nothing: a GPL build of ffmpeg."""

OLDEST_PYTHON = "3.11.5"
"""soupsieve 4.1, of the documentation's tools, needs it."""

HEAD = "# Written by `make lock`, for pip install --require-hashes --no-deps.\n"

Blocks = dict[str, str]


def blocks_of(text: str) -> Blocks:
    """Split a requirements file into its requirements with their hashes, by name."""
    found = re.findall(r"^([\w.-]+)(==(?:.*\\\n)*.*\n)", text, flags=re.MULTILINE)
    return {name: name + rest for name, rest in found}


def resolve(uv: str, requirements: list[str]) -> Blocks:
    """Return everything that requirements bring, on any system, with hashes."""
    excluded = OUT / "excluded"
    excluded.write_text("\n".join(UNNEEDED))
    options = (
        "pip compile - --quiet --no-config --no-header --no-annotate --universal "
        f"--generate-hashes --python-version {OLDEST_PYTHON}"
    )
    try:
        done = subprocess.run(
            [
                uv,
                *options.split(),
                "--constraints",
                ROOT / "constraints.txt",
                "--excludes",
                excluded,
            ],
            input="\n".join(requirements),
            capture_output=True,
            text=True,
        )
    finally:
        excluded.unlink()
    if done.returncode:
        raise SystemExit(f"uv could not resolve {', '.join(requirements)}:\n{done.stderr}")
    return blocks_of(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--uv", default="uv", help="the program uv")
    uv = parser.parse_args().uv
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = project["build-system"]["requires"]
    needs = project["project"]["dependencies"]
    extras = project["project"]["optional-dependencies"]

    torch = resolve(uv, ["torch"])
    # Without a marker they are needed by every build of torch, and so belong to the sets.
    torch = {name: text for name, text in torch.items() if name == "torch" or " ; " in text}
    files = {"torch": torch}
    for name, chosen in SETS.items():
        found = resolve(uv, build + needs + [r for extra in chosen for r in extras[extra]])
        files[name] = {name: text for name, text in found.items() if name not in torch}
    for name, blocks in files.items():
        (OUT / f"{name}.txt").write_text(HEAD + "".join(blocks.values()))
        print(f"requirements/{name}.txt: {len(blocks)} packages")


if __name__ == "__main__":
    main()
