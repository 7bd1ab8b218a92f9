"""Write the tables of THIRD_PARTY.md: licences of the pinned packages, and what their wheels hold.

    python scripts/third_party.py [--check]

Licences are read from the metadata of the installed packages, in an environment with everything
of constraints.txt (`make lock` has one), on Linux. Shared libraries and programs are found by
looking at the installed files; whose they are, and under which licence, is known here. What is not
known here is an error: a licence with conditions on the code around it, or a library, never enters
unseen. With --check nothing is written, and a difference ends with exit code 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "THIRD_PARTY.md"

SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "GNU General Public License (GPL)": "GPL",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "OSI Approved :: Apache Software License": "Apache-2.0",
    "Public Domain": "public domain",
    "Python Software Foundation License": "PSF-2.0",
}
"""Ways to write a licence, by the name that the table uses. "BSD" says no more than the package."""

COPYLEFT = re.compile(r"\b(A?GPL|LGPL|MPL|EPL|EUPL|CDDL|SSPL)\b")

EXPLAINED = ("certifi", "docutils", "hypothesis", "orjson", "pathspec", "qpsolvers", "tqdm")
"""Packages under such licences that the text of THIRD_PARTY.md explains."""

GPL2, GPL3 = "GPL-2.0-or-later", "GPL-3.0-or-later"
RUNTIME = "GPL-3.0-or-later WITH GCC-exception-3.1"
DUAL = "LGPL-3.0-or-later OR GPL-2.0-or-later"
FFMPEG = "LGPL-3.0-or-later as built"
LIBRARIES = {
    "SvtAv1Enc": ("SVT-AV1", "BSD-3-Clause-Clear"),
    "Xau|xcb|xcb-shape|xcb-shm|xcb-xfixes": ("X11 client libraries", "MIT"),
    "aec|sz": ("libaec", "BSD-2-Clause"),
    "asound": ("ALSA", "LGPL-2.1-or-later"),
    "avcodec|avdevice|avfilter|avformat|avutil|swresample|swscale": ("FFmpeg", FFMPEG),
    "avif": ("libavif with its AV1 codecs", "BSD-2-Clause"),
    "brotlicommon|brotlidec": ("Brotli", "MIT"),
    "dav1d": ("dav1d", "BSD-2-Clause"),
    "drm": ("libdrm", "MIT"),
    "freetype": ("FreeType", "FTL OR GPL-2.0-or-later"),
    "gfortran": ("GCC's Fortran runtime", RUNTIME),
    "glfw": ("GLFW", "Zlib"),
    "gmp": ("GMP", DUAL),
    "gnutls": ("GnuTLS", "LGPL-2.1-or-later"),
    "gomp": ("GCC's OpenMP runtime", RUNTIME),
    "harfbuzz": ("HarfBuzz", "MIT"),
    "hdf5|hdf5_hl": ("HDF5", "BSD-3-Clause"),
    "hogweed|nettle": ("Nettle", DUAL),
    "hwloc": ("hwloc", "BSD-3-Clause"),
    "jpeg": ("libjpeg-turbo", "IJG AND BSD-3-Clause"),
    "lcms2": ("Little CMS", "MIT"),
    "lzma": ("liblzma", "0BSD"),
    "mp3lame": ("LAME", "LGPL-2.0-or-later"),
    "opencore-amrnb|opencore-amrwb": ("OpenCORE AMR", "Apache-2.0"),
    "openjp2": ("OpenJPEG", "BSD-2-Clause"),
    "opus": ("Opus", "BSD-3-Clause"),
    "png16": ("libpng", "libpng-2.0"),
    "quadmath": ("GCC's quad-precision runtime", "LGPL-2.1-or-later"),
    "rust_parquet_ffi": ("W&B's reader of Parquet", "MIT"),
    "scipy_openblas|scipy_openblas64_": ("OpenBLAS with LAPACK", "BSD-3-Clause"),
    "sharpyuv|webp|webpdemux|webpmux": ("libwebp", "BSD-3-Clause"),
    "sodium": ("libsodium", "ISC"),
    "tbb|tbbbind_2_5|tbbmalloc|tbbmalloc_proxy": ("oneTBB", "Apache-2.0"),
    "tiff": ("LibTIFF", "libtiff"),
    "unistring": ("libunistring", DUAL),
    "vpl": ("oneVPL", "MIT"),
    "vpx": ("libvpx", "BSD-3-Clause"),
    "x264": ("x264", GPL2),
    "x265": ("x265", GPL2),
    "zmq": ("ZeroMQ", "MPL-2.0"),
    "zstd": ("Zstandard", "BSD-3-Clause"),
    "ffmpeg": ("FFmpeg with x264, x265 and others", GPL3),
    "node": ("Node.js", "MIT"),
    "protoc": ("Protocol Buffers' compiler", "BSD-3-Clause"),
}
"""Libraries and programs of others inside wheels, by name without "lib": whose, and the licence."""

OWN = {
    "mujoco": "mujoco|actuator|elasticity|sdf_plugin|sensor",
    "ninja": "ninja",
    "onnxruntime": "onnxruntime.*",
    "openvino": "openvino.*",
    "pyarrow": "arrow.*|parquet",
    "rerun-sdk": "rerun",
    "ruff": "ruff",
    "tensorboard-data-server": "server",
    "torch": "torch.*|c10|shm|aoti_custom_ops|backend_with_compiler|jitbackend_test",
    "wandb": "wandb-.*",
}
"""Libraries and programs that are the package itself; its notices have what is linked into them."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> list[str]:
    """Return the normal names of the packages of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [normal(line.split("==")[0]) for line in lines if "==" in line and line[0] != "#"]


def licence(package: metadata.PackageMetadata) -> str:
    """Return the licence that a package's metadata states."""
    if package["License-Expression"]:
        return package["License-Expression"]
    stated = (package["License"] or "").strip()
    lines = [line.split(" :: ") for line in package.get_all("Classifier") or [] if line]
    classified = [
        SPDX.get(words[-1], words[-1])
        for words in lines
        if words[0] == "License" and words[-1] != "DFSG approved"
    ]
    one_line = "\n" not in stated and len(stated) < 60
    if stated and one_line and (" " in SPDX.get(stated, stated) or len(classified) < 2):
        return SPDX.get(stated, stated)
    if classified:
        return ", ".join(sorted(classified))
    if stated.startswith("MIT License"):
        return "MIT"
    raise SystemExit(f"{package['Name']}: its metadata states no licence")


