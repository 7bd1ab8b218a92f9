"""The settings of imitact's ACT inside LeRobot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig

from imitact.core.chunking import Execution
from imitact.core.errors import BadInput
from imitact.models.config import MODEL_PRESETS, ActConfig


@PreTrainedConfig.register_subclass("imitact")
@dataclass
class ImitactConfig(PreTrainedConfig):
    """imitact's network and chunking.

    LeRobot normalises nothing for it: the policy does, as imitact does everywhere, with statistics
    that are among its weights.
    """

    net: ActConfig = field(default_factory=ActConfig)
    """The network, as `--model.…` of `imitact train`."""

    preset: str = ""
    """Where the network's settings start from: released, paper or quick. Those of `net` that are
    not its defaults override the preset's."""

    chunking: str = "replay:50"
    """How chunks become actions: replay:N executes N ticks of each, ensemble:M averages them with
    weights exp(-M·i), asking at every tick (ensemble:M/E: every E ticks)."""

    state_names: list[str] = field(default_factory=list)
    """Of the measured values, in order; taken from the dataset."""

    action_names: list[str] = field(default_factory=list)
    """Of the commanded values, in order; taken from the dataset."""

    rate_hz: float = 0.0
    """Ticks a second; taken from the dataset."""

    optimizer_lr: float = 1e-5
    """Of AdamW. The released code's; imitact's own trainings take 1e-4 (`imitact train --help`)."""

    optimizer_lr_backbone: float = 1e-5
    """Of the image trunk."""

    optimizer_weight_decay: float = 1e-4

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            ("VISUAL", "STATE", "ACTION", "ENV"), NormalizationMode.IDENTITY
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset:
            if self.preset not in MODEL_PRESETS:
                raise BadInput(f"no preset {self.preset!r}; there are {list(MODEL_PRESETS)}")
            usual = ActConfig()
            told = {f.name: getattr(self.net, f.name) for f in fields(usual)}
            changed = {n: v for n, v in told.items() if v != getattr(usual, n)}
            self.net = replace(MODEL_PRESETS[self.preset], **changed)
            self.preset = ""  # applied: what is saved is the network's settings
        self.chunking = Execution(self.chunking).chunking
        if set(self.normalization_mapping.values()) != {NormalizationMode.IDENTITY}:
            raise BadInput(
                "normalization_mapping must be IDENTITY for every kind; imitact normalises itself"
            )

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay)

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        """Refuses what imitact's network has no place for."""
        if self.robot_state_feature is None or self.action_feature is None:
            raise BadInput(
                "imitact needs 'observation.state' and 'action'; the dataset has "
                f"{[*(self.input_features or {}), *(self.output_features or {})]}"
            )
        if self.env_state_feature is not None:
            raise BadInput("imitact's network has no place for an environment state")
        if self.net.actions == "delta":
            raise BadInput(
                "net.actions 'delta' needs statistics that LeRobot does not keep; use 'absolute', "
                "or train with `imitact train`, which reads the same dataset"
            )

    def set_dataset_feature_metadata(self, features: Mapping[str, Any]) -> None:
        """LeRobot tells what the dataset calls its values."""
        for key, name in (("observation.state", "state_names"), ("action", "action_names")):
            feature = features.get(key, {})
            names = list(_leaves(feature.get("names")))
            if len(names) == feature.get("shape", (0,))[0] and len(set(names)) == len(names):
                setattr(self, name, names)

    @property
    def chunk_size(self) -> int:
        """K; LeRobot asks for it by this name."""
        return self.net.chunk_size

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.net.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None


def _leaves(names: Any) -> Iterator[str]:
    """Names as LeRobot keeps them: a list, or lists by group, or places by name."""
    if isinstance(names, str):
        yield names
    elif isinstance(names, Mapping):
        for key, value in names.items():
            yield from _leaves(value if isinstance(value, (list, Mapping)) else str(key))
    elif isinstance(names, (list, tuple)):
        for value in names:
            yield from _leaves(value)
