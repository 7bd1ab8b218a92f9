"""Hypothesis against the readers of other programs' policies: files that nobody would write.

    fuzz_policies.py [--cases 20000] [--workers 2] [--seed 0] [--out FILE.json]

As fuzz_readers.py, whose changes, limits and workers these are: a case takes one file of a
checkpoint and cuts, flips, inserts, repeats, exchanges its bytes, or replaces, retypes, renames,
reorders, repeats the values of its JSON, its safetensors header, or the instructions of its pickle.
Then the reader must read, or refuse with one of imitact's errors for bad input; anything else is a
defect. Checkpoints are LeRobot's with processors, LeRobot's before 0.4, the plugin's, and the
released ACT's, all without an image trunk, so that a case takes milliseconds.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

from hypothesis import strategies as st

from scripts import parity_policies as parity
from tests.faults import fuzz_readers
from tests.faults.fuzz_readers import BYTE_CHANGE, PLACE, Case, change_bytes, change_json

NEW, OLD, PLUGIN, ACT = "new", "old", "plugin", "act"
PROGRAM = {NEW: "lerobot-0.6.1", OLD: "lerobot-0.3.3", PLUGIN: "plugin", ACT: "act"}
NORMALIZER = "policy_preprocessor_step_3_normalizer_processor.safetensors"
FILES = [
    f"{NEW}/config.json", f"{NEW}/config.json", f"{NEW}/policy_preprocessor.json",
    f"{NEW}/policy_postprocessor.json", f"{NEW}/{NORMALIZER}", f"{NEW}/model.safetensors",
    f"{NEW}/imitact.json", f"{OLD}/config.json", f"{OLD}/model.safetensors",
    f"{PLUGIN}/config.json", f"{PLUGIN}/model.safetensors", f"{ACT}/policy_best.ckpt",
    f"{ACT}/policy_best.ckpt", f"{ACT}/dataset_stats.pkl", f"{ACT}/dataset_stats.pkl",
]  # fmt: skip
PICKLES = ("dataset_stats.pkl", "policy_best.ckpt")

INSTRUCTIONS = [
    b"cos\nsystem\n", b"c__builtin__\neval\n", b"\x8c\x05posix\x8c\x06system\x93", b"R", b"b", b"Q",
    b"\x85", b"\x86", b"(", b"t", b"u", b"}", b"]", b"e", b"0", b"2", b"N", b"K\x00", b"h\x00",
    b"\x94", b"r\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"\x96" + b"\xff" * 7 + b"\x7f", b"\x81",
    b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"I" + b"9" * 5000 + b"\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\x7f" * 8, b".",
]  # fmt: skip
PICKLE_CHANGE = st.tuples(st.just("insert"), PLACE, st.sampled_from(INSTRUCTIONS))


def cases() -> st.SearchStrategy[Case]:
    """Half of them on files as text or structure, half on their bytes."""
    told = st.lists(fuzz_readers.JSON_CHANGE, min_size=1, max_size=3).map(tuple)
    plain = st.lists(st.one_of(BYTE_CHANGE, PICKLE_CHANGE), min_size=1, max_size=3).map(tuple)
    structured = [f for f in FILES if not f.endswith(PICKLES)]
    return st.one_of(
        st.builds(Case, st.sampled_from(structured), st.just(False), st.just(True), told),
        st.builds(Case, st.sampled_from(FILES), st.just(False), st.just(False), plain),
    )


class Material:
    """A small checkpoint of every kind, read after each alteration, then put back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes = {name: (folder / name).read_bytes() for name in set(FILES)}

    def altered(self, case: Case) -> bytes:
        data = self.bytes[case.file]
        if case.as_json and case.file.endswith(".safetensors"):
            size = int.from_bytes(data[:8], "little")
            header = change_json(json.loads(data[8 : 8 + size]), list(case.changes), lambda v: v)
            return len(header).to_bytes(8, "little") + header + data[8 + size :]
        if case.as_json:
            return change_json(json.loads(data), list(case.changes), lambda v: v)
        if case.file.endswith(".ckpt"):
            return self._ckpt(data, case)
        for change in case.changes:
            data = change_bytes(data, change)
        return data

    def _ckpt(self, data: bytes, case: Case) -> bytes:
        """Half of the cases alter the archive, half the pickle in an archive that is whole."""
        if not case.changes or case.changes[0][1] % 2:
            for change in case.changes:
                data = change_bytes(data, change)
            return data
        path = self.folder / "altered.zip"
        with zipfile.ZipFile(self.folder / f"{ACT}.zip") as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                part = old.read(entry)
                if entry.filename.endswith("/data.pkl"):
                    for change in case.changes:
                        part = change_bytes(part, change)
                new.writestr(entry.filename, part)
        return path.read_bytes()

    def read(self, case: Case) -> None:
        path = self.folder / case.file
        path.write_bytes(self.altered(case))
        try:
            read(self.folder / case.file.split("/")[0])
        finally:
            path.write_bytes(self.bytes[case.file])


