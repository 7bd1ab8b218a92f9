"""Export: writes a trained policy as one file that needs no torch, and certifies that file.

OUT/policy.onnx or OUT/policy.openvino appears only when it keeps every limit. docs/formats.md
describes the file, docs/deploy.md the certificate, OUT/certificate.json.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from imitact.core.cpu import processor_name
from imitact.core.errors import BadInput
from imitact.core.types import Dataset, Observation
from imitact.core.version import __version__
from imitact.core.words import counted
from imitact.deploy import certificate
from imitact.deploy.export_config import ExportConfig
from imitact.deploy.onnx_act import build
from imitact.deploy.quantize import quantize
from imitact.deploy.runtime import FORMAT, TUNED_FORMAT, ExportedPolicy, feed, load
from imitact.deploy.telemetry import import_nncf, import_openvino
from imitact.models.policy import TorchPolicy
from imitact.storage.atomic import disk_full_guard, fsync, make_folder, move_into_place, write_json
from imitact.storage.checksum import with_checksum
from imitact.storage.lock import exclusive_writer
from imitact.storage.output_guard import check_output
from imitact.storage.sealed_file import FOOTER_BYTES, seal, with_footer

CERTIFICATE = "certificate.json"
CERTIFICATE_FORMAT = 1
WORK = ".exporting"
"""The folder in OUT for unfinished files."""


class ExportMismatch(BadInput):
    """An exported file does not do what the policy does; it was not kept."""


CompareSuccess = Callable[[Path], Mapping[str, Any]]
"""Evaluates an exported file and the torch policy on the same seeds. Returns JSON values with at
least "difference" (file minus torch, -1 to 1), its "interval", and both in words, "text"."""


def export(
    policy: TorchPolicy,
    source: Dataset,
    out: Path,
    config: ExportConfig,
    *,
    policy_sha256: str,
    compare_success: CompareSuccess | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write OUT/policy.KIND and OUT/certificate.json; return the certificate.

    OUT is created if it is missing. Answers are compared on observations of `source`, and success
    rates with `compare_success`; None makes no claim about success. The file keeps `policy_sha256`,
    the policy's identity. `on_line` takes lines of progress.

    Raises:
        ExportMismatch: the deviation is above the limit, or a loss of success is not ruled out. No
            file is written then, and an earlier export in OUT is untouched.
    """
    check_output(out, "export")
    existed = out.exists()
    work = out / WORK
    try:
        with exclusive_writer(out, "export"), disk_full_guard(out):
            shutil.rmtree(work, ignore_errors=True)
            try:
                make_folder(work)
                job = _Export(policy, source, out, config, policy_sha256, on_line, compare_success)
                return job.run()
            finally:
                shutil.rmtree(work, ignore_errors=True)
    finally:
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


