"""Pictures of the bench: equal or near to AlohaEnv's, and what LeRobot's camera makes of them."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.datasets.images import decode
from imitact.envs.aloha import AlohaEnv
from imitact.robots.emulation.cameras import zmq_message
from imitact.robots.emulation.pictures import SketchPictures, make_pictures


@pytest.mark.parametrize(("exact", "bound"), [(True, 0.0), (False, 2.5)])
def test_frames_of_the_scene_are_those_of_aloha_env(exact: bool, bound: float) -> None:
    env = AlohaEnv("cube", ("top",), 60, 80)
    observation = env.reset(2)
    pictures = make_pictures("aloha", "cube", ("top",), 60, 80, exact=exact)
    frame = pictures.draw(observation.privileged.qpos, "top")
    expected = observation.frames["top"]
    pictures.close()
    env.close()
    assert frame.shape == expected.shape
    assert frame.dtype == np.uint8
    assert np.abs(frame.astype(int) - expected).mean() <= bound


def test_a_sketch_shows_every_joint() -> None:
    pictures, rest = SketchPictures(60, 80), np.zeros(12)
    still = pictures.draw(rest, "front")
    assert np.array_equal(still, pictures.draw(rest, "front"))
    for joint in range(12):
        moved = rest.copy()
        moved[joint] = 0.5
        assert (pictures.draw(moved, "front") != still).any(), joint


def test_lerobots_camera_gets_the_colours_that_were_drawn() -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[..., 0], frame[..., 1] = 200, 90
    message = json.loads(zmq_message({"top": frame, "side": frame}, 1.5))
    assert message["timestamps"] == {"top": 1.5, "side": 1.5}
    image = decode(base64.b64decode(message["images"]["side"]), (16, 16))
    as_opencv_decodes = image[..., ::-1]
    assert np.abs(as_opencv_decodes.astype(int) - frame).max() < 8


def test_cameras_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadInput, match="Did you mean top"):
        make_pictures("aloha", "cube", ("topp",), 60, 80, exact=False)
    with pytest.raises(BadInput, match="each may be named once"):
        make_pictures("so101", "cube", ("a", "a"), 60, 80, exact=False)
    with pytest.raises(BadInput, match="frames of 0x80 pixels"):
        make_pictures("so101", "cube", ("a",), 0, 80, exact=False)
