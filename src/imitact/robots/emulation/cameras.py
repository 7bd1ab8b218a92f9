"""Cameras of the bench: a process that draws frames at a rate and gives them to who asks.

Physics and ports never wait for a picture: the bench posts the coordinates of its scene in a
mailbox, and this process draws the newest ones when a frame is due. A frame that cannot be drawn in
time is left out, as by a camera that drops frames. Frames go

- into a mailbox for each camera, whose first time is that of the coordinates (the capture);
- from there into any process of this computer: `open_frames("bench:FOLDER/NAME")`;
- by ZMQ, for LeRobot's ZMQCamera.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import BadInput, RobotError, library_words, unknown_name
from imitact.core.types import Frame
from imitact.datasets.images import jpeg
from imitact.parallel.child_process import ParentPipe
from imitact.parallel.mailbox import Mailbox
from imitact.robots.emulation.pictures import make_pictures
from imitact.robots.timed_frames import frame_mailbox

SOCKET = "cameras.sock"
"""Name of the socket in the folder of a bench."""

PATH_PREFIX = "bench:"
"""Beginning of the path of a camera of a bench in robot.toml."""

CAMERA_FAULTS = ("", "frozen", "black")
"""What a camera can have: no frames any more, or black ones."""

_LONGEST_SOCKET = 100  # bytes; Linux has 108 for the path of a socket, macOS 104
_IDLE_S = 0.02
_MOST_CLIENTS = 16  # that have connected and not asked


@dataclass(frozen=True)
class CameraPlan:
    """What the process of the cameras draws.

    Attributes:
        kind: of the bench.
        task: of the ALOHA scene.
        cameras: names.
        height, width: of all frames, pixels.
        rate_hz: frames per second of each camera.
        exact: whether frames of the scene have the pixels of `AlohaEnv`.
        folder: of the bench, for the socket.
        zmq_port: TCP port of 127.0.0.1 for LeRobot's ZMQCamera; 0 takes a free one, None has none.
    """

    kind: str
    task: str
    cameras: tuple[str, ...]
    height: int
    width: int
    rate_hz: float
    exact: bool
    folder: Path
    zmq_port: int | None


class CameraStatistics:
    """How fast frames are drawn: numbers of frames, and the seconds that drawing took."""

    def __init__(self) -> None:
        self.drawn = self.left_out = 0
        self.wall_s = self.cpu_s = 0.0


def run_cameras(
    pipe: ParentPipe, plan: CameraPlan, pose: Mailbox, frames: Mapping[str, Mailbox]
) -> None:
    """Draw frames until the parent has gone. Runs in a process of its own."""
    pictures = make_pictures(
        plan.kind, plan.task, plan.cameras, plan.height, plan.width, exact=plan.exact
    )
    faults = dict.fromkeys(plan.cameras, "")
    statistics = CameraStatistics()
    with (
        contextlib.closing(pictures),
        contextlib.closing(FrameServer(plan.folder, frames)) as server,
        contextlib.closing(_publisher(plan)) as publisher,
    ):
        period_s, due_s, is_ready = 1.0 / plan.rate_hz, time.monotonic(), False
        while not pipe.parent_is_gone:
            while (order := pipe.next_order(0.0)) is not None:
                number, name, argument = order
                if name == "fault":
                    faults.update(argument)
                    pipe.answer(number, True, None)
                else:
                    pipe.answer(number, True, {"zmq_port": publisher.port, **vars(statistics)})
            now_s = time.monotonic()
            server.serve(max(0.0, min(_IDLE_S, due_s - now_s)))
            now_s = time.monotonic()
            mail = pose.read()
            if now_s < due_s or mail is None:
                if mail is None:
                    time.sleep(0.005)
                continue
            begin_s, begin_cpu_s = now_s, time.process_time()
            drawn: dict[str, Frame] = {}
            for camera in plan.cameras:
                if faults[camera] == "frozen":
                    continue
                frame = pictures.draw(mail.values, camera)
                drawn[camera] = np.zeros_like(frame) if faults[camera] == "black" else frame
                frames[camera].post(drawn[camera], float(mail.times[0]))
            publisher.publish(drawn, float(mail.times[0]))
            statistics.drawn += len(drawn)
            statistics.wall_s += time.monotonic() - begin_s
            statistics.cpu_s += time.process_time() - begin_cpu_s
            skipped = int((time.monotonic() - due_s) / period_s)
            statistics.left_out += skipped
            due_s += (skipped + 1) * period_s
            if not is_ready:
                is_ready = True
                pipe.ready()


class FrameServer:
    """Gives the mailboxes of cameras to other processes, through a socket in the bench's folder."""

    def __init__(self, folder: Path, frames: Mapping[str, Mailbox]) -> None:
        self._frames = dict(frames)
        self._path = folder / SOCKET
        check_folder(folder)
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self._path))
        self._path.chmod(0o600)  # who has a mailbox can also write to it
        self._socket.listen(16)
        self._clients: list[socket.socket] = []

    def serve(self, timeout_s: float) -> None:
        """Answer those who ask, or wait for one."""
        ready, _, _ = select.select([self._socket, *self._clients], [], [], timeout_s)
        for one in ready:
            if one is self._socket:
                with contextlib.suppress(OSError):  # it has gone already
                    self._welcome(self._socket.accept()[0])
            else:
                self._clients.remove(one)
                with contextlib.closing(one), contextlib.suppress(OSError):
                    self._answer(one, one.recv(200).decode("utf-8", "replace").strip())

    def _welcome(self, client: socket.socket) -> None:
        client.setblocking(False)
        self._clients.append(client)
        if len(self._clients) > _MOST_CLIENTS:  # the first one asked nothing
            self._clients.pop(0).close()

    def _answer(self, client: socket.socket, name: str) -> None:
        box = self._frames.get(name)
        if box is None:
            client.send(json.dumps({"cameras": list(self._frames)}).encode())
            return
        header = {"shape": box.shape, "dtype": box.dtype, "slots": box.slots}
        socket.send_fds(client, [json.dumps(header).encode()], [box.fileno()])

    def close(self) -> None:
        for one in (self._socket, *self._clients):
            one.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