@dataclass
class _Export:
    policy: TorchPolicy
    source: Dataset
    out: Path
    config: ExportConfig
    policy_sha256: str
    on_line: Callable[[str], None]
    compare_success: CompareSuccess | None = None

    def run(self) -> dict[str, Any]:
        config, spec = self.config, self.policy.spec
        seen = certificate.observations(self.source, spec, config.observations, 0.5)
        path = self.out / WORK / f"policy.{config.to}"
        path.write_bytes(self._file_bytes(path.parent))
        fsync(path)
        exported = load(path, threads=config.threads or None)
        with certificate.torch_threads(exported.threads):
            deviation = self._deviation(exported, seen)
            self.on_line(f"timing {counted(config.calls, 'call')}")
            latency = certificate.latency(exported, seen, config.calls)
            torch_latency = certificate.latency(self.policy, seen, config.torch_calls)
        values = {
            "format": CERTIFICATE_FORMAT,
            "imitact": __version__,
            "file": path.name,
            "bytes": path.stat().st_size,
            "file_sha256": exported.identity,
            "policy": self.policy_sha256,
            "kind": exported.kind,
            "precision": exported.precision,
            "dataset": {
                "fingerprint": self.source.fingerprint,
                "is_that_of_training": self.source.fingerprint == self.policy.fingerprint,
                "episodes": len(self.source.lengths),
            },
            "limit_of_std": config.max_deviation,
            "deviation": deviation,
            "latency": latency,
            "torch_latency": torch_latency,
            "loading": certificate.loading(path, exported.threads),
            "machine": {
                "processor": processor_name(),
                "system": platform.system(),
                "threads": exported.threads,
            },
            "success": self._success(path),
        }
        move_into_place(path, self.out / path.name)
        found = with_checksum(values)
        write_json(self.out / CERTIFICATE, found, self.out / WORK)
        return found

    def _deviation(self, exported: ExportedPolicy, seen: list[Observation]) -> dict[str, Any]:
        wanted, got = (certificate.answers(policy, seen) for policy in (self.policy, exported))
        std = self.policy.constants["action_divisor"].cpu().numpy().astype(np.float64)
        found = certificate.deviation(wanted, got, std, self.policy.spec)
        if not found["max_of_std"] <= self.config.max_deviation:
            worst = found["worst"]
            raise ExportMismatch(
                f"the file's answers are up to {found['max_of_std']:.3g} standard deviations from "
                f"the policy's ({worst['joint']}, {counted(worst['tick'], 'tick')} ahead), the "
                f"limit is {self.config.max_deviation:g}; nothing was written. Use a finer "
                "--precision, or allow more with --limit"
            )
        return found

    def _success(self, path: Path) -> dict[str, Any] | None:
        if self.compare_success is None:
            return None
        found = dict(self.compare_success(path))
        if not found["interval"][0] > -self.config.margin / 100:
            raise ExportMismatch(
                f"{found['text']}: a loss of more than {self.config.margin:g} points is not ruled "
                "out, so nothing was written. Run more seeds (--episodes), use a finer "
                "--precision, or allow more with --margin"
            )
        return {**found, "margin_points": self.config.margin}

    # -- the file ------------------------------------------------------------------------------

    def _file_bytes(self, work: Path) -> bytes:
        config = self.config
        model = build(self.policy)
        made_with = {"onnx": onnx.__version__}
        if config.precision == "int8":
            self.on_line(f"quantizing with the ranges of {config.calibration} observations")
            seen = certificate.observations(self.source, self.policy.spec, config.calibration, 0.25)
            model = quantize(model, [feed(one.state, one.frames) for one in seen])
            made_with["nncf"] = import_nncf().__version__
        if config.to == "onnx":
            return self._onnx(model, made_with)
        return self._openvino(model, made_with, work)

    def _about(self, made_with: Mapping[str, str], parts: Mapping[str, Any]) -> dict[str, Any]:
        policy = self.policy
        tuned = {"execution": asdict(policy.execution)} if policy.execution else {}
        return {
            "format": TUNED_FORMAT if tuned else FORMAT,
            "imitact": __version__,
            "kind": self.config.to,
            "precision": self.config.precision,
            "made_with": dict(made_with),
            "chunk": policy.config.chunk_size,
            "spec": policy.spec.to_json(),
            "config": policy.config.to_json(),
            "fingerprint": policy.fingerprint,
            "policy": self.policy_sha256,
            **tuned,
            **({"recorded_in": dict(policy.recorded_in)} if policy.recorded_in else {}),
            **({} if policy.limits is None else {"limits": policy.limits.to_json()}),
            "parts": dict(parts),
        }

    def _onnx(self, model: onnx.ModelProto, made_with: Mapping[str, str]) -> bytes:
        # Concatenated protocol buffers are merged by their readers. So the metadata may follow the
        # graph, and the last bytes of the file are the footer.
        graph = model.SerializeToString(deterministic=True)
        text = json.dumps(self._about(made_with, {"graph": [0, len(graph)]}), ensure_ascii=False)
        data = graph + _metadata("imitact", text)
        at = data.rindex(text.encode())
        end = _metadata("imitact.end", "-" * FOOTER_BYTES).removesuffix(b"-" * FOOTER_BYTES)
        return with_footer(data + end, at, len(text.encode()))

    def _openvino(self, model: onnx.ModelProto, made_with: Mapping[str, str], work: Path) -> bytes:
        openvino = import_openvino()
        read = openvino.Core().read_model(model.SerializeToString())
        with tempfile.TemporaryDirectory(dir=work) as folder:
            graph, weights = Path(folder, "policy.xml"), Path(folder, "policy.bin")
            _rename(read, {node.name for node in model.graph.node})
            openvino.serialize(read, graph, weights)
            first, second = graph.read_bytes(), weights.read_bytes()
        # Weights are used where they are mapped, so they are aligned to 64 bytes.
        first += b" " * (-len(first) % 64)
        parts = {"graph": [0, len(first)], "weights": [len(first), len(first) + len(second)]}
        made_with = {**made_with, "openvino": openvino.__version__}
        return seal(first + second, self._about(made_with, parts))


def _rename(model: Any, ours: set[str]) -> None:
    """Rename the nodes that OpenVINO added.

    It numbers them over the whole process, so that two exports of one policy would differ.
    """
    for at, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if node.get_friendly_name() not in ours and kind not in ("Parameter", "Result"):
            node.set_friendly_name(f"{kind}.{at}")


def _metadata(key: str, value: str) -> bytes:
    entry = onnx.StringStringEntryProto(key=key, value=value)
    return onnx.ModelProto(metadata_props=[entry]).SerializeToString(deterministic=True)
