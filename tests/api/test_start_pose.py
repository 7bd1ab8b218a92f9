"""Start pose: the objects of the episode before have left the hands when the arms go there."""

from types import SimpleNamespace

import pytest

from imitact.api.robot_session import RobotSession
from imitact.api.run_robot import RunReport, _run_all
from imitact.api.teleoperate import Person
from imitact.robots.registry import SimOptions
from imitact.robots.simulated import Outcome


class Session:
    """A session that notes what it is told."""

    go_to_start = RobotSession.go_to_start

    def __init__(self, is_simulated: bool) -> None:
        outcome = Outcome(0, 1, 1.0, 1.0, True) if is_simulated else None
        self.setup = SimpleNamespace(outcome=outcome)
        self.recording = False
        self.calls: list[str] = []

    def on_line(self, text: str) -> None:
        self.calls.append(text.partition(":")[2].strip())

    def has_phase(self, name: str) -> bool:
        return True

    def run_phase(self, name: str, seconds: float | None = None) -> str:
        self.calls.append(name)
        return ""

    def place(self, seed: int) -> None:
        self.calls.append(f"place {seed}")

    def begin_episode(self) -> None: ...

    def drop_episode(self) -> None: ...


@pytest.mark.parametrize("is_simulated", [True, False])
def test_objects_leave_the_hands_before_the_arms_go_to_their_start(is_simulated: bool) -> None:
    """A gripper that holds the cube of the episode before stays open, and the policy, which has
    seen no such start, begins in the middle of its motion."""
    session, none = Session(is_simulated), lambda *_: None
    _run_all(session, Person(), RunReport(), 2, 1.0, SimOptions(seed=5), none, none)  # type: ignore[arg-type]
    placed = ["place 5", "start", "place 5", "policy", "place 6", "start", "place 6", "policy"]
    told = ["take out what a gripper holds", "start", "policy"]
    assert session.calls == (placed if is_simulated else told * 2)
