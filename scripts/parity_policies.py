"""Policy parity: imported policies against the programs that trained them, and exported ones there.

    python scripts/parity_policies.py --lerobot-python PATH [--lerobot-033-python PATH]
        [--act-repo PATH] [--record] [--case NAME]

The PATHs are the Pythons of environments with lerobot 0.6.1 and 0.3.3, and a clone of
tonyzhaozh/act (742c753), which runs in the first environment, as does imitact's own model inside
LeRobot (integrations/lerobot_policy_imitact, here "plugin"). Each program creates checkpoints, with
weights from NumPy generators keyed by its own names, and predicts actions for recorded
observations; imitact imports the checkpoints and must predict the same, exports them again, and the
programs must predict the same with the exports. CPU, float32. --record rewrites the fixtures: the
programs' file names, settings, weight names and actions. tests/models/interop/test_interop.py
recreates the checkpoints from these. --case compares one case only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import subprocess
import sys
import tempfile
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "foreign_policies"
ATOL = 1e-4
"""Tolerance of actions, in their units."""

JOINTS, CHUNK, DIM, HEADS, FFN, LATENT, LAYERS = 14, 20, 64, 8, 96, 32, 2
SIZE = (64, 96)
OBSERVATIONS = 2
FOUR = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

CASES: dict[str, dict[str, Any]] = {
    "one_camera": {"cameras": ("top",), "imagenet": True},
    "four_cameras": {"cameras": FOUR, "imagenet": False},
    "ranges": {
        "cameras": ("top",),
        "imagenet": False,
        "modes": {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
    },
    "quantiles": {
        "cameras": ("top",),
        "imagenet": False,
        "modes": {"VISUAL": "MIN_MAX", "STATE": "QUANTILES", "ACTION": "QUANTILE10"},
    },
    "environment": {
        "cameras": (),
        "environment": 5,
        "modes": {"STATE": "MEAN_STD", "ENV": "MIN_MAX", "ACTION": "MEAN_STD"},
    },
    # LeRobot's own modes have no ENV, so that it does not normalize these states.
    "environment_and_camera": {"cameras": ("top",), "imagenet": True, "environment": 3},
    "environment_alone": {
        "cameras": (),
        "joints": 0,
        "environment": 5,
        "modes": {"ENV": "MEAN_STD", "ACTION": "MEAN_STD"},
    },
}
PROGRAMS: dict[str, tuple[str, ...]] = {
    "lerobot-0.6.1": (
        "one_camera", "four_cameras", "ranges", "quantiles",
        "environment", "environment_and_camera", "environment_alone",
    ),
    "lerobot-0.3.3": ("one_camera", "four_cameras", "ranges"),
    "act": ("one_camera", "four_cameras"),
    "plugin": ("one_camera", "four_cameras", "environment", "environment_alone"),
}  # fmt: skip
MEAN_STD = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
TABLES = ("vae_encoder_pos_enc", "pos_table")


def generator(key: str) -> np.random.Generator:
    """Return the NumPy generator for a name."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


@cache
def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return read-only values for a parameter or buffer, by the program's name."""
    if name.endswith(TABLES):  # a table, not a weight
        return table(shape[1], shape[2])[None]
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    rng = generator(name)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    values = rng.standard_normal(shape)
    if "embed" in name:  # looked up, so the fan-in is 1
        return values.astype(np.float32)
    if len(shape) > 1:
        return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (name.endswith(".weight") + 0.1 * values).astype(np.float32)


