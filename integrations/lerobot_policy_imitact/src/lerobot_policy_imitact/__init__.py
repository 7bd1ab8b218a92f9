"""LeRobot plugin: imitact's ACT; importing this registers `--policy.type=imitact`."""

from lerobot_policy_imitact.configuration_imitact import ImitactConfig

__all__ = ["ImitactConfig"]
