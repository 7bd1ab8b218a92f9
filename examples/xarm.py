"""Lifts the cube of gym-xarm: over it, down, close, and up as far as the arm goes."""

import numpy as np

OVER, LOW = 0.06, 0.02  # m: the fingers above the cube on their way, and below its middle to close
NEAR, DOWN = 0.012, 0.01  # m: how exactly over it to be before going down, and down before closing
GAIN = 20.0  # of full speed, per metre that is left
HELD = 0.2  # rad: from here on the fingers hold the cube


class Lift:
    def __init__(self, spec):
        self.spec = spec

    def reset(self, seed):
        self.closing = False

    def chunk(self, observation):
        env, finger = observation.privileged.env, observation.state[3]
        away = env.obj - env.eef
        over = np.linalg.norm(away[:2]) < NEAR
        self.closing = self.closing or (over and away[2] > LOW - DOWN)
        if self.closing:
            move = [0.0, 0.0, float(finger > HELD)]
        else:
            move = GAIN * (away + np.array([0.0, 0.0, -LOW if over else OVER]))
        return np.clip([[*move, 1.0 if self.closing else -1.0]], -1.0, 1.0)