def table(length: int, width: int) -> np.ndarray:
    """Return interleaved sines and cosines (Vaswani et al. 2017, section 3.5)."""
    channel = np.arange(width)
    angle = np.arange(length)[:, None] / 10000 ** (2 * (channel // 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def states(case: str) -> dict[str, int]:
    """Return LeRobot's features that imitact's states are, with their sizes."""
    sizes = {
        STATE: CASES[case].get("joints", JOINTS),
        ENVIRONMENT: CASES[case].get("environment", 0),
    }
    return {key: size for key, size in sizes.items() if size}


def statistics(case: str) -> dict[str, dict[str, np.ndarray]]:
    """Return dataset statistics by LeRobot's feature names, in float32."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, size in {**states(case), "action": JOINTS}.items():
        rng = generator(f"{key} of {case}")
        mean, std = rng.standard_normal(size), rng.uniform(0.05, 1.5, size)
        if size == JOINTS:
            std[3], std[5] = 2e-3, 0.0  # hardly ever moved, and never
        low, high = mean - 2 * std, mean + 3 * std
        found[key] = {
            "mean": mean, "std": std, "min": low, "max": high,
            "q01": mean - 1.5 * std, "q99": mean + 2 * std,
            "q10": mean - std, "q90": mean + 1.25 * std,
        }  # fmt: skip
    for name in CASES[case]["cameras"]:
        rng = generator(f"pixels of {name}")
        low = rng.uniform(0, 0.2, 3)
        own = {"mean": rng.uniform(0.3, 0.6, 3), "std": rng.uniform(0.2, 0.3, 3)}
        pixels = {
            **(IMAGENET if CASES[case]["imagenet"] else own), "min": low, "max": low + 0.7,
            "q01": low, "q99": low + 0.6, "q10": low, "q90": low + 0.5,
        }  # fmt: skip
        found[f"observation.images.{name}"] = {
            k: np.reshape(v, (3, 1, 1)) for k, v in pixels.items()
        }
    return {key: {k: np.asarray(v, np.float32) for k, v in of.items()} for key, of in found.items()}


def observations(case: str) -> list[dict[str, Any]]:
    """Return states in their units, and captured frames."""
    given = []
    known = statistics(case)
    mean, std = (np.concatenate([known[key][n] for key in states(case)]) for n in ("mean", "std"))
    for at in range(OBSERVATIONS):
        rng = generator(f"observation {at} of {case}")
        state = mean + std * rng.standard_normal(len(mean)).astype(np.float32)
        frames = {
            name: rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            for name in CASES[case]["cameras"]
        }
        given.append({"state": state.astype(np.float32), "frames": frames})
    return given


def modes(case: str) -> dict[str, str]:
    return CASES[case].get("modes", MEAN_STD)


# -- the programs ----------------------------------------------------------------------------------


def filled(module: Any, skip: tuple[str, ...] = ()) -> None:
    """Set every weight to its values, except those whose names begin with `skip`."""
    import torch

    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not name.startswith(skip) or not skip:
                value.copy_(torch.from_numpy(weights(name, tuple(value.shape))))


def torch_observation(given: dict[str, Any], case: str) -> dict[str, Any]:
    """Return an observation in LeRobot's form: frames from 0 to 1, channels first."""
    import torch

    frames = {
        f"observation.images.{name}": torch.from_numpy(frame).permute(2, 0, 1).float() / 255
        for name, frame in given["frames"].items()
    }
    sizes = states(case)
    parts = torch.from_numpy(given["state"]).split(list(sizes.values()))
    # LeRobot takes the device from observation.state even where it is no input.
    return {STATE: torch.zeros(1), **dict(zip(sizes, parts, strict=True)), **frames}


def state_features(case: str, feature_class: Any, kinds: Any) -> dict[str, Any]:
    types = {STATE: kinds.STATE, ENVIRONMENT: kinds.ENV}
    return {key: feature_class(types[key], (size,)) for key, size in states(case).items()}


def lerobot_config(case: str, config_class: Any, feature_class: Any, kinds: Any, mode: Any) -> Any:
    images = {
        f"observation.images.{n}": feature_class(kinds.VISUAL, (3, *SIZE))
        for n in CASES[case]["cameras"]
    }
    return config_class(
        input_features={**images, **state_features(case, feature_class, kinds)},
        output_features={"action": feature_class(kinds.ACTION, (JOINTS,))},
        normalization_mapping={k: mode(v) for k, v in modes(case).items()},
        device="cpu", push_to_hub=False, pretrained_backbone_weights=None, chunk_size=CHUNK,
        n_action_steps=CHUNK // 2, dim_model=DIM, n_heads=HEADS, dim_feedforward=FFN,
        latent_dim=LATENT, n_encoder_layers=LAYERS, n_vae_encoder_layers=LAYERS,
    )  # fmt: skip


def lerobot_061(case: str, out: Path) -> np.ndarray:
    """Write a checkpoint of LeRobot 0.6.1 and return its actions after loading it."""
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    config = lerobot_config(case, ACTConfig, PolicyFeature, FeatureType, NormalizationMode)
    policy = ACTPolicy(config)
    filled(policy)
    processors = make_pre_post_processors(config, dataset_stats=statistics(case))
    for part in (policy, *processors):
        part.save_pretrained(out)
    return lerobot_061_answers(case, out)


def lerobot_061_answers(case: str, folder: Path) -> np.ndarray:
    """Return LeRobot 0.6.1's actions with the policy and processors of a checkpoint."""
    import torch
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    policy = ACTPolicy.from_pretrained(folder, strict=True)
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    with torch.inference_mode():
        return np.stack([
            after(policy.predict_action_chunk(before(torch_observation(given, case))))[0].numpy()
            for given in observations(case)
        ])  # fmt: skip


def lerobot_033(case: str, out: Path) -> np.ndarray:
    """Write a checkpoint of LeRobot 0.3.3 and return its actions after loading it."""
    import torch
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    config = lerobot_config(case, ACTConfig, PolicyFeature, FeatureType, NormalizationMode)
    # In float64, as it reads them: it shares the memory of float32, and then saves them once only.
    wide = {
        k: {n: v.astype(np.float64) for n, v in of.items()} for k, of in statistics(case).items()
    }
    policy = ACTPolicy(config, dataset_stats=wide)
    filled(policy, skip=("normalize_", "unnormalize_"))
    policy.save_pretrained(out)
    policy = ACTPolicy.from_pretrained(out, strict=True)
    with torch.inference_mode():
        return np.stack([
            policy.predict_action_chunk(
                {k: v[None] for k, v in torch_observation(given, case).items()}
            )[0].numpy()
            for given in observations(case)
        ])  # fmt: skip


def plugin(case: str, out: Path) -> np.ndarray:
    """Write a checkpoint of imitact's model inside LeRobot and return its actions there."""
    import torch

    for folder in (ROOT / "integrations" / "lerobot_policy_imitact" / "src", ROOT / "src"):
        sys.path.insert(0, str(folder))
    import lerobot_policy_imitact
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    from imitact.models.config import ActConfig

    images = {
        f"observation.images.{n}": PolicyFeature(FeatureType.VISUAL, (3, *SIZE))
        for n in CASES[case]["cameras"]
    }
    crop = f"{CASES[case]['cameras'][0]}=8:56,0:72" if images else ""
    config = lerobot_policy_imitact.ImitactConfig(
        input_features={**images, **state_features(case, PolicyFeature, FeatureType)},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (JOINTS,))},
        device="cpu", push_to_hub=False, chunking="replay:10", rate_hz=50.0,
        net=ActConfig(
            chunk_size=CHUNK, input_height=32, input_width=48, crop=crop, backbone_width=16,
            backbone_stages=3, backbone_norm="batch", hidden_dim=DIM, num_heads=HEADS,
            dim_feedforward=FFN, encoder_layers=LAYERS, positions="tokens",
            use_vae=case != "four_cameras", vae_encoder_layers=1,
        ),
    )  # fmt: skip
    known = {key: {**of, "count": np.array([9])} for key, of in statistics(case).items()}
    policy = get_policy_class("imitact")(config, dataset_stats=known)
    filled(policy, skip=("statistics.",))
    for part in (policy, *make_pre_post_processors(config, dataset_stats=known)):
        part.save_pretrained(out)
    policy = get_policy_class("imitact").from_pretrained(out, strict=True)
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(out))
    with torch.inference_mode():
        return np.stack([
            after(policy.predict_action_chunk(before(torch_observation(given, case))))[0].numpy()
            for given in observations(case)
        ])  # fmt: skip


