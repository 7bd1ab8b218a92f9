"""imitact's ACT as a policy of LeRobot; importing this registers `--policy.type=imitact`."""

from lerobot_policy_imitact.configuration_imitact import ImitactConfig

__all__ = ["ImitactConfig"]
