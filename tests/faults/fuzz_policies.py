"""Policy fuzzing: Hypothesis alters checkpoints of other programs, and the readers must survive.

    python -m tests.faults.fuzz_policies [--cases 20000] [--workers 2] [--seed 0] [--out FILE.json]

Changes, limits and workers are those of fuzz_readers.py. A case takes one file of a checkpoint and
cuts, flips, inserts, repeats or swaps its bytes, or replaces, retypes, renames, reorders or repeats
the values of its JSON or its safetensors header, or inserts pickle instructions. The reader must
then read it or refuse it with one of imitact's errors for bad input; anything else is a defect.
Checkpoints are LeRobot's with processors, LeRobot's before 0.4, the plugin's and the released
ACT's, all without an image backbone, so that a case takes milliseconds.
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
    """Return cases: half alter the structure of files, half their bytes."""
    structural = st.lists(fuzz_readers.JSON_CHANGE, min_size=1, max_size=3).map(tuple)
    plain = st.lists(st.one_of(BYTE_CHANGE, PICKLE_CHANGE), min_size=1, max_size=3).map(tuple)
    structured = [f for f in FILES if not f.endswith(PICKLES)]
    return st.one_of(
        st.builds(Case, st.sampled_from(structured), st.just(False), st.just(True), structural),
        st.builds(Case, st.sampled_from(FILES), st.just(False), st.just(False), plain),
    )


class Material:
    """A small checkpoint of every kind; each case alters a file, reads it and restores it."""

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
        """Alter the archive in half of the cases, and the pickle within it in the others."""
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
    """Import a checkpoint as `imitact import-policy` does, without saving."""
    from imitact.models.interop import act_release, lerobot_reader
    from imitact.models.interop.partial_spec import PartialSpec

    if folder.name == ACT:
        act_release.read(folder, PartialSpec(cameras=()), num_heads=parity.HEADS)
    else:
        lerobot_reader.read(folder, PartialSpec())


def make(folder: Path) -> None:
    """Write small checkpoints of every kind, without a backbone, which takes 45 MB.

    `new` keeps its camera: it is refused for its missing weights after everything else was read.
    """
    from imitact.core.types import Camera, Spec
    from imitact.models.interop.spec_sidecar import write_sidecar

    for kind, program in PROGRAM.items():
        parity.recreate(program, "one_camera", folder / kind)
        for file in (folder / kind).iterdir():
            if file.name in ("model.safetensors", "policy_best.ckpt"):
                _without_backbone(file)
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


def _without_backbone(file: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    of_backbone = ("backbone", "encoder_img_feat", "image_proj", "input_proj.")
    archive = file.suffix == ".ckpt"
    tensors = torch.load(file, weights_only=True) if archive else load_file(file)
    kept = {
        name: value.clone()
        for name, value in tensors.items()
        if not name.removeprefix("model.").removeprefix("net.").startswith(of_backbone)
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
    """Check that the unaltered checkpoint is read, or refused for its weights only."""
    from imitact.core.errors import DamagedFile

    message = ""
    try:
        read(folder)
    except DamagedFile as error:
        message = str(error)
    assert ("missing keys backbone" in message) if refused else not message, (folder, message)


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