def check_folder(folder: Path) -> None:
    """Refuse a folder whose name is too long for a socket in it."""
    if len(os.fsencode(folder / SOCKET)) > _LONGEST_SOCKET:
        raise BadInput(
            f"{folder}: the path is too long for a socket in it; give the bench a folder of at "
            f"most {_LONGEST_SOCKET - len(SOCKET) - 1} bytes"
        )


def open_frames(path: str, timeout_s: float = 10.0) -> Mailbox:
    """Return the mailbox of a camera of a bench that runs on this computer.

    Args:
        path: "bench:FOLDER/NAME", as `Bench.camera_path` gives it.
        timeout_s: for its answer.

    Raises:
        BadInput: the path is none of a bench's camera, or the bench has no such camera.
        RobotError: no bench answers there.
    """
    folder, _, name = path.removeprefix(PATH_PREFIX).rpartition("/")
    if not path.startswith(PATH_PREFIX) or not folder or not name:
        raise BadInput(f"{path} is no camera of a bench; expected {PATH_PREFIX}FOLDER/NAME")
    check_folder(Path(folder))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(Path(folder) / SOCKET))
            client.sendall(name.encode())
            data, descriptors, _, _ = socket.recv_fds(client, 4096, 1)
            answer: dict[str, Any] = json.loads(data or b"{}")
        except (OSError, ValueError) as error:
            raise RobotError(
                f"{path}: no bench gives its cameras there ({library_words(error)}); is "
                "`imitact robot simulate` running?"
            ) from None
    if "cameras" in answer:
        raise unknown_name("camera of the bench", name, answer["cameras"])
    if not descriptors or not answer:
        raise RobotError(f"{path}: the bench ended while it was asked")
    return Mailbox(descriptors[0], tuple(answer["shape"]), answer["dtype"], answer["slots"])


def frame_mailboxes(plan: CameraPlan) -> dict[str, Mailbox]:
    """Return an empty mailbox for each camera of a plan."""
    return {name: frame_mailbox(plan.height, plan.width) for name in plan.cameras}


def zmq_message(frames: Mapping[str, Frame], captured_s: float) -> bytes:
    """Return the message of LeRobot's image server (lerobot/cameras/zmq/image_server.py).

    LeRobot hands RGB frames to OpenCV's encoder, which takes them for BGR, and decodes likewise: in
    the JPEG images red and blue are exchanged. Every message has all cameras, because ZMQCamera
    silently takes another picture where its own is missing.
    """
    images = {
        name: base64.b64encode(jpeg(np.ascontiguousarray(frame[..., ::-1]))).decode()
        for name, frame in frames.items()
    }
    return json.dumps({"timestamps": dict.fromkeys(frames, captured_s), "images": images}).encode()


class _Silent:
    port: int | None = None

    def publish(self, frames: Mapping[str, Frame], captured_s: float) -> None: ...

    def close(self) -> None: ...


class ZmqPublisher:
    """Publishes frames on a port of 127.0.0.1. A camera without a new frame stops all of them."""

    def __init__(self, port: int, cameras: tuple[str, ...]) -> None:
        import zmq  # only LeRobot needs it

        self._cameras = cameras
        self._context: Any = zmq.Context()
        self._socket: Any = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 2)
        try:
            if port:
                self._socket.bind(f"tcp://127.0.0.1:{port}")
                self.port: int | None = port
            else:
                self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        except zmq.ZMQError as error:
            self.close()
            raise RobotError(
                f"port {port} of 127.0.0.1 cannot be used for frames ({library_words(error)})"
            ) from None

    def publish(self, frames: Mapping[str, Frame], captured_s: float) -> None:
        if len(frames) == len(self._cameras):
            self._socket.send(zmq_message(frames, captured_s))

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def _publisher(plan: CameraPlan) -> ZmqPublisher | _Silent:
    return _Silent() if plan.zmq_port is None else ZmqPublisher(plan.zmq_port, plan.cameras)
