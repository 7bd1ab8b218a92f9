"""LeRobot settings: imitact's network and chunking as a policy config of LeRobot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, get_type_hints

import draccus
from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig

from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.models.config import MODEL_JSON_KEYS, MODEL_PRESETS, ActConfig

STATES = ("observation.state", "observation.environment_state")
"""LeRobot's features that imitact's states are, in order."""

_HINTS = get_type_hints(ActConfig)
_TYPES = {f.name: _HINTS[f.name] for f in fields(ActConfig)}

NetSettings = make_dataclass(
    "NetSettings",
    [
        (name, kind | None, None)
        for name, kind in (
            *_TYPES.items(),
            *((key, _TYPES[name]) for name, key in MODEL_JSON_KEYS.items()),
        )
    ],
    frozen=True,
)
"""Settings of ActConfig, None where not given, by field name (options) or by key (config.json)."""

draccus.encode.register(ActConfig, lambda config, _=None: config.to_json())


@PreTrainedConfig.register_subclass("imitact")
@dataclass
class ImitactConfig(PreTrainedConfig):
    """imitact's network and chunking.

    LeRobot normalizes nothing: the policy does, as everywhere in imitact, with statistics that are
    among its weights.
    """

    net: NetSettings = field(default_factory=NetSettings)  # type: ignore[valid-type]
    """Settings of the network, named as `--model.…` of `imitact train`. An ActConfig once the
    config is built."""

    preset: str = ""
    """Preset that the network's settings start from: released, paper or quick. Settings given in
    `net` override it."""

    chunking: str = "replay:50"
    """Chunk execution: replay:N executes N ticks of each chunk; ensemble:M averages the chunks of
    every tick with weights exp(-M·i); ensemble:M/E predicts a chunk every E ticks."""

    state_names: list[str] = field(default_factory=list)
    """Names of the measured values, in order; taken from the dataset."""

    action_names: list[str] = field(default_factory=list)
    """Names of the commanded values, in order; taken from the dataset."""

    rate_hz: float = 0.0
    """Control rate in ticks per second; taken from the dataset."""

    optimizer_lr: float = 1e-5
    """Learning rate of AdamW, as in the released code; `imitact train` uses 1e-4."""

    optimizer_lr_backbone: float = 1e-5
    """Learning rate of the image backbone."""

    optimizer_weight_decay: float = 1e-4

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            ("VISUAL", "STATE", "ACTION", "ENV"), NormalizationMode.IDENTITY
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset and self.preset not in MODEL_PRESETS:
            raise BadInput(f'no preset "{self.preset}"; there are {", ".join(MODEL_PRESETS)}')
        start = MODEL_PRESETS[self.preset] if self.preset else ActConfig()
        self.net = replace(start, **_given(self.net))
        self.preset = ""  # applied: config.json holds the network's settings
        self.chunking = Execution(self.chunking).chunking
        if set(self.normalization_mapping.values()) != {NormalizationMode.IDENTITY}:
            raise BadInput(
                "normalization_mapping must be IDENTITY for every kind; imitact normalizes itself"
            )

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay)

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        """Refuse features that imitact's network does not take."""
        if not self.state_sizes or self.action_feature is None:
            raise BadInput(
                "imitact needs action and observation.state (or observation.environment_state); "
                "the dataset has "
                + ", ".join([*(self.input_features or {}), *(self.output_features or {})])
            )
        if self.net.actions == "delta":
            raise BadInput(
                'net.actions "delta" needs statistics that LeRobot does not keep; use "absolute", '
                "or train with `imitact train`, which reads the same dataset"
            )

    def set_dataset_feature_metadata(self, features: Mapping[str, Any]) -> None:
        """Take the names of state and action from the dataset; called by LeRobot."""
        for keys, name in ((self.state_sizes, "state_names"), (("action",), "action_names")):
            own = [features[key] for key in keys if key in features]
            names = [leaf for feature in own for leaf in _leaves(feature.get("names"))]
            size = sum(feature.get("shape", (0,))[0] for feature in own)
            if len(names) == size and len(set(names)) == len(names):
                setattr(self, name, names)

    @property
    def state_sizes(self) -> dict[str, int]:
        """Sizes of the features that imitact's states are, by LeRobot's key, in order."""
        features = (self.robot_state_feature, self.env_state_feature)
        pairs = zip(STATES, features, strict=True)
        return {key: feature.shape[0] for key, feature in pairs if feature is not None}

    @property
    def chunk_size(self) -> int:
        """K, by the name that LeRobot uses."""
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


def _given(net: Any) -> dict[str, Any]:
    """Return the settings that are given, by field name; a field name takes precedence over a key.

    An ActConfig gives those that differ from its defaults.
    """
    if isinstance(net, ActConfig):
        default = ActConfig()
        pairs = ((name, getattr(net, name)) for name in _TYPES)
        return {name: value for name, value in pairs if value != getattr(default, name)}
    by_key = {n: v for n, key in MODEL_JSON_KEYS.items() if (v := getattr(net, key)) is not None}
    return by_key | {name: v for name in _TYPES if (v := getattr(net, name)) is not None}


def _leaves(names: Any) -> Iterator[str]:
    """Return names from any form that LeRobot keeps: a list, lists by group, or indices by name."""
    if isinstance(names, str):
        yield names
    elif isinstance(names, Mapping):
        for key, value in names.items():
            yield from _leaves(value if isinstance(value, (list, Mapping)) else str(key))
    elif isinstance(names, (list, tuple)):
        for value in names:
            yield from _leaves(value)
