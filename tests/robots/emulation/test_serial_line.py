"""The pseudo-terminal of an emulated bus: bytes, rates, exclusive use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imitact.core.errors import RobotError
from imitact.robots.emulation.serial_line import SerialLine, wire_time_s

serial = pytest.importorskip("serial")

Patiently = Callable[[Callable[[], bool]], None]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")


@pytest.fixture
def line() -> Iterator[SerialLine]:
    line = SerialLine()
    yield line
    line.close()


def test_bytes_pass_both_ways_unchanged(line: SerialLine, patiently: Patiently) -> None:
    every = bytes(range(256))
    with serial.Serial(line.path, 1_000_000, timeout=60) as port:
        port.write(every)
        got = bytearray()
        patiently(lambda: got.extend(line.receive()) or len(got) >= 256)
        assert got == every
        line.queue(every, 0.0)
        line.send_due(0.0)
        assert port.read(256) == every


def test_replies_leave_when_due_and_none_overtakes_another(line: SerialLine) -> None:
    with serial.Serial(line.path, timeout=0) as port:
        line.queue(b"late", 10.0)
        line.queue(b"next", 5.0)
        assert line.next_due_s() == 10.0
        line.send_due(9.9)
        assert port.read(8) == b""
        line.send_due(10.0)
        port.timeout = 60
        assert port.read(8) == b"latenext"
        assert line.next_due_s() is None


def test_a_driver_that_reads_nothing_blocks_nobody(line: SerialLine) -> None:
    with serial.Serial(line.path):
        for _ in range(200):
            line.queue(bytes(1000), 0.0)
        line.send_due(0.0)
    assert line.receive() == b""


@linux_only
@pytest.mark.parametrize("rate", [9600, 57_600, 1_000_000, 3_000_000, 250_000])
def test_the_rate_that_a_driver_sets_is_seen(line: SerialLine, rate: int) -> None:
    with serial.Serial(line.path, rate):
        assert line.baud_rate() == rate


def test_bytes_take_ten_bits_each() -> None:
    assert wire_time_s(100, 1_000_000) == pytest.approx(0.001)


@linux_only
def test_exclusive_use_is_seen_and_forgotten_with_its_driver(line: SerialLine) -> None:
    assert not line.is_exclusive()
    with serial.Serial(line.path, exclusive=True):
        assert line.is_exclusive()
    assert not line.is_exclusive()
    # In another process, as this one is never counted as a user.
    tiocexcl = 0x540C
    code = (
        "import fcntl, os, sys; port = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); "
        f"fcntl.ioctl(port, {tiocexcl}); print(flush=True); sys.stdin.read()"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, line.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert driver.stdout is not None
        driver.stdout.readline()
        assert line.users() == (driver.pid,)
        assert line.is_exclusive()
        line.forget_exclusive_use()
        assert line.is_exclusive()
    finally:
        driver.communicate()
    assert line.users() == ()
    line.forget_exclusive_use()
    assert not line.is_exclusive()


def test_a_driver_gets_an_error_when_the_adapter_goes(line: SerialLine) -> None:
    port = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
    line.close()
    with pytest.raises(OSError, match="Input/output error"):
        os.write(port, b"x")
    os.close(port)
    assert line.receive() == b""
    line.queue(b"x", 0.0)
    line.send_due(1.0)
    line.close()


def test_a_link_names_the_port_and_goes_with_it(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to("/dev/pts/nothing")
    line = SerialLine(link)
    assert line.path == str(link)
    assert os.path.realpath(link).startswith("/dev/")
    other = SerialLine(link)
    line.close()
    assert link.is_symlink()  # it is the other's now
    other.close()
    assert not link.is_symlink()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(RobotError, match="is a file, not a link"):
        SerialLine(file)
    assert file.read_text() == "precious"


def test_a_line_closes_what_it_opened() -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        SerialLine().close()
    assert len(os.listdir("/dev/fd")) == before
