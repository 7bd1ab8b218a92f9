"""Tests of import and export: equal actions for other programs' policies, or a clear refusal.

The checkpoints are recreated from what scripts/parity_policies.py recorded of the programs: files,
settings, weight names and actions.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch

from imitact.cli import main
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_UNITS
from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.execution import Execution
from imitact.core.feature_statistics import Stats
from imitact.core.types import Camera, Observation, Spec
from imitact.models.config import ActConfig
from imitact.models.interop import (
    act_release,
    lerobot_reader,
    lerobot_writer,
    restricted_pickle,
)
from imitact.models.interop.json_fields import JsonFields
from imitact.models.interop.partial_spec import PartialSpec
from imitact.models.normalization import Scaling
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import identity, set_execution
from scripts import parity_policies as parity

CASES = [(program, case) for program, cases in parity.PROGRAMS.items() for case in cases]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return a function that creates the checkpoint of a program and a case, once."""
    root = tmp_path_factory.mktemp("foreign")

    def make(program: str, case: str) -> Path:
        folder = root / program / case
        if not folder.exists():
            parity.recreate(program, case, folder)
        return folder

    return make


@pytest.fixture
def copied(made: Callable[[str, str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a checkpoint by hard links; never write to the linked files."""

    def copy(program: str = "lerobot-0.6.1", case: str = "one_camera") -> Path:
        return Path(shutil.copytree(made(program, case), tmp_path / "ck", copy_function=os.link))

    return copy


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file without changing the file that it is linked to."""
    value = json.loads(path.read_text())
    change(value)
    path.unlink()
    path.write_text(json.dumps(value))


def retensored(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    path.unlink()
    safetensors.torch.save_file(tensors, path)


def recorded(program: str, case: str) -> np.ndarray:
    with np.load(parity.FIXTURES / f"{program}-{case}.npz", allow_pickle=False) as file:
        assert program.replace("plugin", "lerobot-0.6.1").replace("-", " ") in str(file["versions"])
        return file["action"]


# --- import ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "case"), CASES)
def test_an_imported_policy_predicts_as_in_the_program_that_trained_it(
    program: str, case: str, made: Callable[[str, str], Path]
) -> None:
    policy = parity.imported(program, case, made(program, case)).policy
    wanted = recorded(program, case)
    assert np.max(np.abs(parity.answers(policy, case) - wanted)) < parity.ATOL
    assert [c.name for c in policy.spec.cameras] == list(parity.CASES[case]["cameras"])
    has_scaling = policy.scaling is not None
    # A constant joint has a deviation of 0 in LeRobot, and of at least 0.01 elsewhere.
    assert has_scaling is program.startswith("lerobot")
    assert policy.spec.environment_size == parity.CASES[case].get("environment", 0)


def test_an_imported_policy_is_saved_and_loaded_with_its_normalization(
    made: Callable[[str, str], Path], tmp_path: Path
) -> None:
    policy = parity.imported("lerobot-0.6.1", "ranges", made("lerobot-0.6.1", "ranges")).policy
    wanted = parity.answers(policy, "ranges")
    about = json.loads((policy.save(tmp_path / "p") / "policy.json").read_text())
    assert (about["format"], about["execution"]["chunking"]) == (3, "replay:10")
    was = identity(tmp_path / "p")
    set_execution(tmp_path / "p", None)
    loaded = TorchPolicy.load(tmp_path / "p")
    assert (loaded.scaling, loaded.execution) == (policy.scaling, None)
    assert np.array_equal(parity.answers(loaded, "ranges"), wanted)
    set_execution(tmp_path / "p", Execution("ensemble:0.01"))
    assert identity(tmp_path / "p") == was
    assert json.loads((tmp_path / "p" / "policy.json").read_text())["format"] == 3


def test_a_policy_with_imitacts_normalization_is_saved_in_format_1(
    made: Callable[[str, str], Path], tmp_path: Path
) -> None:
    policy = parity.imported("act", "one_camera", made("act", "one_camera")).policy
    policy.execution = None
    about = json.loads((policy.save(tmp_path / "p") / "policy.json").read_text())
    assert about["format"] == 1
    assert "scaling" not in about


def test_a_lost_normalization_would_be_detected(
    copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recorded("lerobot-0.3.3", "four_cameras")
    folder = copied("lerobot-0.3.3", "four_cameras")
    rewritten(folder / "config.json", lambda c: c.update(normalization_mapping={}))
    policy = lerobot_reader.read(folder, PartialSpec()).policy
    assert np.max(np.abs(parity.answers(policy, "four_cameras") - wanted)) > 0.1


def test_statistics_misnamed_by_lerobots_migration_are_found(copied: Callable[..., Path]) -> None:
    wanted = recorded("lerobot-0.6.1", "four_cameras")
    folder = copied("lerobot-0.6.1", "four_cameras")

    def misname(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("_", ".")] = tensors.pop(name)

    file = "policy_preprocessor_step_3_normalizer_processor.safetensors"
    retensored(folder / file, misname)
    found = lerobot_reader.read(folder, PartialSpec())
    assert sum("LeRobot itself does not find them" in note for note in found.notes) == 4
    assert np.max(np.abs(parity.answers(found.policy, "four_cameras") - wanted)) < parity.ATOL


def test_missing_parts_of_the_spec_are_assumed_from_aloha_and_reported(
    made: Callable[[str, str], Path],
) -> None:
    found = act_release.read(made("act", "one_camera"), PartialSpec(), num_heads=parity.HEADS)
    spec = found.policy.spec
    assert (spec.state_names, spec.state_units) == (ALOHA_JOINTS, ALOHA_UNITS)
    assert (spec.cameras, spec.rate_hz) == ((Camera("top", 480, 640),), 50.0)
    notes = " ".join(found.notes)
    for what in ("state names", "action units", "the rate", "cameras", "range of state"):
        assert what in notes
    assert "6 of 7 decoder layers are dropped" in notes
    assert "is_pad_head is dropped" in notes
    names = tuple(f"motor_{i}" for i in range(14))
    known = PartialSpec(
        names, names, ("deg",) * 14, ("deg",) * 14, (Camera("front", 64, 96),), 30.0, 0
    )
    found = act_release.read(made("act", "one_camera"), known, num_heads=parity.HEADS)
    assert PartialSpec.from_spec(found.policy.spec) == known
    assert "assumed" not in " ".join(found.notes)
    with pytest.raises(SpecMismatch, match="2 state names were given, the policy has 14: a, b"):
        PartialSpec(state_names=("a", "b")).complete(14, 14, ())


def test_the_execution_of_chunks_is_imported(copied: Callable[..., Path]) -> None:
    folder = copied()
    assert lerobot_reader.read(folder, PartialSpec()).policy.execution == Execution("replay:10")
    rewritten(folder / "config.json", lambda c: c.update(temporal_ensemble_coeff=0.01))
    assert lerobot_reader.read(folder, PartialSpec()).policy.execution == Execution("ensemble:0.01")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(type="diffusion"), "type is diffusion; imitact reads act"),
        (lambda c: c.pop("type"), "type is missing"),
        (lambda c: c.update(pre_norm=True), "pre_norm is true; imitact has post-norm layers"),
        (lambda c: c.update(vision_backbone="resnet34"), "vision_backbone is resnet34; imitact ha"),
        (lambda c: c.update(feedforward_activation="gelu"), "imitact has ReLU"),
        (lambda c: c.update(n_obs_steps=2), "n_obs_steps is 2; imitact takes one observation"),
        (lambda c: c.update(replace_final_stride_with_dilation=True), "has strides"),
        (lambda c: c.update(dim_model="64"), "dim_model is 64; a whole number is expected"),
        (lambda c: c.update(chunk_size=10**9), "chunk_size is 1000000000; it must be from 1 to"),
        (lambda c: c.update(n_heads=7), "hidden_dim is 64 and num_heads 7"),
        (lambda c: c.update(n_action_steps=0), "replay:0 executes nothing"),
        (lambda c: c.update(dim_feedforward=97), r"linear1.*shape \(96, 64\), the checkpoint's"),
        (lambda c: c.update(n_decoder_layers=2), r"missing keys decoder\.layers\.1"),
        (lambda c: c.update(input_features=[]), "input_features is .*; an object is expected"),
        (lambda c: c["input_features"].pop("observation.state"), "observation.state is missing"),
        (
            lambda c: c["input_features"].update({"observation.effort": {
                "type": "STATE", "shape": [3]}}),
            '"observation.effort" of type STATE cannot be imported',
        ),
        (
            lambda c: c["input_features"].update({"observation.objects": {
                "type": "ENV", "shape": [3]}}),
            '"observation.objects" of type ENV cannot be imported',
        ),
        (
            lambda c: c["input_features"].update({"observation.environment_state": {
                "type": "ENV", "shape": [3]}}),
            "observation.environment_state is missing, so LeRobot would not normalize it",
        ),
        (
            lambda c: c["input_features"]["observation.images.top"].update(shape=[64, 96, 3]),
            r"input_features.observation.images.top.shape is \[64, 96, 3\], expected \[3, height",
        ),
        (
            lambda c: c["input_features"]["observation.state"].update(shape=[13]),
            r"observation.state.(\w+) has 14 values, config.json says 13",
        ),
        (lambda c: c["output_features"].update(other={}), "exactly action is expected"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_imported_is_refused_with_its_field(
    change: Callable[[Any], Any], message: str, copied: Callable[..., Path]
) -> None:
    folder = copied()
    rewritten(folder / "config.json", change)
    with pytest.raises(BadInput, match=message) as caught:
        lerobot_reader.read(folder, PartialSpec())
    assert str(folder) in str(caught.value)


PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"


def step(number: int, **changes: Any) -> Callable[[Any], Any]:
    def change(about: Any) -> None:
        about["steps"][number]["config"].update(changes)

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (PRE, lambda a: a["steps"].pop(3), "0 of normalizer_processor, exactly 1 is expected"),
        (
            PRE,
            lambda a: a["steps"][3].pop("state_file"),
            r"steps\[3\].state_file is missing; the normalization",
        ),
        (
            PRE,
            lambda a: a["steps"][3].update(state_file="../config.json"),
            "a file in the same folder",
        ),
        (PRE, lambda a: a["steps"][3].update(state_file="gone.safetensors"), "gone.* is missing"),
        (
            PRE,
            lambda a: a["steps"].append({"registry_name": "tokenizer_processor", "config": {}}),
            "registry_name is tokenizer_processor; imitact does not know this step",
        ),
        (PRE, lambda a: a.update(steps={}), "steps is {}; a list of objects is expected"),
        (PRE, step(2, float_dtype="float16"), "imitact computes in float32"),
        (PRE, step(3, norm_map={"STATE": "LOG"}), "norm_map.STATE is LOG; known are MEAN_STD"),
        (PRE, step(3, eps="small"), "eps is small; a number is expected"),
        (
            PRE,
            step(3, features={}),
            "observation.state is missing, so LeRobot would not normalize it",
        ),
        (POST, lambda a: a.update(steps=[]), "0 of unnormalizer_processor"),
    ],
)
def test_a_processor_that_cannot_be_imported_is_refused_with_its_step(
    file: str, change: Callable[[Any], Any], message: str, copied: Callable[..., Path]
) -> None:
    folder = copied()
    rewritten(folder / file, change)
    with pytest.raises(BadInput, match=message) as caught:
        lerobot_reader.read(folder, PartialSpec())
    assert str(folder) in str(caught.value)


def test_a_checkpoint_without_its_statistics_is_refused(
    copied: Callable[..., Path],
) -> None:
    folder = copied()
    file = folder / "policy_preprocessor_step_3_normalizer_processor.safetensors"
    retensored(file, lambda t: t.pop("observation.images.top.std"))
    with pytest.raises(DamagedFile, match=r"no std of observation.images.top, .*issue 4047"):
        lerobot_reader.read(folder, PartialSpec())
    retensored(file, lambda t: t.update({"observation.images.top.std": torch.full((3,), np.inf)}))
    with pytest.raises(DamagedFile, match=r"top\.std is not finite: it was never filled"):
        lerobot_reader.read(folder, PartialSpec())
    (folder / PRE).unlink()
    with pytest.raises(DamagedFile, match="the normalization of the policy is lost"):
        lerobot_reader.read(folder, PartialSpec())


def test_weights_that_do_not_fit_are_named(copied: Callable[..., Path]) -> None:
    folder = copied()
    table = "model.vae_encoder_pos_enc"
    retensored(folder / "model.safetensors", lambda t: t.update({table: t[table] + 1}))
    with pytest.raises(DamagedFile, match="differs from ACT's position table"):
        lerobot_reader.read(folder, PartialSpec())
    retensored(
        folder / "model.safetensors",
        lambda t: t.update({table: t[table] - 1, "model.more": torch.zeros(1)}),
    )
    with pytest.raises(DamagedFile, match=r"model.safetensors \(tensors\): unknown keys more"):
        lerobot_reader.read(folder, PartialSpec())
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:1000])
    with pytest.raises(DamagedFile, match=r"model\.safetensors is not a safetensors file"):
        lerobot_reader.read(folder, PartialSpec())


# --- pickles --------------------------------------------------------------------------------------

HERE = Path("dataset_stats.pkl")
ARRAYS = {
    "action_mean": np.arange(14, dtype=np.float32),
    "qpos_std": np.linspace(0, 1, 14),
    "example_qpos": np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
    "none": np.zeros((0, 14), np.float32),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_from_pickles_of_every_protocol(protocol: int) -> None:
    more = {"rate": 50, "name": "cube", "list": [1.5, None, True], "scalar": np.float64(0.25)}
    found = restricted_pickle.loads(pickle.dumps({**ARRAYS, **more}, protocol), HERE)
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], array), name
        assert found[name].flags.owndata or found[name].base is not None
    assert {name: found[name] for name in more} == more


