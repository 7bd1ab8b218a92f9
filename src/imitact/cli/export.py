"""`imitact export`: one file that runs a policy without torch, and its certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from imitact.cli import evaluate
from imitact.cli.console import print_progress, print_result
from imitact.cli.evaluate import Evaluate
from imitact.cli.options import require_path
from imitact.core.errors import BadInput
from imitact.core.ranges import CountOrNone, Seed, Workers
from imitact.core.types import with_unit
from imitact.core.words import counted
from imitact.datasets.read_config import ReadConfig
from imitact.deploy.export_config import ExportConfig
from imitact.deploy.load_policy import policy_path
from imitact.envs.registry import check_env_name
from imitact.storage.output_guard import check_output

RESUME_HINT = "no file was written; finished episodes are kept, and the same command continues"


@dataclass(frozen=True)
class Export:
    """Write a policy as one file, which OpenVINO or ONNX Runtime runs without torch; certify it."""

    policy: Annotated[Positional[Path], arg(metavar="POLICY")]
    """Folder of a training or of its policy."""

    data: Path
    """Dataset with the policy's joints and cameras, best the one it was trained on: actions are
    compared on its observations, and int8 takes its ranges from others of them."""

    out: Path
    """Folder of the file (policy.openvino or policy.onnx) and of its certificate.json."""

    export: OmitArgPrefixes[ExportConfig] = field(default_factory=ExportConfig)
    """The file, and what it must prove."""

    episodes: CountOrNone = 0
    """Seeds on which the torch policy and the file are both evaluated; 0 claims no success rate.
    The results stay in OUT/evaluation-torch and OUT/evaluation-KIND-PRECISION."""

    env: str = ""
    """Environment in which success is compared, as for `imitact evaluate`."""

    first_seed: Seed = 1000
    """Seed of the first episode; the others follow."""

    chunking: str | None = None
    """How chunks become actions, as for `imitact evaluate`."""

    workers: Workers = 0
    """Processes that evaluate, each held to one thread; 0 takes one per core."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What the dataset's layout leaves open."""


OPTIONS = Export


def run(settings: Export) -> None:
    """Export, and print the claims of the certificate."""
    check_output(settings.out, "export")
    path = policy_path(settings.policy)
    require_path(settings.data, "dataset")
    if settings.env:
        check_env_name(settings.env)
    from imitact.datasets.open import open_dataset
    from imitact.deploy import export as exporting
    from imitact.models.policy import TorchPolicy

    policy = TorchPolicy.load(path)
    found = exporting.export(
        policy,
        open_dataset(settings.data, settings.read),
        settings.out,
        settings.export,
        policy_sha256=policy.identity,
        compare_success=(lambda file: _success(settings, file, policy.identity))
        if settings.episodes
        else None,
        on_line=print_progress,
    )
    print_result(*summary(found))
    print_result(f"file:        {settings.out / found['file']}")
    print_result(f"certificate: {settings.out / exporting.CERTIFICATE}")


def _success(settings: Export, path: Path, identity: str) -> Mapping[str, Any]:
    """Evaluate the exported file and the torch policy on the same seeds, and compare.

    `identity` is that of the policy which was exported.
    """
    from imitact.evaluation import report
    from imitact.evaluation.results import compare

    config = settings.export
    a, b = (
        evaluate.count(
            Evaluate(
                policy=(policy,),
                out=settings.out / f"evaluation-{name}",
                env=settings.env,
                episodes=settings.episodes,
                first_seed=settings.first_seed,
                chunking=settings.chunking,
                workers=settings.workers,
            )
        )[""]
        for policy, name in ((path, f"{config.to}-{config.precision}"), (settings.policy, "torch"))
    )
    if b.plan.names["policy"] != identity:
        raise BadInput(
            f"{settings.policy} was replaced by another policy while it was exported; nothing was "
            "written. Give the same command again"
        )
    paired = compare(a, b)
    return {
        "env": a.plan.names["env"],
        "chunking": a.execution.chunking,
        **({"delay_ticks": a.execution.delay_ticks} if a.execution.delay_ticks else {}),
        "first_seed": settings.first_seed,
        "episodes": paired.episodes,
        "exported": a.successes,
        "torch": b.successes,
        "only_exported": paired.only_a,
        "only_torch": paired.only_b,
        "difference": paired.difference,
        "interval": list(paired.interval),
        "confidence": paired.confidence,
        "text": report.paired_line(paired, "file", "torch"),
    }


def summary(found: Mapping[str, Any]) -> list[str]:
    """Return the claims of a certificate, a line each."""
    far, fast, torch, loading = (
        found[name] for name in ("deviation", "latency", "torch_latency", "loading")
    )
    worst = far["worst"]
    joint = next(j for j in far["per_joint"] if j["joint"] == worst["joint"])
    trained_on = found["dataset"]["is_that_of_training"]
    where = "its training's dataset" if trained_on else "another dataset than its training's"
    machine = found["machine"]
    lines = [
        f"{found['kind']} {found['precision']}, {found['bytes'] / 1e6:.1f} MB",
        f"deviation:   at most {far['max_of_std']:.2g} of a standard deviation "
        f"({worst['joint']}, {counted(worst['tick'], 'tick')} ahead; that joint's largest is "
        f"{with_unit(format(joint['max'], '.2g'), joint['unit'])}), mean {far['mean_of_std']:.2g}, "
        f"limit {found['limit_of_std']:g}; {far['observations']} observations spread over all "
        f"{counted(found['dataset']['episodes'], 'episode')} of {where}",
        f"latency:     median {fast['p50_ms']:.2f} ms, p90 {fast['p90_ms']:.2f}, p99 "
        f"{fast['p99_ms']:.2f} ({fast['p99_over_p50']:.2f} of the median), max "
        f"{fast['max_ms']:.2f}; {fast['calls']} calls, threads: {machine['threads']}, "
        f"{machine['processor']}",
        f"torch:       median {torch['p50_ms']:.2f} ms, p99 {torch['p99_ms']:.2f}; "
        f"{torch['calls']} calls, same threads",
        f"loading:     {loading['import_s']:.2f} s import, {loading['load_s']:.2f} s load, "
        + ("torch imported" if loading["torch"] else "without torch"),
    ]
    success = found["success"]
    claim = "no claim; --episodes 500 compares it"
    lines.append(f"success:     {success['text'] if success else claim}")
    return lines
