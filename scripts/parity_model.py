"""Model parity: imitact's ACT against LeRobot 0.6.1's, losses, gradients and actions.

    python scripts/parity_model.py --lerobot-python PATH            # live, both sides
    python scripts/parity_model.py --lerobot-python PATH --record   # and rewrite the fixtures

--case NAME compares one case only. PATH is the Python of an environment with lerobot 0.6.1 (3.12);
imitact runs in this process. Both sides fill their weights from NumPy generators keyed by parameter
name. CPU, float32, no dropout. tests/models/test_parity.py compares imitact with the recorded
outputs of LeRobot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "model_parity"
RTOL, ATOL = 1e-4, 1e-5

BATCH, CHUNK, JOINTS, LATENT = 2, 100, 14, 32
CASES: dict[str, dict[str, tuple[int, int]]] = {
    "one_camera": {"top": (64, 96)},
    # Sizes alternate: cameras of one size must keep their positions among the tokens.
    "four_cameras": {
        "top": (64, 96),
        "left_wrist": (64, 64),
        "front_close": (64, 96),
        "right_wrist": (64, 64),
    },
    "environment_state": {},
}
ENVIRONMENT = {"environment_state": 6}
"""Numbers of the environment's states, which follow the joints."""
# Names of random frames, by size. Where a ReLU of the backbone is within rounding of its kink, the
# gradient depends on the last bit and differs between builds of torch. Of 80 random frames these
# keep every ReLU and every max pooling at least 20 times its rounding error away from that.
FRAMES: dict[tuple[int, int], tuple[int, ...]] = {
    (64, 96): (0, 25, 61, 75),
    (64, 64): (42, 64, 38, 17),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def generator(key: str) -> np.random.Generator:
    """Return the NumPy generator for a name."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return values for a parameter or buffer, by imitact's name."""
    rng = generator(name)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    values = rng.standard_normal(shape)
    if name in ("queries", "token_pos", "cvae.cls"):  # embeddings, so the fan-in is 1
        return values.astype(np.float32)
    if len(shape) > 1:
        return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    scale = name.endswith(".weight")  # weights with one axis belong to norms
    return (scale + 0.1 * values).astype(np.float32)


def inputs(case: str) -> dict[str, Any]:
    """Return a batch in physical units, and the noise of z."""
    rng = generator(f"inputs of {case}")
    is_pad = np.zeros((BATCH, CHUNK), dtype=bool)
    is_pad[1, 70:] = True
    supply = {size: iter(names) for size, names in FRAMES.items()}

    def frames(size: tuple[int, int]) -> np.ndarray:
        named = (generator(f"frame {next(supply[size])}") for _ in range(BATCH))
        return np.stack([g.integers(0, 256, (*size, 3), dtype=np.uint8) for g in named])

    given = {
        "frames": {name: frames(size) for name, size in CASES[case].items()},
        "state": rng.standard_normal((BATCH, JOINTS)).astype(np.float32),
        "action": rng.standard_normal((BATCH, CHUNK, JOINTS)).astype(np.float32),
        "is_pad": is_pad,
        "noise": rng.standard_normal((BATCH, LATENT)).astype(np.float32),
        "mean": rng.uniform(-0.5, 0.5, JOINTS),
        "std": rng.uniform(0.5, 1.5, JOINTS),
    }
    # As it is: LeRobot does not normalize it by default.
    environment = rng.standard_normal((BATCH, ENVIRONMENT.get(case, 0))).astype(np.float32)
    return {**given, "environment": environment}


def gradients(named: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return norm and projection on a random direction of each parameter's gradient."""
    names = sorted(named)
    norms, along = [], []
    for name in names:
        gradient = named[name].grad.detach().numpy().astype(np.float64).ravel()
        direction = generator(f"direction of {name}").standard_normal(gradient.size)
        norms.append(np.linalg.norm(gradient))
        along.append(gradient @ direction / np.linalg.norm(direction))
    return {
        "gradient_names": np.array(names),
        "gradient_norms": np.array(norms),
        "gradient_along": np.array(along),
    }


# -- imitact's side --------------------------------------------------------------------------


def imitact_side(case: str) -> dict[str, np.ndarray]:
    import torch

    from imitact.core.feature_statistics import Stats
    from imitact.core.types import Camera, Spec
    from imitact.models.config import ActConfig
    from imitact.models.policy import TorchPolicy

    given = inputs(case)
    names = tuple(f"joint_{i}" for i in range(JOINTS))
    size = ENVIRONMENT.get(case, 0)
    spec = Spec(
        state_names=(*names, *(f"environment_state_{i}" for i in range(size))),
        action_names=names,
        state_units=("rad",) * JOINTS + ("m",) * size,
        action_units=("rad",) * JOINTS,
        cameras=tuple(Camera(name, *size) for name, size in CASES[case].items()),
        rate_hz=50,
        environment_size=size,
    )

    def stats(mean: np.ndarray, std: np.ndarray) -> Stats:
        return Stats(mean, std, mean - 5, mean + 5, 1000)

    mean, std = (
        np.concatenate([given[name], np.full(size, value)])
        for name, value in (("mean", 0.0), ("std", 1.0))
    )
    policy = TorchPolicy.create(
        spec,
        {"state": stats(mean, std), "action": stats(given["mean"], given["std"])},
        ActConfig(pretrained_backbone="none", dropout=0.0),
        seed=0,
        fingerprint="parity",
    )
    net = policy.net.eval()
    filled = {k: torch.from_numpy(weights(k, tuple(v.shape))) for k, v in net.state_dict().items()}
    net.load_state_dict(filled)
    batch = {
        "state": torch.from_numpy(np.hstack([given["state"], given["environment"]])),
        "action": torch.from_numpy(given["action"]),
        "is_pad": torch.from_numpy(given["is_pad"]),
        "frames": {n: torch.from_numpy(f) for n, f in given["frames"].items()},
    }
    answer: dict[str, Any] = {}
    original = net.losses

    def listen(prediction: Any, *rest: Any) -> Any:
        answer["mean"], answer["logvar"] = prediction.mean, prediction.logvar
        return original(prediction, *rest)

    net.losses = listen  # type: ignore[method-assign]
    losses = policy.loss(batch, noise=torch.from_numpy(given["noise"]))
    losses.total.backward()
    return {
        "action": policy.predict(batch).numpy(),
        "mean": answer["mean"].detach().numpy(),
        "logvar": answer["logvar"].detach().numpy(),
        "losses": np.array([x.item() for x in losses]),
        "parameters": np.array(sum(p.numel() for p in net.parameters())),
        **gradients(dict(net.named_parameters())),
    }


# -- LeRobot's side --------------------------------------------------------------------------


def our_name(theirs: str) -> str:
    """Return imitact's name of a LeRobot parameter (without its `model.`)."""
    from imitact.models.interop.lerobot_layout import NAMES
    from imitact.models.interop.weight_conversion import renamed

    return renamed(theirs, NAMES)


def lerobot_side(case: str) -> dict[str, np.ndarray]:
    import lerobot
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    given = inputs(case)
    cameras = {n: f"observation.images.{n}" for n in CASES[case]}
    environment = {}
    if size := ENVIRONMENT.get(case):
        key = "observation.environment_state"
        environment[key] = PolicyFeature(FeatureType.ENV, (size,))
    config = ACTConfig(
        input_features={
            **{
                cameras[n]: PolicyFeature(FeatureType.VISUAL, (3, *size))
                for n, size in CASES[case].items()
            },
            "observation.state": PolicyFeature(FeatureType.STATE, (JOINTS,)),
            **environment,
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (JOINTS,))},
        device="cpu",
        pretrained_backbone_weights=None,
        dropout=0.0,
    )
    policy = ACTPolicy(config)
    model = policy.model
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name == "vae_encoder_pos_enc":  # a table, not a weight
                continue
            ours = our_name(name)
            shape = tuple(value.shape)
            if ours == "image_proj.weight":  # a 1x1 convolution there, a matrix here
                shape = shape[:2]
            value.copy_(torch.from_numpy(weights(ours, shape)).view(value.shape))

    mean, std = given["mean"].astype(np.float32), given["std"].astype(np.float32)
    pixel_mean = np.array(IMAGENET_MEAN, dtype=np.float32)
    pixel_std = np.array(IMAGENET_STD, dtype=np.float32)

    def image(frames: np.ndarray) -> Any:
        pixels = (frames.astype(np.float32) / 255 - pixel_mean) / (pixel_std + np.float32(1e-8))
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())

    batch = {
        "observation.state": torch.from_numpy((given["state"] - mean) / (std + np.float32(1e-8))),
        "action": torch.from_numpy((given["action"] - mean) / (std + np.float32(1e-8))),
        "action_is_pad": torch.from_numpy(given["is_pad"]),
        "observation.environment_state": torch.from_numpy(given["environment"]),
        **{cameras[n]: image(f) for n, f in given["frames"].items()},
    }
    posterior: dict[str, Any] = {}

    def listen(_module: Any, _inputs: Any, output: Any) -> None:
        _, (posterior["mean"], posterior["logvar"]) = output

    noise = torch.from_numpy(given["noise"])
    drawn = torch.randn_like
    policy.train()  # LeRobot encodes actions in train mode only; its dropout is 0 here
    handle = model.register_forward_hook(listen)
    try:
        torch.randn_like = lambda *_args, **_kwargs: noise
        loss, parts = policy.forward(batch)
    finally:
        torch.randn_like = drawn
        handle.remove()
    loss.backward()
    named = {our_name(n): p for n, p in model.named_parameters()}
    return {
        "action": policy.predict_action_chunk(batch).numpy() * std + mean,
        "mean": posterior["mean"].detach().numpy(),
        "logvar": posterior["logvar"].detach().numpy(),
        "losses": np.array([loss.item(), parts["l1_loss"], parts["kld_loss"]]),
        "parameters": np.array(sum(p.numel() for p in model.parameters())),
        **gradients(named),
        "versions": np.array(f"lerobot {lerobot.__version__}, torch {torch.__version__}"),
    }


