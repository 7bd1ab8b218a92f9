"""LeRobot's processors around imitact's ACT: a batch dimension and a device, no normalisation."""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    PolicyAction,
    PolicyProcessorPipeline,
    make_default_pre_post_processors,
)

from lerobot_policy_imitact.configuration_imitact import ImitactConfig


def make_imitact_pre_post_processors(
    config: ImitactConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]:
    """The usual steps. The normalizer is among them, since LeRobot overrides it by name, and does
    nothing: every mode of the config is IDENTITY."""
    return make_default_pre_post_processors(config, dataset_stats)
