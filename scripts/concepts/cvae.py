"""Figure on the CVAE: information in the latent over the weight of the KL term.

Half of the demonstrations pass an obstacle on the left and half on the right, from the same start.
The side is one bit of information, ln 2 = 0.69 nats. The network is imitact's `Act`, small and
without cameras, with ACT's loss; `measure` records what each training reached.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from concepts.style import BLUE, FAINT, GREEN, ORANGE, label, panels
from imitact.models.act import Act
from imitact.models.config import ActConfig

NUMBERS = Path(__file__).parents[2] / "benchmarks" / "results" / "cvae.json"
K = 20
BETAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
STEPS = 1500
BATCH = 64
SHOWN = 2  # predictions kept, one per side


def demonstrations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return sideways positions in m, (count, K): random arcs to either side."""
    side = np.where(np.arange(count) % 2, 1.0, -1.0)
    size = side * rng.normal(0.2, 0.02, count)
    return size[:, None] * np.sin(np.pi * np.arange(1, K + 1) / K)


def _normalized(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, ...]:
    arcs = demonstrations(rng, count)
    action = torch.as_tensor(arcs / 0.14, dtype=torch.float32)[..., None]
    return torch.zeros(count, 1), action, torch.zeros(count, K, dtype=torch.bool)


def _trained(beta: float) -> dict[str, Any]:
    config = ActConfig(
        chunk_size=K, backbone_norm="batch", hidden_dim=32, num_heads=2, dim_feedforward=64,
        encoder_layers=1, vae_encoder_layers=1, latent_dim=4, kl_weight=beta, dropout=0.0,
    )  # fmt: skip
    weights = torch.Generator().manual_seed(0)
    net = Act(config, state_size=1, action_size=1, image_sizes=(), generator=weights)
    noise = torch.Generator().manual_seed(1)
    rng = np.random.default_rng(2)
    updates = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net.train()
    for _ in range(STEPS):
        state, action, is_pad = _normalized(rng, BATCH)
        drawn = torch.randn(BATCH, config.latent_dim, generator=noise)
        found = net.losses(net(state, [], action, is_pad, drawn), action, is_pad)
        updates.zero_grad()
        found.total.backward()
        updates.step()
    net.eval()
    with torch.inference_mode():
        state, action, is_pad = _normalized(np.random.default_rng(4), 512)
        drawn = torch.randn(512, config.latent_dim, generator=noise)
        with_posterior = net.losses(net(state, [], action, is_pad, drawn), action, is_pad)
        with_zero = net.losses(net(state, []), action, is_pad)
        predicted = net(state, [], action, is_pad, drawn * 0).action[:SHOWN, :, 0] * 0.14
        zero = net(state[:1], []).action[0, :, 0] * 0.14
    return {
        "kl_weight": beta,
        "kl_nats": round(float(with_posterior.kl), 5),
        "l1_posterior": round(float(with_posterior.l1), 5),
        "l1_zero": round(float(with_zero.l1), 5),
        "answers_posterior_m": [[round(float(v), 4) for v in row] for row in predicted],
        "answer_zero_m": [round(float(v), 4) for v in zero],
    }


def measure() -> None:
    """Train at each weight, 1500 steps of 64 in half a minute each, and record the results."""
    torch.set_num_threads(1)
    rows = [_trained(beta) for beta in BETAS]
    about = {"chunk": K, "steps": STEPS, "batch": BATCH, "torch": torch.__version__}
    head = json.dumps(about)[:-1]
    lines = ",\n ".join(json.dumps(row) for row in rows)
    NUMBERS.write_text(f'{head}, "rows": [\n {lines}\n]}}\n', encoding="utf-8")


def draw() -> str:
    """Draw predictions at two weights (left), and information and error by weight (right)."""
    rows = {row["kl_weight"]: row for row in json.loads(NUMBERS.read_text())["rows"]}
    weights = list(rows)
    along = np.arange(1, K + 1) / K
    with panels(2) as ((left, right), svg):
        for arc in demonstrations(np.random.default_rng(4), 24):
            left.plot(along, arc, color=FAINT, linewidth=0.7, alpha=0.6)
        for answer in rows[0.01]["answers_posterior_m"]:
            left.plot(along, answer, color=GREEN)
        left.plot(along, rows[10.0]["answer_zero_m"], color=BLUE)
        left.set(
            xlabel="fraction of the chunk", ylabel="sideways, m", ylim=(-0.3, 0.3), xlim=(0, 1)
        )
        label(left, 0.5, 0.262, "weight 0.01, z from the actions", GREEN, ha="center")
        label(left, 0.5, 0.02, "weight 10, z without information", BLUE, ha="center")
        label(left, 0.5, -0.285, "24 demonstrations", FAINT, ha="center")
        left.set_title("two ways past an obstacle", y=1.02)
        right.semilogx(weights, [rows[w]["kl_nats"] for w in weights], color=ORANGE, marker="o",
                       markersize=3.5)  # fmt: skip
        right.semilogx(weights, [rows[w]["l1_posterior"] for w in weights], color=GREEN,
                       marker="o", markersize=3.5)  # fmt: skip
        right.axhline(np.log(2), color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        right.axvline(10.0, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
        label(right, 0.009, 2.35, "KL: information in z, nats", ORANGE)
        label(right, 0.0035, 0.2, "L1 with that z", GREEN)
        label(right, 0.0035, 0.76, "one bit", FAINT)
        label(right, 9.0, 1.9, "the paper's 10", FAINT, ha="right")
        right.set(xlabel="kl_weight", ylabel="KL, nats; L1, normalized")
        right.set_title("information in z by KL weight", y=1.02)
    return svg[0]
