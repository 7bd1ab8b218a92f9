"""Expert for gym-xarm: moves above the cube, down, closes the gripper, and lifts it."""

import numpy as np

OVER, LOW = 0.06, 0.02  # m: fingers above the cube on the way, below its center to grasp
NEAR, DOWN = 0.012, 0.01  # m: tolerances before the descent, and before closing
GAIN = 20.0  # fraction of full speed per m of distance
HELD = 0.2  # rad: finger position from which the cube is held


class Lift:
    def __init__(self, spec):
        self.spec = spec

    def reset(self, seed):
        self.closing = False

    def chunk(self, observation):
        env, finger = observation.privileged.env, observation.state[3]
        to_cube = env.obj - env.eef
        over = np.linalg.norm(to_cube[:2]) < NEAR
        self.closing = self.closing or (over and to_cube[2] > LOW - DOWN)
        if self.closing:
            move = [0.0, 0.0, float(finger > HELD)]
        else:
            move = GAIN * (to_cube + np.array([0.0, 0.0, -LOW if over else OVER]))
        return np.clip([[*move, 1.0 if self.closing else -1.0]], -1.0, 1.0)