def test_arrays_are_written_to_a_pickle_that_numpy_reads() -> None:
    arrays = {n: ARRAYS[n] for n in ("action_mean", "qpos_std", "none")}
    data = restricted_pickle.dumps(arrays)
    found = pickle.loads(data)  # noqa: S301  # its own bytes
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    # The released ACT runs with NumPy 1, which has no numpy._core.
    assert b"numpy._core" not in data
    again = restricted_pickle.loads(data, HERE)
    assert all(np.array_equal(again[n], arrays[n]) for n in arrays)


class Hostile:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.call = (function, given)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_not_executed(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for hostile in (
        Hostile(os.system, f"touch {mark}"),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        {"action_mean": Hostile(open, str(mark), "w")},
        {"action_mean": Hostile(np.load, str(mark))},
    ):
        data = pickle.dumps(hostile, protocol)
        with pytest.raises(DamagedFile, match='nothing in it was run: it names "'):
            restricted_pickle.loads(data, HERE)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Hostile(open, str(mark), "w"), protocol)).close()  # noqa: S301
    assert mark.exists()  # Python's own reader executes it


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read|does not end"),
        (b"\x80\x04.", "cannot be read"),
        (b"\x80\x04]\x94.", "holds list, expected a dict of arrays"),
        (b"\x80\x04}\x94\x8c\x01a\x94h\x00s.", "are more than 8 deep"),
        (b"\x80\x04}(\x8c\x01aK\x01K\x02u.", "odd number of items"),
        (b"\x80\x02}q\x00X\x01\x00\x00\x00aP1\nQ.", "instruction PERSID"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "stores a value under the number 2147483647"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", "cannot be read"),
        (b"I" + b"9" * 5000 + b"\n.", "cannot be read"),
        (b"(" * 200_000, "more than 100000 instructions"),
        (pickle.dumps({"a": np.array([None])}), 'an array is of "O8"'),
        (pickle.dumps({"a": np.array([object()])}), "instruction NEWOBJ"),
        (pickle.dumps({"a": np.zeros(2)}).replace(b"\x02\x85", b"\x03\x85"), "has 2 values"),
        (pickle.dumps({"a": {1, 2}}), "instruction EMPTY_SET"),
        (pickle.dumps({1: 2.0}), "a name is int, expected text"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x02cnumpy\ndtype\n}b.", "sets the state of a name"),
        (b"\x80\x02}(N" + b"\x85" * 99_000 + b"Nu.", "more than 5000 tuples"),
        (b"\x80\x02}(N" + b"\x85" * 4_900 + b"Nu.", "a name is tuple"),
        (b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f}.", "cannot be read"),
    ],
)
def test_a_pickle_of_anything_else_is_refused_quickly(data: bytes, message: str) -> None:
    with pytest.raises(DamagedFile, match=message):
        restricted_pickle.loads(data, HERE)