# -- comparison ------------------------------------------------------------------------------


def deviations(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the largest |ours - theirs| / (ATOL + RTOL * |theirs|) by quantity; 1 is the limit."""
    if ours["gradient_names"].tolist() != theirs["gradient_names"].tolist():
        raise ValueError(
            "the parameters differ: "
            f"{set(ours['gradient_names'].tolist()) ^ set(theirs['gradient_names'].tolist())}"
        )
    if ours["parameters"] != theirs["parameters"]:
        raise ValueError(f"{ours['parameters']} parameters, LeRobot {theirs['parameters']}")
    worst = {}
    for key in ("action", "mean", "logvar", "losses", "gradient_norms"):
        allowed = ATOL + RTOL * np.abs(theirs[key])
        worst[key] = float(np.max(np.abs(ours[key] - theirs[key]) / allowed))
    # A share along a direction may cancel to nothing, so it is measured by the norm.
    allowed = ATOL + RTOL * theirs["gradient_norms"]
    apart = np.abs(ours["gradient_along"] - theirs["gradient_along"])
    worst["gradient_along"] = float(np.max(apart / allowed))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-python", help="Python of an environment with lerobot 0.6.1")
    parser.add_argument("--record", action="store_true", help="rewrite the fixtures")
    parser.add_argument("--side", choices=["lerobot"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=list(CASES), help="compare this case only")
    args = parser.parse_args()
    cases = [args.case] if args.case else list(CASES)
    if args.side == "lerobot":
        for case in cases:
            np.savez_compressed(args.out / f"{case}.npz", **lerobot_side(case))
        return 0
    if not args.lerobot_python:
        parser.error("--lerobot-python is needed: the Python of an environment with lerobot 0.6.1")

    with tempfile.TemporaryDirectory() as name:
        out = FIXTURES if args.record else Path(name)
        out.mkdir(parents=True, exist_ok=True)
        only = ["--case", args.case] if args.case else []
        command = [args.lerobot_python, __file__, "--side", "lerobot", "--out", str(out), *only]
        subprocess.run(command, check=True)
        agree = True
        for case in cases:
            with np.load(out / f"{case}.npz", allow_pickle=False) as file:
                theirs = dict(file)
            worst = deviations(imitact_side(case), theirs)
            agree &= max(worst.values()) <= 1
            shares = json.dumps({k: round(v, 4) for k, v in worst.items()})
            print(f"{case}: {theirs['versions']}: share of the tolerance used: {shares}")
    print("imitact and LeRobot agree" if agree else "imitact and LeRobot DIFFER")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
