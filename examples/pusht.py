"""Expert for gym-pusht: moves behind the T, then pushes it to the goal, off center to turn it."""

import numpy as np

REACH, BESIDE, NEAR = 95.0, 25.0, 6.0  # px: distance behind the T, tolerance across, at the goal
CENTER = np.array([0.0, 45.0])  # px: center of the T relative to the origin of its pose


class Push:
    def __init__(self, spec):
        self.spec = spec

    def reset(self, seed):
        pass  # it has no state

    def chunk(self, observation):
        info, agent = observation.privileged.info, observation.state
        (block, angle), (goal, wanted) = (center(info[n]) for n in ("block_pose", "goal_pose"))
        far = np.linalg.norm(goal - block)
        ahead = (goal - block) / max(far, 1e-6)
        across = np.array([-ahead[1], ahead[0]])
        turn = (wanted - angle + np.pi) % (2 * np.pi) - np.pi
        off = np.clip(-40 * turn, -40, 40) * across  # px off center
        along, beside = (agent - block) @ ahead, (agent - block - off) @ across
        if far < NEAR:
            target = agent
        elif along < 0 and abs(beside) < BESIDE:  # behind the block: push
            target = agent + min(20.0, far) * ahead - 0.5 * beside * across
        elif along < -REACH / 2:  # get in line
            target = block - REACH * ahead + off
        else:  # around it
            target = block - REACH * ahead + 1.5 * REACH * np.copysign(1.0, beside) * across
        return np.clip(target, 10, 502)[None]


def center(pose):
    x, y, angle = pose
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.array([x, y]) + rotation @ CENTER, angle