def test_arrays_that_share_their_bytes_are_refused_before_they_exceed_the_file() -> None:
    size = 1 << 20
    array = pickle.dumps({"a": np.zeros(size, np.uint8)}, 3)
    start, end = array.index(b"cnumpy"), array.rindex(b"tq")
    values = array.index(b"B" + size.to_bytes(4, "little"))
    shared = b"h\xfe"  # the bytes of the first array, from the memo
    one = array[start:values] + shared + b"tb"
    data = b"\x80\x03}(X\x01\x00\x00\x00a" + array[values : values + 5 + size] + b"q\xfe"
    data += b"".join(b"X\x04\x00\x00\x00%04d" % n + one for n in range(500)) + b"u."
    assert end > values
    with pytest.raises(DamagedFile, match="its arrays repeat their bytes"):
        restricted_pickle.loads(data, HERE)


def test_a_pickle_that_expands_exponentially_is_refused() -> None:
    value: Any = 0.5
    for _ in range(7):
        value = [value] * 1000
    with pytest.raises(DamagedFile, match="or 10000 parts"):
        restricted_pickle.loads(pickle.dumps({"a": value}), HERE)


# --- the released ACT's files ---------------------------------------------------------------------


def restated(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    stats = parity.act_statistics("one_camera")
    change(stats)
    (folder / "dataset_stats.pkl").unlink()
    (folder / "dataset_stats.pkl").write_bytes(pickle.dumps(stats))


def reweighted(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = torch.load(folder / "policy_best.ckpt", weights_only=True)
    change(tensors)
    (folder / "policy_best.ckpt").unlink()
    torch.save(tensors, folder / "policy_best.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("qpos_mean"), "has no qpos_mean and qpos_std; it holds"),
        (lambda s: s.update(qpos_std=np.zeros(14)), "qpos_std is not above 0 everywhere"),
        (lambda s: s.update(action_mean=np.zeros(7)), "action_mean has 7 values, the weights need"),
        (lambda s: s.update(action_std="1"), "action_std is str, an array of numbers is expected"),
        (lambda s: s.update(qpos_mean=np.full(14, np.nan)), "qpos_mean is not finite"),
    ],
)
def test_statistics_that_cannot_be_used_are_named(
    change: Callable[[Any], Any], message: str, copied: Callable[..., Path]
) -> None:
    folder = copied("act")
    restated(folder, change)
    with pytest.raises(DamagedFile, match=rf"dataset_stats.pkl:? {message}"):
        act_release.read(folder, PartialSpec(), num_heads=parity.HEADS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.query_embed.weight"),
            '"query_embed.weight" is missing; this is not a checkpoint',
        ),
        (lambda t: t.update({"model.vq": torch.zeros(2)}), r"unknown keys vq"),
        (
            lambda t: t.update(
                {"model.query_embed.weight": torch.zeros(1, 1).expand(10**6, 10**6)}
            ),
            '"model.query_embed.weight" is larger than the file',
        ),
        (
            lambda t: t.update({"model.backbones.1.0.body.conv1.weight": torch.zeros(64, 3, 7, 7)}),
            "has a backbone for each camera",
        ),
        (
            lambda t: t.update({"model.action_head.bias": torch.full((14,), np.nan)}),
            '"head.bias" holds NaN',
        ),
        (
            lambda t: t.update({"model.pos_table": torch.zeros(1, 22, 64)}),
            "differs from ACT's position table",
        ),
    ],
)
def test_a_ckpt_that_cannot_be_used_is_named(
    change: Callable[[Any], Any], message: str, copied: Callable[..., Path]
) -> None:
    folder = copied("act")
    reweighted(folder, change)
    with pytest.raises(BadInput, match=message) as caught:
        act_release.read(folder, PartialSpec(), num_heads=parity.HEADS)
    assert "policy_best.ckpt" in str(caught.value)


