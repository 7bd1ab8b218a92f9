"""ALOHA's joints: names, units and rate that its datasets, its policies and its scene share.

Names and order are gym-aloha's (gym_aloha/constants.py, JOINTS), which follow tonyzhaozh/act: the
left arm first. A mobile ALOHA commands its base as well (MarkFzp/act-plus-plus).
"""

from __future__ import annotations

ARM_JOINTS = (
    "waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper",
)  # fmt: skip
"""One arm: six joints in rad and a normalized gripper, 0 closed to 1 open."""

ALOHA_JOINTS = tuple(f"{side}_arm_{name}" for side in ("left", "right") for name in ARM_JOINTS)
"""The 14 names of both state and action."""

ALOHA_UNITS = tuple("1" if name.endswith("gripper") else "rad" for name in ALOHA_JOINTS)

ALOHA_BASE = {"base_linear": "m/s", "base_angular": "rad/s"}
"""The two values of a mobile base's action, and their units."""

ALOHA_RATE_HZ = 50.0
"""Of every ALOHA recorder (DT = 0.02 s)."""
