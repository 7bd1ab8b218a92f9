"""Export: a file answers as the policy that it was made from, or it is not written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imitact.cli import main
from imitact.core.camera_view import View
from imitact.core.errors import BadInput, DamagedFile, ImitactError, NotFinite, SpecMismatch
from imitact.core.execution import Execution
from imitact.core.feature_statistics import Stats
from imitact.core.types import Camera, Observation, Policy, Spec
from imitact.deploy import certificate, runtime, telemetry
from imitact.deploy import export as exporting
from imitact.deploy.export import ExportMismatch, export
from imitact.deploy.export_config import LIMITS, ExportConfig
from imitact.deploy.onnx_act import build
from imitact.deploy.runtime import ExportedPolicy, load
from imitact.models.config import ActConfig
from imitact.models.normalization import Scaling
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import PolicyRecord
from imitact.storage.sealed_file import FOOTER_BYTES, seal, unseal
from tests.support.fake_dataset import FakeDataset

TINY = ActConfig(
    chunk_size=5,
    input_height=24,
    input_width=32,
    backbone_width=16,
    backbone_stages=2,
    backbone_norm="batch",
    hidden_dim=8,
    num_heads=2,
    dim_feedforward=12,
    encoder_layers=2,
    vae_encoder_layers=1,
    latent_dim=3,
    dropout=0.1,
)
CAMERAS = (Camera("top", 48, 64), Camera("left wrist", 30, 50))
SPEC = Spec(
    state_names=("shoulder", "elbow", "gripper", "current"),
    action_names=("elbow", "shoulder", "gripper"),
    state_units=("rad", "rad", "1", "A"),
    action_units=("rad", "rad", "1"),
    cameras=CAMERAS[:1],
    rate_hz=50,
)
QUICK = ExportConfig(observations=3, calls=4, torch_calls=2, threads=1)


def stats(size: int, seed: int) -> Stats:
    draw = np.random.default_rng(seed)
    mean, std = draw.normal(size=size), draw.uniform(0.1, 2, size)
    return Stats(mean, std, mean - 3 * std, mean + 3 * std, 1000)


def made(config: ActConfig = TINY, spec: Spec = SPEC, seed: int = 0) -> TorchPolicy:
    """A policy whose weights and statistics all differ from their initial values."""
    sizes = {"state": spec.state_size, "action": spec.action_size, "delta": spec.action_size}
    numbers = {name: stats(size, at) for at, (name, size) in enumerate(sizes.items())}
    policy = TorchPolicy.create(spec, numbers, config, seed=seed, fingerprint="fake")
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in policy.net.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=draw))
    policy.net.eval()
    return policy


def observed(spec: Spec = SPEC, seed: int = 0) -> Observation:
    draw = np.random.default_rng(seed)
    frames = {
        c.name: draw.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in spec.cameras
    }
    return Observation(draw.normal(size=spec.state_size), frames)


def source_of(spec: Spec) -> FakeDataset:
    """Three short episodes with the cameras of that Spec."""
    names = tuple(c.name for c in spec.cameras)
    return FakeDataset(cameras=names, height=48, width=64, size=3)


JOINTS = Spec(
    ("joint_0", "joint_1", "joint_2"),
    ("joint_0", "joint_1", "joint_2"),
    ("rad", "rad", "1"),
    ("rad", "rad", "1"),
    CAMERAS[:1],
    50.0,
)


def exported(policy: TorchPolicy, folder: Path, **changes: Any) -> Path:
    """The file as `export` makes it, without a certificate."""
    config = replace(QUICK, **changes)
    making = exporting._Export(
        policy, source_of(policy.spec), folder, config, "policy's", lambda _: None
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"policy.{config.to}"
    path.write_bytes(making._file_bytes(folder))
    return path


def largest_deviation(policy: TorchPolicy, other: Policy, spec: Spec) -> float:
    """The largest deviation over three observations, in standard deviations."""
    seen = [observed(spec, seed) for seed in range(3)]
    std = policy.constants["action_std"].numpy()
    error = certificate.answers(other, seen) - certificate.answers(policy, seen)
    return float(np.abs(error / std).max())


VARIANTS: dict[str, tuple[dict[str, Any], tuple[Camera, ...]]] = {
    "batch norm": ({}, CAMERAS[:1]),
    "frozen norm": ({"backbone_norm": "frozen", "pretrained_backbone": "none"}, CAMERAS[:1]),
    "group norm": ({"backbone_norm": "group"}, CAMERAS[:1]),
    "four stages": ({"backbone_stages": 4}, CAMERAS[:1]),
    "fixed queries, three layers, mlp": (
        {"queries": "sinusoidal", "decoder_layers": 3, "head": "mlp"}, CAMERAS[:1]),
    "positions in tokens": ({"positions": "tokens"}, CAMERAS[:1]),
    "delta actions": ({"actions": "delta"}, CAMERAS[:1]),
    "no cvae": ({"use_vae": False}, CAMERAS[:1]),
    "chunk of one": ({"chunk_size": 1}, CAMERAS[:1]),
    "cameras resized to one size": ({}, CAMERAS),
    "cameras of two sizes": ({"input_height": 0, "input_width": 0}, CAMERAS),
    "three cameras, two of one size": (
        {"input_height": 0, "input_width": 0}, (*CAMERAS, Camera("back", 48, 64))),
    "a window": ({"crop": "top=3:40,5:60"}, CAMERAS),
    "a window of the input's size": ({"crop": "top=3:27,5:37"}, CAMERAS[:1]),
    "no camera": ({"input_height": 0, "input_width": 0}, ()),
}  # fmt: skip


@pytest.mark.parametrize("to", ["openvino", "onnx"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_file_answers_as_the_policy(tmp_path: Path, variant: str, to: str):
    changes, cameras = VARIANTS[variant]
    spec = replace(SPEC, cameras=cameras)
    policy = made(replace(TINY, **changes), spec)
    file = load(exported(policy, tmp_path, to=to), threads=1)
    assert isinstance(file, Policy)
    assert file.spec == spec
    assert largest_deviation(policy, file, spec) < 1e-4


@pytest.mark.parametrize("to", ["openvino", "onnx"])
@pytest.mark.parametrize("cameras", [(), CAMERAS[:1]])
@pytest.mark.parametrize("environment", [1, 3, 4])
def test_the_file_sees_the_states_of_the_environment_as_the_policy_does(
    environment: int, cameras: tuple[Camera, ...], to: str, tmp_path: Path
):
    spec = replace(SPEC, cameras=cameras, environment_size=environment)
    policy = made(replace(TINY, input_height=0, input_width=0), spec)
    file = load(exported(policy, tmp_path, to=to), threads=1)
    assert file.spec == spec
    assert largest_deviation(policy, file, spec) < 1e-4


def test_equality_of_answers_can_fail(tmp_path: Path):
    other = load(exported(made(seed=1), tmp_path), threads=1)
    assert largest_deviation(made(seed=0), other, SPEC) > 1e-1


@pytest.mark.parametrize(
    ("have", "want"),
    [((48, 64), (24, 32)), ((30, 50), (10, 10)), ((30, 50), (24, 32)), ((480, 640), (224, 224)),
     ((7, 9), (14, 27)), ((31, 47), (13, 11))],
)  # fmt: skip
def test_a_resized_frame_equals_that_of_core_views_to_the_byte(
    have: tuple[int, int], want: tuple[int, int]
):
    from onnx import TensorProto

    from imitact.deploy.onnx_act import _Writer
    from imitact.deploy.onnx_graph import Graph

    policy = made(spec=replace(SPEC, cameras=(Camera("top", *have),)))
    writer = _Writer(policy)
    writer.graph = graph = Graph()
    frame = graph.input("frame", TensorProto.UINT8, (1, *have, 3))
    seen = writer._seen(frame, Camera("top", *have), View(*want))
    graph.output(seen, "seen", TensorProto.FLOAT, (1, 3, *want))
    session = telemetry.import_onnxruntime().InferenceSession(
        graph.model("resize").SerializeToString()
    )
    draw = np.random.default_rng(0)
    for _ in range(5):
        captured = draw.integers(0, 256, (*have, 3), dtype=np.uint8)
        (got,) = session.run(None, {"frame": captured[None]})
        mean = policy.constants["pixel_mean"].numpy()
        assert np.array_equal(
            np.rint(got[0] + mean).transpose(1, 2, 0), View(*want).apply(captured)
        )


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_policy_with_its_own_scaling_answers_as_in_torch(to: Any, tmp_path: Path):
    spec = replace(SPEC, cameras=CAMERAS)
    policy = made(spec=spec)
    plain = Scaling.plain(spec, policy.stats, TINY)
    scaling = replace(
        plain,
        state_std=(0.5, 2.0, 1.0, 0.003), state_shift=(-1.0,) * 4, action_std=(0.4, 0.002, 3.0),
        pixel_mean={"top": (0.1, 0.2, 0.3), "left wrist": (0.0, 0.0, 0.0)},
        pixel_std={"top": (0.3, 0.2, 0.1), "left wrist": (1.0, 0.5, 0.9)},
    )  # fmt: skip
    record = PolicyRecord(spec, policy.stats, TINY, "fake", scaling=scaling)
    policy = TorchPolicy.from_weights(record, policy.net.state_dict())
    assert largest_deviation(policy, load(exported(policy, tmp_path, to=to)), spec) < 1e-4
    usual = TorchPolicy(policy.net, PolicyRecord(spec, policy.stats, TINY, "fake"))
    assert largest_deviation(policy, usual, spec) > 0.1


def test_the_graph_holds_nothing_that_only_training_needs():
    policy = made()
    names = {c.name for c in build(policy).graph.initializer}
    kinds = {node.op_type for node in build(policy).graph.node}
    assert not [name for name in names if "cvae" in name]
    assert not kinds & {"BatchNormalization", "Dropout", "Shape", "If", "Loop"}
    sizes = {c.name: np.prod(c.dims) for c in build(policy).graph.initializer}
    # The first decoder layer has no self-attention: its result is a constant.
    assert not [name for name in sizes if name.startswith("decoder.0.qkv")]


def test_the_same_policy_gives_the_same_bytes(tmp_path: Path):
    for to in ("openvino", "onnx"):
        first = exported(made(), tmp_path / "a", to=to).read_bytes()
        assert first == exported(made(), tmp_path / "b", to=to).read_bytes()


def test_any_reader_of_onnx_opens_the_file(tmp_path: Path):
    import onnx

    path = exported(made(), tmp_path, to="onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["imitact"])["spec"]["rate_hz"] == 50


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["openvino", "onnx"])
def test_the_file_refuses_what_the_policy_refuses_in_the_same_words(tmp_path: Path, to: str):
    policy = made()
    file = load(exported(policy, tmp_path, to=to), threads=1)
    good = observed()
    nan = np.full(4, np.nan)
    small = {"top": good.frames["top"][:-1]}
    wrong: list[tuple[type[ImitactError], Observation]] = [
        (SpecMismatch, replace(good, state=good.state[:3])),
        (NotFinite, replace(good, state=nan)),
        (SpecMismatch, replace(good, frames={})),
        (SpecMismatch, replace(good, frames=small)),
        (SpecMismatch, replace(good, frames={"top": good.frames["top"].astype(np.float32)})),
    ]
    for kind, observation in wrong:
        with pytest.raises(kind) as theirs:
            policy.chunk(observation)
        with pytest.raises(kind) as ours:
            file.chunk(observation)
        assert str(ours.value) == str(theirs.value)


def test_a_frame_that_is_a_strided_view_is_read_correctly(tmp_path: Path):
    file = load(exported(made(), tmp_path), threads=1)
    good = observed()
    large = np.zeros((48, 128, 3), np.uint8)
    large[:, ::2] = good.frames["top"]
    strided = replace(good, frames={"top": large[:, ::2]})
    assert np.array_equal(file.chunk(strided), file.chunk(good))


@pytest.mark.parametrize("to", ["openvino", "onnx"])
def test_a_file_truncated_or_altered_anywhere_is_refused(tmp_path: Path, to: str):
    path = exported(made(), tmp_path, to=to)
    data = path.read_bytes()
    damaged = tmp_path / "damaged"
    places = np.linspace(0, len(data) - 1, 40).astype(int).tolist()
    for at in [*places, *range(len(data) - FOOTER_BYTES, len(data), 5)]:
        altered = bytearray(data)
        altered[at] ^= 1
        damaged.write_bytes(altered)
        with pytest.raises(DamagedFile, match="Copy it again"):
            load(damaged)
    for end in (0, 1, 95, 96, 200, len(data) // 2, len(data) - 1):
        damaged.write_bytes(data[:end])
        with pytest.raises(DamagedFile, match=r"truncated|SHA-256"):
            load(damaged)


def test_a_file_of_another_format_is_refused_with_the_version_that_wrote_it(tmp_path: Path):
    path = exported(made(), tmp_path)
    sealed = unseal(path)
    end = sealed.about["parts"]["weights"][1]
    for about, says in (
        ({**sealed.about, "format": 3}, "format is 3, written by imitact .*, this imitact"),
        ({**sealed.about, "format": 2}, "execution: "),
        ({**sealed.about, "format": 2, "execution": {"chunking": "all"}}, "execution: .*not known"),
        ({**sealed.about, "format": True}, "format is True, written by imitact .*, this imitact"),
        ({**sealed.about, "kind": "tensorrt"}, "is for tensorrt in fp32"),
        ({**sealed.about, "spec": {}}, "spec: "),
    ):
        path = tmp_path / "other"
        path.write_bytes(seal(bytes(sealed.data[:end]), about))
        with pytest.raises(DamagedFile, match=says):
            load(path)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_the_execution_of_a_policy_is_exported_with_it(tmp_path: Path, to: str):
    policy = made()
    assert load(exported(policy, tmp_path / "untuned", to=to)).execution is None
    policy.execution = Execution("ensemble:0.01/5", 2)
    path = exported(policy, tmp_path / "tuned", to=to)
    assert load(path).execution == policy.execution
    assert unseal(path).about["format"] == 2


def test_a_missing_runtime_is_refused_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    paths = {to: exported(made(), tmp_path, to=to) for to in ("openvino", "onnx")}
    for to, package in (("openvino", "openvino"), ("onnx", "onnxruntime")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(BadInput, match=r"pip install '.\[runtime\]'"):
                load(paths[to])


def test_a_precision_that_the_processor_lacks_is_refused_and_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = exported(made(), tmp_path, precision="bf16")
    openvino = telemetry.import_openvino()
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert largest_deviation(made(), load(path, threads=1), SPEC) < LIMITS["bf16"]
        # The same file on a processor that runs f32 when asked for bf16.
        monkeypatch.setitem(runtime.OPENVINO_TYPES, "bf16", "f16")
    with pytest.raises(BadInput, match=r"has no arithmetic for that.*--precision fp32"):
        load(path)


def test_onnx_in_bf16_is_refused_with_the_reason():
    with pytest.raises(BadInput, match="ONNX Runtime's CPU provider has no bf16"):
        ExportConfig(to="onnx", precision="bf16")


# -- without torch -----------------------------------------------------------------------------


RUN = """
import sys
from pathlib import Path
import numpy as np
{first}
from imitact.core.types import Observation
from imitact.deploy.runtime import load
policy = load(sys.argv[1])
frames = {{c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in policy.spec.cameras}}
chunk = policy.chunk(Observation(np.zeros(policy.spec.state_size), frames))
print(chunk.shape, *sorted({{name.split(".")[0] for name in sys.modules}}))
"""


def loaded(path: Path, home: Path, first: str = "") -> set[str]:
    """The modules in a fresh process that loaded a file and answered once."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN.format(first=first), str(path)],
        capture_output=True, text=True, env={**environment(), "HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(5, 3)")
    assert done.stderr == ""
    return set(done.stdout.split())