def test_a_hostile_ckpt_is_refused_and_not_executed(
    copied: Callable[..., Path], tmp_path: Path
) -> None:
    folder = copied("act")
    (folder / "policy_best.ckpt").unlink()
    torch.save({"model.a": Hostile(os.system, f"touch {tmp_path / 'ran'}")},
               folder / "policy_best.ckpt")  # fmt: skip
    with pytest.raises(DamagedFile, match="and nothing in it was run"):
        act_release.read(folder, PartialSpec())
    assert not (tmp_path / "ran").exists()


def test_an_early_checkpoint_is_imported_without_its_cvae_encoder(
    copied: Callable[..., Path],
) -> None:
    folder = copied("act")

    def age(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if "encoder_joint" in n or "encoder_action" in n]:
            del tensors[name]
        tensors["model.encoder_proj.weight"] = torch.zeros(64, 14)
        tensors["model.encoder_proj.bias"] = torch.zeros(64)
        tensors["model.pos_table"] = tensors["model.pos_table"][:, 1:].clone()

    reweighted(folder, age)
    found = parity.imported("act", "one_camera", folder)
    assert not found.policy.config.use_vae
    assert "is left out; nothing uses it at inference" in " ".join(found.notes)
    wanted = recorded("act", "one_camera")
    assert np.max(np.abs(parity.answers(found.policy, "one_camera") - wanted)) < parity.ATOL


