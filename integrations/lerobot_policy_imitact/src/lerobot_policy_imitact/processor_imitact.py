"""LeRobot processors for imitact's ACT: they add a batch dimension and move to the device."""

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
    """Return LeRobot's default processors.

    They include the normalizer, which LeRobot overrides by name; it does nothing, since every mode
    of the config is IDENTITY.
    """
    return make_default_pre_post_processors(config, dataset_stats)
