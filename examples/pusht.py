"""Pushes the T of gym-pusht to its goal: gets behind it, then on, off its middle to turn it."""

import numpy as np

REACH, BESIDE, NEAR = 95.0, 25.0, 6.0  # px: how far behind to stand, how exactly in line, done
MIDDLE = np.array([0.0, 45.0])  # px, of the T, from where its pose is measured


class Push:
    def __init__(self, spec):
        self.spec = spec

    def reset(self, seed):
        pass  # it has nothing to remember

    def chunk(self, observation):
        info, agent = observation.privileged.info, observation.state
        (block, angle), (goal, wanted) = (middle(info[n]) for n in ("block_pose", "goal_pose"))
        far = np.linalg.norm(goal - block)
        ahead = (goal - block) / max(far, 1e-6)
        aside = np.array([-ahead[1], ahead[0]])
        turn = (wanted - angle + np.pi) % (2 * np.pi) - np.pi
        off = np.clip(-40 * turn, -40, 40) * aside  # px beside the middle
        along, beside = (agent - block) @ ahead, (agent - block - off) @ aside
        if far < NEAR:
            target = agent
        elif along < 0 and abs(beside) < BESIDE:  # behind the block: push
            target = agent + min(20.0, far) * ahead - 0.5 * beside * aside
        elif along < -REACH / 2:  # get in line
            target = block - REACH * ahead + off
        else:  # around it
            target = block - REACH * ahead + 1.5 * REACH * np.copysign(1.0, beside) * aside
        return np.clip(target, 10, 502)[None]


def middle(pose):
    x, y, angle = pose
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.array([x, y]) + turned @ MIDDLE, angle
