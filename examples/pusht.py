"""Pushes the T of gym-pusht towards its goal: gets behind it, then straight on.

imitact record --env gym:gym_pusht/PushT-v0 --gym.make '{"obs_type": "pixels_agent_pos"}' \
    --gym.success-reward 0.6 --expert examples/pusht.py:Push --episodes 5 --out runs/pusht
"""

import numpy as np

REACH, BESIDE = 95.0, 25.0  # px: how far behind the block to stand, how exactly in line


class Push:
    def __init__(self, spec):
        self.spec = spec

    def reset(self, seed):
        pass  # it has nothing to remember

    def chunk(self, observation):
        info, agent = observation.privileged.info, observation.state
        block, goal = np.array(info["block_pose"])[:2], np.array(info["goal_pose"])[:2]
        ahead = (goal - block) / max(np.linalg.norm(goal - block), 1e-6)
        aside = np.array([-ahead[1], ahead[0]])
        along, beside = (agent - block) @ ahead, (agent - block) @ aside
        if along < 0 and abs(beside) < BESIDE:  # behind the block: push
            target = agent + 20 * ahead - 0.5 * beside * aside
        elif along < -REACH / 2:  # in line
            target = block - REACH * ahead
        else:  # around it
            target = block - REACH * ahead + 1.5 * REACH * np.copysign(1.0, beside) * aside
        return np.clip(target, 10, 502)[None]