def test_cameras_of_several_sizes_are_refused_for_the_released_act(
    copied: Callable[..., Path],
) -> None:
    known = PartialSpec(cameras=(Camera("a", 64, 96), Camera("b", 64, 64)))
    with pytest.raises(
        BadInput, match="takes all cameras at one size; given were a of 64x96, b of"
    ):
        act_release.read(copied("act"), known, num_heads=parity.HEADS)


# --- export ---------------------------------------------------------------------------------------


def shapes(file: Path) -> dict[str, list[int]]:
    if file.suffix == ".ckpt":
        return {n: list(t.shape) for n, t in torch.load(file, weights_only=True).items()}
    return {n: list(t.shape) for n, t in safetensors.torch.load_file(file).items()}


def test_an_export_for_lerobot_has_lerobots_layout(
    made: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = made("lerobot-0.6.1", "four_cameras")
    policy = lerobot_reader.read(folder, PartialSpec()).policy
    assert lerobot_writer.write(policy, tmp_path / "out") == ()
    theirs = {f.name for f in folder.iterdir()}
    assert {f.name for f in (tmp_path / "out").iterdir()} == theirs | {"imitact.json"}
    weights = "model.safetensors"
    assert shapes(tmp_path / "out" / weights) == shapes(folder / weights)
    own, other = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "out", folder))
    since = {"pretrained_path", "pretrained_revision", "use_peft"}  # not in all versions from 0.4
    assert set(other) - set(own) == since
    differ = {name for name in own if own[name] != other[name]}
    assert differ == set()
    for name in (PRE, POST):
        a, b = (json.loads((f / name).read_text()) for f in (tmp_path / "out", folder))
        assert a == b