def environment() -> dict[str, str]:
    """Ours, without variables that keep ONNX Runtime or a cache out of the home folder."""
    ours = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI"}
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.mark.parametrize("to", ["openvino", "onnx"])
def test_an_exported_policy_runs_without_torch(tmp_path: Path, to: str):
    path = exported(made(), tmp_path, to=to)
    home = tmp_path / "home"
    home.mkdir()
    heavy = {"torch", "safetensors", "pyarrow", "av", "onnx", "nncf", "tyro", "rich"}
    assert not loaded(path, home) & heavy
    assert list(home.iterdir()) == []  # no identifier of this user was written


def test_a_process_that_loads_torch_is_detected(tmp_path: Path):
    path = exported(made(), tmp_path)
    assert "torch" in loaded(path, tmp_path, first="import torch")


SPY = """
from pathlib import Path

class Telemetry:
    def __init__(self, *args, **kwargs):
        Path({mark!r}).touch()
    def __getattr__(self, name):
        if name == "backend":
            raise AttributeError(name)
        return lambda *args, **kwargs: None
"""


def sends_usage_data(tmp_path: Path, code: str) -> bool:
    """Whether code in a fresh process starts the sender of usage data (here a harmless fake)."""
    mark = tmp_path / "called"
    package = tmp_path / "spy" / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text(SPY.format(mark=str(mark)))
    (package / "backend" / "__init__.py").write_text("backend_ga4 = None\n")
    script = f"import sys\nsys.path.insert(0, {str(package.parent)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return mark.exists()