def act_policy(case: str, repo: Path) -> Any:
    """Return the released code's ACTPolicy, without its command line, CUDA and download."""
    import torchvision
    from torch import nn

    sys.modules.setdefault("IPython", types.SimpleNamespace(embed=None))  # type: ignore[arg-type]
    for folder in (repo / "detr", repo):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    real = torchvision.models.resnet18
    torchvision.models.resnet18 = lambda pretrained, **more: real(weights=None, **more)
    try:
        import policy as released
        from detr.models import build_ACT_model

        model = build_ACT_model(types.SimpleNamespace(
            lr_backbone=1e-5, masks=False, backbone="resnet18", dilation=False, hidden_dim=DIM,
            position_embedding="sine", dropout=0.1, nheads=HEADS, dim_feedforward=FFN,
            enc_layers=LAYERS, dec_layers=7, pre_norm=False, num_queries=CHUNK,
            camera_names=CASES[case]["cameras"],
        ))  # fmt: skip
    finally:
        torchvision.models.resnet18 = real
    found = released.ACTPolicy.__new__(released.ACTPolicy)
    nn.Module.__init__(found)
    found.model = model
    return found.eval()


def act_statistics(case: str) -> dict[str, np.ndarray]:
    """Return the released code's statistics, with deviations of at least 0.01 (get_norm_stats)."""
    found = {}
    for key, name in (("observation.state", "qpos"), ("action", "action")):
        known = statistics(case)[key]
        found[f"{name}_mean"] = known["mean"]
        found[f"{name}_std"] = np.clip(known["std"], 1e-2, np.inf)
    return {**found, "example_qpos": np.zeros((3, JOINTS), np.float32)}