@pytest.mark.parametrize(("program", "case"), [c for c in CASES if c[0] == "lerobot-0.6.1"])
def test_exporting_to_lerobot_and_importing_keeps_actions_and_names(
    program: str, case: str, made: Callable[[str, str], Path], tmp_path: Path
) -> None:
    names = tuple(f"motor_{i}" for i in range(14))
    states = tuple(f"value_{i}" for i in range(sum(parity.states(case).values())))
    known = PartialSpec(states, names, ("deg",), ("deg",), rate_hz=30.0)
    policy = lerobot_reader.read(made(program, case), known).policy
    lerobot_writer.write(policy, tmp_path / "out")
    found = lerobot_reader.read(tmp_path / "out", PartialSpec())
    again = found.policy
    assert (again.spec, again.execution, again.config) == (
        policy.spec, policy.execution, policy.config,
    )  # fmt: skip
    difference = parity.answers(again, case) - parity.answers(policy, case)
    assert np.max(np.abs(difference)) < 1e-5
    assert not [n for n in found.notes if "assumed" in n]


def test_exporting_to_the_released_act_and_importing_keeps_the_policy(
    made: Callable[[str, str], Path], tmp_path: Path
) -> None:
    policy = parity.imported("act", "four_cameras", made("act", "four_cameras")).policy
    notes = act_release.write(policy, tmp_path / "out")
    assert any("--chunk_size 20 --hidden_dim 64 --dim_feedforward 96" in note for note in notes)
    assert any("fixes enc_layers to 4; it must be edited to 2" in note for note in notes)
    ckpt = "policy_best.ckpt"
    assert shapes(tmp_path / "out" / ckpt) == shapes(made("act", "four_cameras") / ckpt)
    stats = pickle.loads((tmp_path / "out" / "dataset_stats.pkl").read_bytes())  # noqa: S301
    wanted = parity.act_statistics("four_cameras")
    assert set(stats) == set(wanted)
    for name in ("qpos_mean", "qpos_std", "action_mean", "action_std"):
        assert np.array_equal(stats[name], wanted[name])
    again = act_release.read(tmp_path / "out", PartialSpec(), num_heads=parity.HEADS).policy
    assert again.spec == policy.spec
    assert np.array_equal(
        parity.answers(again, "four_cameras"), parity.answers(policy, "four_cameras")
    )


def test_states_of_the_environment_are_named_and_those_of_a_dataset_must_be_as_many(
    made: Callable[[str, str], Path],
) -> None:
    folder = made("lerobot-0.6.1", "environment")
    spec = lerobot_reader.read(folder, PartialSpec()).policy.spec
    assert spec.environment_names == tuple(f"environment_state_{i}" for i in range(5))
    assert spec.state_names[:14] == ALOHA_JOINTS
    with pytest.raises(DamagedFile, match=r": 0 states of the environment .* the policy has 5"):
        lerobot_reader.read(folder, PartialSpec(environment_size=0))
    plain, known = made("lerobot-0.6.1", "one_camera"), PartialSpec.from_spec(spec)
    with pytest.raises(DamagedFile, match=r": 5 states of the environment .* the policy has 0"):
        lerobot_reader.read(plain, known)


def test_lerobot_is_told_what_it_reads_of_a_policy_without_joints(
    made: Callable[[str, str], Path], tmp_path: Path
) -> None:
    policy = lerobot_reader.read(made("lerobot-0.6.1", "environment_alone"), PartialSpec()).policy
    (note,) = lerobot_writer.write(policy, tmp_path / "out")
    assert "no input is observation.state; LeRobot 0.6.1 still takes the device from it" in note