def brought_by() -> dict[str, list[str]]:
    """Return, by package, the extras that bring it; "" where imitact always does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for extra, requirements in groups.items():
        waiting = [Requirement(text) for text in requirements]
        seen = set()
        while waiting:
            requirement = waiting.pop()
            for wanted in ["", *requirement.extras]:
                key = normal(requirement.name), wanted
                if key in seen:
                    continue
                seen.add(key)
                found.setdefault(key[0], [])
                if extra not in found[key[0]]:
                    found[key[0]].append(extra)
                try:
                    needs = metadata.requires(requirement.name) or []
                except metadata.PackageNotFoundError:
                    continue  # for another system, or left out (scripts/lock_requirements.py)
                waiting += [
                    need
                    for need in map(Requirement, needs)
                    if not need.marker or need.marker.evaluate({"extra": wanted})
                ]
    return found


def packages() -> dict[str, tuple[str, str]]:
    """Return licence and extras of every installed package of constraints.txt, by name."""
    extras = brought_by()
    rows = {}
    for name in pinned():
        try:
            package = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        if name not in extras:
            raise SystemExit(f"{name} is in constraints.txt, and no extra brings it: take it out")
        by = "all" if "" in extras[name] else ", ".join(extras[name])
        rows[name] = licence(package), by
    unexplained = [name for name in rows if COPYLEFT.search(rows[name][0])]
    if sorted(unexplained) != sorted(set(EXPLAINED) & rows.keys()):
        raise SystemExit(f"under a copyleft licence: {unexplained}; explained: {list(EXPLAINED)}")
    return rows


def binaries() -> dict[str, list[tuple[str, str]]]:
    """Return, by package, the libraries and programs of others in its wheel, and their licences."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in pinned():
        inside: set[tuple[str, str]] = set()
        for file in metadata.files(name) or []:
            if (
                re.search(r"\.(cpython-\d+|abi3)\b.*\.so$", file.name)
                or "test" in file.parts[-2:-1]
            ):
                continue
            stem = re.sub(r"^lib|([-.](?:[0-9a-f]{8}\b|so\b|v\d|linux-|\d+\.\d).*)$", "", file.name)
            path = Path(str(file.locate()))
            if re.fullmatch(OWN.get(name, ""), stem) or not _is_program(path):
                continue
            owner = next((LIBRARIES[k] for k in LIBRARIES if stem in k.split("|")), None)
            if owner is None:
                if name == "torch" and file.parts[1] in ("bin", "test"):
                    continue  # programs that test torch itself
                raise SystemExit(f"{name} has {file}: whose is it, under which licence?")
            inside.add(owner)
        if inside:
            found[name] = sorted(inside)
    return found


def _is_program(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def tables() -> dict[str, str]:
    """Return the generated parts of THIRD_PARTY.md by name."""
    import av._core

    rows = [f"| {name} | {row[0]} | {row[1]} |" for name, row in sorted(packages().items())]
    inside = [
        f"| {name} | {'; '.join(f'{who} ({what})' for who, what in owners)} |"
        for name, owners in sorted(binaries().items())
    ]
    ffmpeg = av._core.library_meta["libavcodec"]
    switches = [
        switch
        for switch in ffmpeg["configuration"].split()
        if re.fullmatch(r"--enable-(gpl|version3|nonfree|lib(x26[45]|svtav1))", switch)
    ]
    return {
        "packages": "\n".join(["| package | licence | brought by |", "|---|---|---|", *rows]),
        "binaries": "\n".join(["| wheel | holds |", "|---|---|", *inside]),
        "ffmpeg": f'FFmpeg in PyAV calls itself "{ffmpeg["license"]}" and was configured with\n'
        f"`{' '.join(sorted(switches))}`,\n"
        f"{'with' if '--enable-gpl' in switches else 'without'} `--enable-gpl`.",
    }


def filled(page: str, parts: dict[str, str]) -> str:
    """Return a page with its generated parts replaced."""
    for name, text in parts.items():
        begin, end = (
            f"<!-- {name}: generated by scripts/third_party.py -->",
            f"<!-- {name}: end -->",
        )
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{PAGE.name} has no {begin} ... {end}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    page = PAGE.read_text()
    new = filled(page, tables())
    if not check:
        PAGE.write_text(new)
    elif new != page:
        print(f"{PAGE.name} differs from the installed packages: python scripts/third_party.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
