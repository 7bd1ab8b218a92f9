"""imitact: ACT, Action Chunking with Transformers, from demonstrations to a policy on your robot.

    policy = imitact.load_policy("runs/demo/training")
    env = imitact.make_env("cube")
    act = imitact.ActionExecutor(policy, "ensemble:0.01/10")
    observation = env.reset(seed=1000)
    for _ in range(env.step_cap):
        observation = env.step(act(observation)).observation

Names are imported when they are first used, so that `import imitact` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from imitact.core.version import __version__ as __version__

if TYPE_CHECKING:
    from imitact.api.evaluate import evaluate as evaluate
    from imitact.api.record import record as record
    from imitact.api.run_robot import replay_robot as replay_robot
    from imitact.api.run_robot import run_robot as run_robot
    from imitact.api.teleoperate import record_robot as record_robot
    from imitact.api.teleoperate import teleoperate as teleoperate
    from imitact.api.train import train as train
    from imitact.core.errors import BadInput as BadInput
    from imitact.core.errors import DamagedFile as DamagedFile
    from imitact.core.errors import DiskFull as DiskFull
    from imitact.core.errors import ImitactError as ImitactError
    from imitact.core.errors import NotFinite as NotFinite
    from imitact.core.errors import RobotError as RobotError
    from imitact.core.errors import SpecMismatch as SpecMismatch
    from imitact.core.executor import ActionExecutor as ActionExecutor
    from imitact.core.types import Camera as Camera
    from imitact.core.types import Dataset as Dataset
    from imitact.core.types import Env as Env
    from imitact.core.types import Episode as Episode
    from imitact.core.types import Observation as Observation
    from imitact.core.types import Policy as Policy
    from imitact.core.types import Robot as Robot
    from imitact.core.types import Spec as Spec
    from imitact.core.types import StepResult as StepResult
    from imitact.datasets.open import open_dataset as open_dataset
    from imitact.deploy.load_policy import load_policy as load_policy
    from imitact.envs.registry import make_env as make_env

# Module of each public name.
_MODULES = {
    "load_policy": "imitact.deploy.load_policy",
    "open_dataset": "imitact.datasets.open",
    "make_env": "imitact.envs.registry",
    "record": "imitact.api.record",
    "train": "imitact.api.train",
    "evaluate": "imitact.api.evaluate",
    "run_robot": "imitact.api.run_robot",
    "replay_robot": "imitact.api.run_robot",
    "teleoperate": "imitact.api.teleoperate",
    "record_robot": "imitact.api.teleoperate",
    "ActionExecutor": "imitact.core.executor",
    **dict.fromkeys(
        ("Camera", "Dataset", "Env", "Episode", "Observation", "Policy", "Robot", "Spec",
         "StepResult"),
        "imitact.core.types",
    ),
    **dict.fromkeys(
        ("BadInput", "DamagedFile", "DiskFull", "ImitactError", "NotFinite", "RobotError",
         "SpecMismatch"),
        "imitact.core.errors",
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module imitact has no attribute {name}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
