"""Exported policy: answers from a file of `imitact export`, without torch.

It needs numpy, msgspec and the runtime that the file was exported for: OpenVINO or ONNX Runtime.

    policy = load("runs/exported/policy.openvino")
    chunk = policy.chunk(observation)  # (K, A), in the units of policy.spec
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, DamagedFile, NotFinite
from imitact.core.execution import Execution
from imitact.core.types import Frame, Observation, Spec
from imitact.deploy.export_config import NO_BF16, Kind, Precision
from imitact.deploy.telemetry import import_onnxruntime, import_openvino
from imitact.storage.json_file import check_format, naming_file
from imitact.storage.sealed_file import SealedFile, unseal

FORMAT = 1
"""Number of the file's format, for a policy that was not tuned."""

TUNED_FORMAT = 2
"""The same with an "execution". Any other number is refused."""

OPENVINO_TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""By precision, OpenVINO's name for the type of everything that is not quantized. It is always set:
OpenVINO's own choice is bf16 wherever the processor has it, whatever was certified."""

Feed = Mapping[str, NDArray[Any]]
Engine = Callable[[Feed], NDArray[np.float32]]
"""Runs the graph: inputs by name to the chunk, (1, K, A)."""


class ExportedPolicy:
    """A Policy that answers from an exported file; `load` makes one.

    Attributes:
        spec: what it sees and commands.
        kind: the runtime it runs on.
        precision: what it computes in, confirmed by the runtime.
        fingerprint: of the dataset that the policy was trained on.
        execution: how its chunks are executed, from `imitact tune`; None where it was not tuned.
        identity: the SHA-256 of the file; distinguishes exported files.
        threads: how many compute an answer.
        path: the file.
    """

    def __init__(
        self,
        path: Path,
        sealed: SealedFile,
        spec: Spec,
        execution: Execution | None,
        engine: Engine,
        threads: int,
    ) -> None:
        self.path = path
        self.spec = spec
        self.execution = execution
        self.kind: Kind = sealed.about["kind"]
        self.precision: Precision = sealed.about["precision"]
        self.fingerprint: str = sealed.about["fingerprint"]
        self.identity = sealed.sha256
        self.threads = threads
        self._engine = engine
        self._sealed = sealed  # OpenVINO uses the weights where they are mapped

    def reset(self, seed: int) -> None:
        """Begin an episode; nothing is random (z = 0), so the seed has no effect."""

    def chunk(self, observation: Observation) -> NDArray[np.float32]:
        """Return the next K actions, shape (K, A), in the units of the Spec.

        It takes frames at capture size, and refuses what the exported policy refuses.
        """
        chunk = self._engine(feed(*self.spec.checked(observation)))[0]
        if not np.all(np.isfinite(chunk)):
            raise NotFinite("the network answered with NaN or infinity; its weights are unusable")
        return chunk


def load(path: Path | str, *, threads: int | None = None) -> ExportedPolicy:
    """Load a file that `imitact export` wrote, ready to answer.

    `threads` compute an answer; None takes OMP_NUM_THREADS where that is set, as torch does, or
    else one per core that this process may use.

    Raises:
        DamagedFile: the file is truncated, altered or of another format.
        BadInput: its runtime is not installed, or this processor would compute in another precision
            than was certified.
    """
    path = Path(path).absolute()
    sealed = unseal(path)
    spec, execution = _checked(sealed.about, path, len(sealed.data))
    count = _threads(threads)
    kind, precision = sealed.about["kind"], sealed.about["precision"]
    try:
        engine = (_openvino if kind == "openvino" else _onnxruntime)(sealed, precision, count)
    except RuntimeError as error:
        made_with = sealed.about.get("made_with")
        pairs = made_with.items() if isinstance(made_with, dict) else ()
        versions = ", ".join(f"{name} {version}" for name, version in pairs)
        raise BadInput(
            f"{path}: this {kind} cannot run it ({error}). It was exported with "
            f"{versions or 'an unknown version'}: install that version, or export again"
        ) from error
    return ExportedPolicy(path, sealed, spec, execution, engine, count)