def act(case: str, out: Path, repo: Path) -> np.ndarray:
    """Write a checkpoint of the released code and return its actions after loading it."""
    import torch

    policy = act_policy(case, repo)
    filled(policy)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(policy.state_dict(), out / "policy_best.ckpt")
    with (out / "dataset_stats.pkl").open("wb") as file:
        pickle.dump(act_statistics(case), file)
    return act_answers(case, out, repo)


def act_answers(case: str, folder: Path, repo: Path) -> np.ndarray:
    """Return the released code's actions with a checkpoint, as in its eval_bc."""
    import torch

    policy = act_policy(case, repo)
    policy.load_state_dict(torch.load(folder / "policy_best.ckpt"))
    with (folder / "dataset_stats.pkl").open("rb") as file:
        stats = pickle.load(file)  # noqa: S301  # the program's own way, on what was just written
    answers = []
    with torch.inference_mode():
        for given in observations(case):
            state = (given["state"] - stats["qpos_mean"]) / stats["qpos_std"]
            frames = np.stack([given["frames"][n].transpose(2, 0, 1) for n in given["frames"]])
            images = torch.from_numpy(frames / 255.0).float()[None]
            raw = policy(torch.from_numpy(state).float()[None], images)[0].numpy()
            answers.append(raw * stats["action_std"] + stats["action_mean"])
    return np.stack(answers).astype(np.float32)


def side(program: str, out: Path, repo: Path | None) -> None:
    """Write the program's checkpoints and actions; runs in the program's own Python."""
    import torch

    versions = f"torch {torch.__version__}"
    if program != "act":
        from importlib.metadata import version

        versions = f"lerobot {version('lerobot')}, {versions}"
        wanted = "0.6.1" if program == "plugin" else program.split("-")[1]
        if version("lerobot") != wanted:
            raise SystemExit(f"lerobot {wanted} is wanted, there is {version('lerobot')}")
    else:
        assert repo is not None
        command = ["git", "-C", str(repo), "rev-parse", "--short", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True)
        versions = f"tonyzhaozh/act {done.stdout.strip() or 'of unknown version'}, {versions}"
    for case in PROGRAMS[program]:
        folder = out / program / case
        if program == "lerobot-0.6.1":
            answers = lerobot_061(case, folder)
        elif program == "lerobot-0.3.3":
            answers = lerobot_033(case, folder)
        elif program == "plugin":
            answers = plugin(case, folder)
        else:
            assert repo is not None
            answers = act(case, folder, repo)
        np.savez_compressed(out / f"{program}-{case}.npz", action=answers, versions=versions)
        (out / f"{program}-{case}.json").write_text(manifest(folder))