def test_quantizing_sends_no_usage_data(tmp_path: Path):
    code = "from imitact.deploy.telemetry import import_nncf\nimport_nncf()"
    assert not sends_usage_data(tmp_path / "ours", code)
    assert sends_usage_data(tmp_path / "plain", "import nncf")  # so the fake detects it


# -- the certificate ---------------------------------------------------------------------------


def test_the_certificate_has_the_deviations_of_a_direct_computation(tmp_path: Path):
    policy, source = made(spec=JOINTS), source_of(JOINTS)
    config = replace(QUICK, observations=20)
    found = export(policy, source, tmp_path / "out", config, policy_sha256="p")
    assert found == json.loads((tmp_path / "out" / "certificate.json").read_text())
    file = load(tmp_path / "out" / found["file"], threads=1)
    std = policy.constants["action_std"].numpy().astype(float)
    errors = []
    for index, length in enumerate(source.lengths):
        episode = source.episode(index)
        for tick in range(length):  # 20 ticks in all: every one
            seen = Observation(
                episode.state[tick], {"top": next(episode.frames("top", tick, tick + 1))}
            )
            errors.append(np.abs(file.chunk(seen).astype(float) - policy.chunk(seen)))
    error = np.stack(errors)
    far = found["deviation"]
    assert far["observations"] == 20
    assert far["max_of_std"] == (error / std).max()
    assert far["mean_of_std"] == pytest.approx((error / std).mean(), rel=1e-12)
    assert [j["max"] for j in far["per_joint"]] == error.max(axis=(0, 1)).tolist()
    assert far["per_tick"]["max_of_std"] == (error / std).max(axis=(0, 2)).tolist()
    assert found["file_sha256"] == file.identity
    assert found["dataset"] == {"fingerprint": "fake", "is_that_of_training": True, "episodes": 3}
    assert found["latency"]["calls"] == 4
    assert found["loading"]["torch"] is False
    assert found["success"] is None
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "certificate.json", "policy.openvino",
    ]  # fmt: skip