def feed(state: NDArray[Any], frames: Mapping[str, Frame]) -> dict[str, NDArray[Any]]:
    """Return an observation as the graph's inputs."""
    pixels = {f"frame.{name}": np.ascontiguousarray(frame)[None] for name, frame in frames.items()}
    return {"state": np.asarray(state, np.float32)[None], **pixels}


def read_about(path: Path | str) -> tuple[Mapping[str, Any], Spec, Execution | None, str]:
    """Return what an exported file says of its policy, and its SHA-256, without a runtime.

    What it says is its metadata, of which the Spec and the execution are also parsed.
    """
    path = Path(path).absolute()
    sealed = unseal(path)
    return sealed.about, *_checked(sealed.about, path, len(sealed.data)), sealed.sha256


def _checked(about: Mapping[str, Any], path: Path, size: int) -> tuple[Spec, Execution | None]:
    with naming_file(path):
        found = check_format(about, FORMAT, TUNED_FORMAT)
    if about.get("kind") not in get_args(Kind) or about.get("precision") not in get_args(Precision):
        raise DamagedFile(
            f"{path} is for {about.get('kind')} in {about.get('precision')}, expected "
            f"{' or '.join(get_args(Kind))} in {', '.join(get_args(Precision))}"
        )
    parts = about.get("parts")
    for name in ("graph",) if about["kind"] == "onnx" else ("graph", "weights"):
        part = parts.get(name) if isinstance(parts, dict) else None
        inside = isinstance(part, list) and [type(edge) for edge in part] == [int, int]
        if not inside or not 0 <= part[0] <= part[1] <= size:  # type: ignore[index]
            raise DamagedFile(f"{path}: its {name} is at {part}, beyond the end of the file")
    if not isinstance(about.get("fingerprint"), str):
        raise DamagedFile(f"{path}: fingerprint is {about.get('fingerprint')!r}, expected a string")
    with naming_file(f"{path}: spec"):
        spec = msgspec.convert(about.get("spec"), Spec)
    if found == FORMAT:
        return spec, None
    with naming_file(f"{path}: execution"):
        return spec, msgspec.convert(about.get("execution"), Execution)


def _threads(wanted: int | None) -> int:
    if wanted is None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        return int(given) if given.isdecimal() and int(given) > 0 else available_cores()
    if wanted < 1:
        raise BadInput(f"threads is {wanted}; it must be at least 1")
    return wanted


def _openvino(sealed: SealedFile, precision: Precision, threads: int) -> Engine:
    openvino = import_openvino()
    core = openvino.Core()
    weights = openvino.Tensor(np.frombuffer(sealed.part("weights"), np.uint8), shared_memory=True)
    model = core.read_model(bytes(sealed.part("graph")), weights)
    wanted = OPENVINO_TYPES[precision]
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": wanted,
        "INFERENCE_NUM_THREADS": threads,
        # Two processes of one thread each would be pinned to the same core.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(model, "CPU", settings)
    runs = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if runs != wanted:
        raise BadInput(
            f"the file is {precision}, but this processor "
            f"({core.get_property('CPU', 'FULL_DEVICE_NAME')}) has no arithmetic for that and "
            f"would compute it in {runs}. Run it where it was certified, or export with "
            "--precision fp32"
        )
    request = compiled.create_infer_request()
    return lambda feed: request.infer(dict(feed), share_inputs=True)["action"]


def _onnxruntime(sealed: SealedFile, precision: Precision, threads: int) -> Engine:
    if precision == "bf16":
        raise BadInput(NO_BF16)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only, which are raised as well
    session = onnxruntime.InferenceSession(
        bytes(sealed.data), options, providers=["CPUExecutionProvider"]
    )
    return lambda feed: session.run(["action"], dict(feed))[0]