def again(program: str, folder: Path, repo: Path | None) -> None:
    """Write the program's actions with imitact's exports; runs in the program's own Python."""
    for case in PROGRAMS[program]:
        if (folder / case).is_dir():
            if program == "act":
                assert repo is not None
                answers = act_answers(case, folder / case, repo)
            else:
                answers = lerobot_061_answers(case, folder / case)
            np.savez_compressed(folder / f"{case}.npz", action=answers)


def manifest(folder: Path) -> str:
    """Return the JSON files of a checkpoint, and names and shapes of all its tensors."""
    import torch
    from safetensors.torch import load_file

    files: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json":
            files[file.name] = json.loads(file.read_text())
        elif file.suffix in (".safetensors", ".ckpt"):
            read = load_file if file.suffix == ".safetensors" else torch.load
            files[file.name] = {n: list(t.shape) for n, t in read(file).items()}
    return json.dumps(files, separators=(",", ":")) + "\n"


# -- a checkpoint made again -----------------------------------------------------------------------


def recreate(program: str, case: str, folder: Path) -> None:
    """Recreate the checkpoint that a recorded manifest describes, with the same values."""
    import safetensors.torch
    import torch

    files = json.loads((FIXTURES / f"{program}-{case}.json").read_text())
    folder.mkdir(parents=True)
    for name, about in files.items():
        if name.endswith(".json"):
            (folder / name).write_text(json.dumps(about, indent=4))
            continue
        tensors = {n: torch.from_numpy(value_of(n, tuple(s), case)) for n, s in about.items()}
        if name.endswith(".safetensors"):
            tensors = {n: t.contiguous() for n, t in tensors.items()}
            safetensors.torch.save_file(tensors, folder / name)
        else:
            torch.save(tensors, folder / name)
    if program == "act":
        (folder / "dataset_stats.pkl").write_bytes(pickle.dumps(act_statistics(case)))


def value_of(name: str, shape: tuple[int, ...], case: str) -> np.ndarray:
    """Return the values of a weight, or of a statistic under any of its names."""
    known = statistics(case)
    if name.startswith("statistics."):
        what, _, statistic = name.removeprefix("statistics.").partition("_")
        keys = ["action"] if what == "action" else list(states(case))
        if statistic == "count":
            return np.full(shape, 9, np.float32)
        return np.concatenate([known[key][statistic] for key in keys])
    start, _, statistic = name.rpartition(".")
    for key, of in known.items():
        if start == key or start.endswith(f".buffer_{key.replace('.', '_')}"):
            wanted = np.array([9]) if statistic == "count" else of[statistic]
            return wanted.reshape(shape).astype(np.float32)
    return weights(name, shape).copy()


# -- imitact's side --------------------------------------------------------------------------------


def imported(program: str, case: str, folder: Path) -> Any:
    """Return the policy that imitact imports from a checkpoint."""
    from imitact.core.types import Camera
    from imitact.models.interop import act_release, lerobot_reader
    from imitact.models.interop.partial_spec import PartialSpec

    if program != "act":
        return lerobot_reader.read(folder, PartialSpec())
    cameras = tuple(Camera(name, *SIZE) for name in CASES[case]["cameras"])
    return act_release.read(folder, PartialSpec(cameras=cameras), num_heads=HEADS)


def answers(policy: Any, case: str) -> np.ndarray:
    """Return the actions of an imitact policy."""
    from imitact.core.types import Observation

    return np.stack([
        policy.chunk(Observation(given["state"], given["frames"])) for given in observations(case)
    ])  # fmt: skip