def test_the_released_act_has_no_input_for_states_of_the_environment(tmp_path: Path) -> None:
    policy = small(spec=replace(SPEC, environment_size=1))
    with pytest.raises(BadInput, match="no input for states of the environment; this policy has b"):
        act_release.write(policy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


SPEC = Spec(("a", "b"), ("c",), ("rad", "1"), ("rad",), (Camera("top", 64, 96),), 30)
SMALL = ActConfig(
    chunk_size=4, hidden_dim=8, num_heads=2, dim_feedforward=8, encoder_layers=1, use_vae=False,
    latent_dim=2, dropout=0.0, pretrained_backbone="none",
)  # fmt: skip


def small(config: ActConfig = SMALL, spec: Spec = SPEC, **changes: Any) -> TorchPolicy:
    stats = {
        "state": Stats(np.ones(2), np.array([0.5, 0.0]), np.zeros(2), np.ones(2), 9),
        "action": Stats(np.ones(1), np.ones(1), np.zeros(1), np.ones(1), 9),
        "delta": Stats(np.ones(1), np.ones(1), np.zeros(1), np.ones(1), 9),
    }
    policy = TorchPolicy.create(spec, stats, config, seed=0, fingerprint="small")
    policy.net.eval()
    for name, value in changes.items():
        setattr(policy, name, value)
    return policy


def seen(policy: TorchPolicy) -> np.ndarray:
    rng = np.random.default_rng(3)
    frame = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return policy.chunk(Observation(np.array([0.3, 1.0]), {"top": frame}))


def test_imitacts_own_policies_survive_export_and_import(tmp_path: Path) -> None:
    """With batch norms, fixed queries, no CVAE and a floored deviation."""
    policy = small(
        replace(SMALL, backbone_norm="batch", pretrained_backbone="", queries="sinusoidal")
    )
    for module in policy.net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    wanted = seen(policy)
    notes = lerobot_writer.write(policy, tmp_path / "lerobot")
    assert [n.split(" ")[0] for n in notes] == ["batch", "the"]
    found = lerobot_reader.read(tmp_path / "lerobot", PartialSpec()).policy
    assert np.allclose(seen(found), wanted, atol=1e-5)
    notes = act_release.write(policy, tmp_path / "act")
    assert any("state_dim to 14; it must be edited to 2" in n for n in notes)
    assert any("CVAE encoder, which this policy does not have, is zero" in n for n in notes)
    found = act_release.read(tmp_path / "act", PartialSpec(), num_heads=2).policy
    assert np.allclose(seen(found), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone_width": 32},
            'LeRobot\'s ACT cannot express backbone_width "32": its ResNet18 has 64 channels',
        ),
        ({"backbone_stages": 3}, 'stages "3"'),
        ({"head": "mlp"}, 'head "mlp": its head is linear'),
        ({"positions": "tokens"}, 'positions "tokens"'),
        ({"crop": "top=0:32,0:48"}, 'crop "top=0:32,0:48": it sees whole frames'),
        ({"backbone_norm": "group"}, 'norm "group"'),
        ({"input_height": 32, "input_width": 48}, 'resizes frames of camera "top" from 64x96 to 3'),
    ],
)
def test_settings_that_lerobot_cannot_express_are_refused_and_nothing_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        lerobot_writer.write(small(replace(SMALL, **changes)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_resizing_policy_is_exported_for_resized_frames_on_request(tmp_path: Path) -> None:
    policy = small(replace(SMALL, input_height=32, input_width=48))
    notes = lerobot_writer.write(policy, tmp_path / "out", at_input_size=True)
    assert 'camera "top" must give frames of 32x48 in LeRobot' in notes[0]
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert about["input_features"]["observation.images.top"]["shape"] == [3, 32, 48]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_layers": 2}, "uses its first decoder layer only, this policy 2 layers"),
        ({"use_vae": True, "vae_encoder_layers": 2}, "as many CVAE layers as encoder layers"),
        ({"input_height": 32, "input_width": 48}, "takes frames of one size and does not resize"),
    ],
)
def test_settings_that_the_released_act_cannot_express_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        act_release.write(small(replace(SMALL, **changes)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_execution_of_chunks_is_exported_if_expressible(tmp_path: Path) -> None:
    for chunking, coefficient, steps in (
        ("replay:3", None, 3), ("replay:50", None, 4), ("ensemble:0.1", 0.1, 1),
        ("ensemble:0.1/2", None, 4),
    ):  # fmt: skip
        out = tmp_path / chunking.replace("/", "-")
        notes = lerobot_writer.write(small(execution=Execution(chunking)), out)
        about = json.loads((out / "config.json").read_text())
        assert (about["temporal_ensemble_coeff"], about["n_action_steps"]) == (coefficient, steps)
        assert any("cannot execute" in n for n in notes) is (chunking == "ensemble:0.1/2")


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(BadInput, match="already exists and is not empty"):
        lerobot_writer.write(small(), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_scaling_that_does_not_fit_is_refused() -> None:
    plain = Scaling.plain(SPEC, small().stats, SMALL)
    with pytest.raises(BadInput, match="state_std must be above 0"):
        replace(plain, state_std=(0.0, 1.0))
    with pytest.raises(BadInput, match='pixel_mean of camera "top" is not finite'):
        replace(plain, pixel_mean={"top": (np.nan, 0.0, 0.0)})
    with pytest.raises(SpecMismatch, match="action_mean has 2 dimensions, the Spec 1"):
        replace(plain, action_mean=(0.0, 0.0)).check(SPEC)
    with pytest.raises(SpecMismatch, match="pixel_mean has cameras left, the Spec top"):
        replace(plain, pixel_mean={"left": (0.0, 0.0, 0.0)}).check(SPEC)


# --- the command line -----------------------------------------------------------------------------


def test_both_verbs_work_from_the_command_line(
    made: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = made("act", "four_cameras"), tmp_path / "policy"
    sizes = ",".join(f"{name}=64x96" for name in parity.FOUR)
    words = ["import-policy", str(source), "--out", str(out), "--cameras", sizes, "--rate-hz", "25"]
    assert main.run([*words, "--state-units", "rad"]) == 0
    printed = capsys.readouterr()
    assert "6 of 7 decoder layers are dropped" in printed.err
    assert "cameras:   cam_high 64x96, cam_low 64x96" in printed.out
    policy = TorchPolicy.load(out)
    assert policy.spec.rate_hz == 25
    assert (set(policy.spec.state_units), policy.spec.action_units) == ({"rad"}, ALOHA_UNITS)
    wanted = recorded("act", "four_cameras")
    assert np.max(np.abs(parity.answers(policy, "four_cameras") - wanted)) < parity.ATOL
    for program in ("lerobot", "act"):
        words = ["export-policy", str(out), "--to", program, "--out", str(tmp_path / program)]
        assert main.run(words) == 0
        words = ["import-policy", str(tmp_path / program), "--out", str(tmp_path / f"{program}-in")]
        assert main.run(words) == 0
        again = TorchPolicy.load(tmp_path / f"{program}-in")
        assert again.spec == policy.spec
        assert np.max(np.abs(parity.answers(again, "four_cameras") - wanted)) < parity.ATOL


def test_a_dataset_without_a_camera_of_the_policy_is_named(
    made: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = made("lerobot-0.6.1", "one_camera")
    (tmp_path / "d").mkdir()
    with h5py.File(tmp_path / "d/episode_0.hdf5", "w") as file:
        for name in ("observations/qpos", "action"):
            file[name] = np.zeros((5, 14), np.float32)
        file["observations/images/other"] = np.zeros((5, 24, 32, 3), np.uint8)
    out = str(tmp_path / "p")
    assert (
        main.run(["import-policy", str(source), "--data", str(tmp_path / "d"), "--out", out]) == 0
    )
    assert "has no camera" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/gone"], "gone: there is no such file or folder"),
        (["{tmp}"], "is not a checkpoint that can be"),
        (["{lerobot}", "--cameras", "top"], "--cameras is for the released ACT"),
        (["{act}", "--cameras", "top=x"], 'camera "top=x" is not of the form NAME'),
        (["{act}", "--rate-hz", "-1"], "--rate-hz is -1"),
        (["{act}", "--num-heads", "7"], "hidden_dim is 64 and num_heads 7"),
        (["{act}", "--state-names", "a,b"], "2 state names were given, the policy has 14"),
    ],
)
def test_a_refused_import_is_one_line_and_exit_code_2(
    words: list[str], message: str, made: Callable[[str, str], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    places = {
        "{tmp}": str(tmp_path), "{lerobot}": str(made("lerobot-0.6.1", "one_camera")),
        "{act}": str(made("act", "one_camera")),
    }  # fmt: skip
    given = [words[0].replace("{tmp}", places["{tmp}"]), *words[1:]]
    given[0] = places.get(words[0], given[0])
    assert main.run(["import-policy", *given, "--out", str(tmp_path / "p")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_readers_read_or_refuse_every_altered_file() -> None:
    """More cases: python -m tests.faults.fuzz_policies --cases 20000."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz_policies", "--cases", "150", "--workers", "1"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["cases"], found["defects"]) == (150, [])
    assert found["refused"] > found["read"] > 0
    assert set(found["of"]) == {"new", "old", "plugin", "act"}


def test_the_recorded_files_are_small_and_complete() -> None:
    for program, cases in parity.PROGRAMS.items():
        files = list(parity.FIXTURES.glob(f"{program}-*"))
        assert {f.name for f in files} == {
            f"{program}-{case}{suffix}" for case in cases for suffix in (".json", ".npz")
        }
        assert sum(f.stat().st_size for f in files) < 200_000


def test_an_integer_beyond_all_floats_is_refused_by_its_name() -> None:
    fields = JsonFields({"eps": 10**400, "kept": 3}, Path("config.json"))
    assert fields.number("kept") == 3.0
    with pytest.raises(DamagedFile, match=r"config\.json: eps is a whole number of 1329 bits"):
        fields.number("eps")