def test_deviation_finds_the_worst_joint_and_tick():
    wanted = np.zeros((2, 5, 3))
    got = wanted.copy()
    got[1, 4, 2], got[0, 0, 0] = 0.2, -0.3
    far = certificate.deviation(wanted, got, np.array([3.0, 1.0, 1.0]), SPEC)
    assert far["worst"] == {"observation": 1, "tick": 4, "joint": "gripper"}
    assert far["max_of_std"] == 0.2
    assert far["per_joint"][0]["max"] == 0.3
    assert far["per_joint"][0]["unit"] == "rad"


def test_observations_for_int8_ranges_are_not_those_compared():
    source = source_of(JOINTS)
    compared = certificate.observations(source, JOINTS, 5, 0.5)
    ranges = certificate.observations(source, JOINTS, 5, 0.25)
    assert len(compared) == len(ranges) == 5
    assert not {o.state.tobytes() for o in compared} & {o.state.tobytes() for o in ranges}


@pytest.fixture
def wrong_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph builder that gets one weight wrong."""
    right = exporting.build

    def wrong(policy: TorchPolicy) -> Any:
        with torch.no_grad():
            policy.net.head.bias[0] += 0.1
            try:
                return right(policy)
            finally:
                policy.net.head.bias[0] -= 0.1

    monkeypatch.setattr(exporting, "build", wrong)


def test_a_file_that_deviates_is_refused_and_nothing_remains(tmp_path: Path, wrong_weight: None):
    policy, source = made(spec=JOINTS), source_of(JOINTS)
    with pytest.raises(
        ExportMismatch, match=r"0\.1 standard deviations from the policy's \(joint_0"
    ):
        export(policy, source, tmp_path / "out", QUICK, policy_sha256="p")
    assert list(tmp_path.iterdir()) == []
    allowed = replace(QUICK, limit=0.2)
    found = export(policy, source, tmp_path / "out", allowed, policy_sha256="p")
    assert found["deviation"]["max_of_std"] == pytest.approx(0.1, rel=1e-3)


def test_a_failed_export_leaves_the_earlier_file(tmp_path: Path, request: pytest.FixtureRequest):
    policy, source = made(spec=JOINTS), source_of(JOINTS)
    export(policy, source, tmp_path / "out", QUICK, policy_sha256="p")
    before = digests(tmp_path / "out")
    request.getfixturevalue("wrong_weight")
    with pytest.raises(ExportMismatch):
        export(policy, source, tmp_path / "out", QUICK, policy_sha256="p")
    assert digests(tmp_path / "out") == before


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.mark.parametrize(("low", "is_kept"), [(-0.039, True), (-0.04, False), (-0.2, False)])
def test_a_file_is_kept_only_if_a_loss_of_success_is_ruled_out(
    tmp_path: Path, low: float, is_kept: bool
):
    compared: Callable[[Path], dict[str, Any]] = lambda path: {  # noqa: E731
        "difference": 0.0, "interval": [low, 0.03], "text": "file minus torch", "loads":
        load(path, threads=1).precision,
    }  # fmt: skip
    policy, source = made(spec=JOINTS), source_of(JOINTS)
    if is_kept:
        found = export(policy, source, tmp_path, QUICK, policy_sha256="p", compare_success=compared)
        assert found["success"]["loads"] == "fp32"
    else:
        with pytest.raises(ExportMismatch, match="a loss of more than 4 points is not ruled out"):
            export(policy, source, tmp_path, QUICK, policy_sha256="p", compare_success=compared)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("environment", [0, 1])
def test_int8_computes_in_whole_numbers_near_the_policy(environment: int, tmp_path: Path):
    spec = replace(JOINTS, environment_size=environment)
    policy, source = made(spec=spec), replace(source_of(spec), environment_size=environment)
    config = replace(QUICK, precision="int8", to="onnx", calibration=8, limit=1.0)
    found = export(policy, source, tmp_path, config, policy_sha256="p")
    assert 1e-4 < found["deviation"]["max_of_std"] < 0.5
    import onnx

    nodes = onnx.load(tmp_path / found["file"]).graph.node
    assert "QuantizeLinear" in {n.op_type for n in nodes}
    physical = [n for n in nodes if n.name in ("state_proj", "environment_proj", "head")]
    assert len(physical) == 2 + environment
    assert not any(name.startswith("dq_output") for n in physical for name in n.input)
    file = load(tmp_path / found["file"], threads=1)
    assert isinstance(file, ExportedPolicy)
    assert file.precision == "int8"


# -- the command line --------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main.run([str(word) for word in argv]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("imitact export: ")]
    return line


def test_an_export_that_cannot_work_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    policy = made(spec=JOINTS).save(tmp_path / "policy")
    out = ("--out", tmp_path / "out")
    data = ("--data", tmp_path)
    assert "no such file or folder" in refused(capsys, "export", tmp_path / "none", *data, *out)
    (tmp_path / "empty").mkdir()
    assert "holds no policy.json" in refused(capsys, "export", tmp_path / "empty", *data, *out)
    assert "--data" in refused(capsys, "export", policy, *out, "--precision", "int8")
    assert "info.json" in refused(capsys, "export", policy, *data, *out)
    bf16 = refused(capsys, "export", policy, *data, *out, "--to", "onnx", "--precision", "bf16")
    assert "has no bf16" in bf16
    assert 'is "tensorrt"' in refused(capsys, "export", policy, *data, *out, "--to", "tensorrt")
    assert not (tmp_path / "out").exists()