def exported(program: str, case: str, policy: Any, out: Path) -> bool:
    """Export a policy for a program; return whether the program can express it."""
    from imitact.core.errors import BadInput
    from imitact.models.interop import act_release, lerobot_writer

    try:
        (act_release if program == "act" else lerobot_writer).write(policy, out)
    except BadInput as error:
        print(f"  {case} for {program}: {error}")
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-python", help="Python of an environment with lerobot 0.6.1")
    parser.add_argument("--lerobot-033-python", help="the same with lerobot 0.3.3")
    parser.add_argument("--act-repo", type=Path, help="a clone of tonyzhaozh/act")
    parser.add_argument("--record", action="store_true", help="rewrite the fixtures")
    parser.add_argument("--case", choices=list(CASES), help="compare this case only")
    parser.add_argument("--side", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    parser.add_argument("--again", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        for program, cases in PROGRAMS.items():
            PROGRAMS[program] = tuple(case for case in cases if case == args.case)
    if args.side and args.again:
        again(args.side, args.again, args.act_repo)
        return 0
    if args.side:
        side(args.side, args.out, args.act_repo)
        return 0
    if not args.lerobot_python:
        parser.error("--lerobot-python is needed: the Python of an environment with lerobot 0.6.1")
    pythons = {"lerobot-0.6.1": args.lerobot_python, "plugin": args.lerobot_python}
    if args.lerobot_033_python:
        pythons["lerobot-0.3.3"] = args.lerobot_033_python
    if args.act_repo:
        pythons["act"] = args.lerobot_python
    with tempfile.TemporaryDirectory() as name:
        return compared(pythons, args.act_repo, Path(name), args.record, args.case)


def compared(
    pythons: dict[str, str], repo: Path | None, work: Path, record: bool, only: str | None
) -> int:
    more = [*(["--act-repo", str(repo)] if repo else []), *(["--case", only] if only else [])]
    agree = True

    def tell(what: str, case: str, got: np.ndarray, wanted: np.ndarray) -> None:
        nonlocal agree
        apart = float(np.max(np.abs(got - wanted)))
        agree &= apart <= ATOL
        print(
            f"{what}, {case}: actions at most {apart:.2g} apart (largest {abs(wanted).max():.2g})"
        )

    wanted: dict[tuple[str, str], np.ndarray] = {}
    outward = {"lerobot-0.6.1": work / "to-lerobot", "act": work / "to-act"}
    for program, python in pythons.items():
        command = [python, __file__, "--side", program, "--out", str(work), *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for case in PROGRAMS[program]:
            with np.load(work / f"{program}-{case}.npz", allow_pickle=False) as file:
                theirs, versions = file["action"], str(file["versions"])
            policy = imported(program, case, work / program / case).policy
            tell(f"from {program} ({versions})", case, answers(policy, case), theirs)
            for target, folder in outward.items():
                # A policy goes out as the program has a case of that name, whoever it came from.
                if target not in pythons or case not in PROGRAMS[target]:
                    continue
                there = folder / program
                if exported(target, case, policy, there / case):
                    wanted[target, f"{program}/{case}"] = theirs
            if record:
                FIXTURES.mkdir(parents=True, exist_ok=True)
                for suffix in (".npz", ".json"):
                    file_name = f"{program}-{case}{suffix}"
                    (FIXTURES / file_name).write_bytes((work / file_name).read_bytes())
    for target, folder in outward.items():
        for there in sorted(folder.iterdir()) if folder.is_dir() else ():
            command = [pythons[target], __file__, "--side", target, "--again", str(there), *more]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for case in PROGRAMS[target]:
                if (target, f"{there.name}/{case}") in wanted:
                    with np.load(there / f"{case}.npz", allow_pickle=False) as file:
                        got = file["action"]
                    tell(f"{there.name} into {target}", case, got,
                         wanted[target, f"{there.name}/{case}"])  # fmt: skip
    print("imported and exported policies act alike" if agree else "policies DIFFER")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
