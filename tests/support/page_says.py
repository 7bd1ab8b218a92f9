"""Messages of the page of virtual leaders, as tests write them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from imitact.teleoperation.goals import Goal
from imitact.teleoperation.page_messages import PageLead, PageMessages


def message(
    n: int, clutch: int = 1, *, t: float | None = None, size: int = 2, **changes: Any
) -> str:
    """Return the n-th message, sent at 20 n ms unless `t` says another, without hands."""
    values = {
        "n": n,
        "t": 20.0 * n if t is None else t,
        "clutch": clutch,
        "hands": [],
        "joints": [None] * size,
    }
    return json.dumps({**values, **changes})


class Person:
    """Gives the messages of a page to a leader's mailboxes, without a browser or a server."""

    def __init__(self, robot: Any, boxes: Any, clock: Any, low: float = -3.0, high: float = 3.0):
        size = robot.spec.action_size
        self.messages = PageMessages(0, np.full(size, low), np.full(size, high))
        self.lead = PageLead(Goal((), None), lambda: robot.reading().values)
        self.boxes, self.clock, self.size = boxes, clock, size
        self.number = 0
        boxes.life.post(np.array([1.0, 0, 0, 0]), clock.now_s())

    def say(self, clutch: int, joints: list[float | None] | None = None, data: str = "") -> None:
        now_s = self.clock.now_s()
        self.number += not data
        changes = {} if joints is None else {"joints": joints}
        text = data or message(self.number, clutch, t=now_s * 1000, size=self.size, **changes)
        self.boxes.life.post(np.array([1.0, 0, 0, 0]), now_s)
        found = self.messages.take(text, now_s)
        if found is None:
            return
        pose, engaged = self.lead.update(found)
        if pose is not None:
            self.boxes.goal.post(np.append(pose, float(engaged)), found.sent_s, now_s)