def read(folder: Path) -> None:
    """As `imitact import-policy`, without saving."""
    from imitact.models.interop import act_release, lerobot_reader
    from imitact.models.interop.partial_spec import PartialSpec

    if folder.name == ACT:
        act_release.read(folder, PartialSpec(cameras=()), num_heads=parity.HEADS)
    else:
        lerobot_reader.read(folder, PartialSpec())


def make(folder: Path) -> None:
    """Small checkpoints of every kind: without a trunk, which has 45 MB in all formats.

    `new` keeps its camera all the same: it is refused at last for the weights that are missing,
    after all else was read.
    """
    from imitact.core.types import Camera, Spec
    from imitact.models.interop.sidecar import write_sidecar

    for kind, program in PROGRAM.items():
        parity.made_again(program, "one_camera", folder / kind)
        for file in (folder / kind).iterdir():
            if file.name in ("model.safetensors", "policy_best.ckpt"):
                _without_trunk(file)
            elif file.suffix == ".json" and kind != NEW:
                _without_cameras(file)
    (folder / f"{ACT}.zip").write_bytes((folder / ACT / "policy_best.ckpt").read_bytes())
    names = tuple(f"motor_{i}" for i in range(parity.JOINTS))
    units = ("rad",) * parity.JOINTS
    spec = Spec(names, names, units, units, (Camera("top", *parity.SIZE),), 50.0)
    write_sidecar(folder / NEW, spec)
    for kind in PROGRAM:
        read_or_refused(folder / kind, refused=kind == NEW)
    (folder / "beat").write_bytes(bytes(4096))


def _without_trunk(file: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    of_trunk = ("backbone", "encoder_img_feat", "image_proj", "input_proj.")
    archive = file.suffix == ".ckpt"
    tensors = torch.load(file, weights_only=True) if archive else load_file(file)
    kept = {
        name: value.clone()
        for name, value in tensors.items()
        if not name.removeprefix("model.").removeprefix("net.").startswith(of_trunk)
    }
    (torch.save if archive else save_file)(kept, file)


def _without_cameras(file: Path) -> None:
    about = json.loads(file.read_text())
    if "input_features" in about:
        images = [k for k in about["input_features"] if "images" in k]
        for key in images:
            del about["input_features"][key]
    if "net" in about:
        about["net"]["crop"] = ""
    file.write_text(json.dumps(about))


def read_or_refused(folder: Path, refused: bool) -> None:
    """What is fuzzed is read at first, or refused for its weights only."""
    from imitact.core.errors import DamagedFile

    said = ""
    try:
        read(folder)
    except DamagedFile as error:
        said = str(error)
    assert ("missing keys backbone" in said) if refused else not said, (folder, said)


def main() -> int:
    fuzz_readers.cases_of = lambda kind: cases()
    fuzz_readers.Material = Material  # type: ignore[misc, assignment]
    fuzz_readers.make = make
    fuzz_readers.FIRST = [f for f in FILES if not f.startswith(f"{NEW}/")]
    fuzz_readers.LINE_EVERY = 0
    fuzz_readers.MODULE = "tests.faults.fuzz_policies"
    return fuzz_readers.main()


if __name__ == "__main__":
    sys.exit(main())
