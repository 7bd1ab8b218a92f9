"""Mailboxes: the newest post is read whole, from another process too."""

from __future__ import annotations

import multiprocessing
import os
import threading

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.parallel.mailbox import Mailbox


def test_the_newest_post_is_read_with_its_times():
    box = Mailbox.create((3,))
    assert box.read() is None
    box.post(np.arange(3.0), 1.0, 2.0)
    box.post(np.arange(3.0) + 1, 3.0)
    mail = box.read()
    assert mail is not None
    assert mail.sequence == box.newest == 2
    assert mail.values.tolist() == [1.0, 2.0, 3.0]
    assert mail.times.tolist() == [3.0, 0.0, 0.0, 0.0]


def test_older_posts_are_kept_as_long_as_there_are_slots():
    box = Mailbox.create((2, 2, 3), "|u1", slots=3)
    for value in range(1, 6):
        box.post(np.full((2, 2, 3), value, np.uint8))
    kept = {n: mail.values[0, 0, 0] for n in range(1, 7) if (mail := box.read(n)) is not None}
    assert kept == {3: 3, 4: 4, 5: 5}


def test_times_are_read_without_the_values():
    box = Mailbox.create((3,), slots=2)
    assert box.times() is None
    for value in (1.0, 2.0, 3.0):
        box.post(np.zeros(3), value)
    found = box.times(2)
    assert found is not None
    assert (found[0], found[1][0]) == (2, 2.0)
    newest = box.times()
    assert newest is not None
    assert newest[0] == 3
    assert box.times(1) is None  # overwritten


def test_a_post_that_is_overwritten_while_it_is_read_is_never_seen_torn():
    box = Mailbox.create((2000,), slots=2)
    stop = threading.Event()

    def write() -> None:
        value = 0.0
        while not stop.is_set():
            value += 1.0
            box.post(np.full(2000, value))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            mail = box.read()
            assert mail is None or np.ptp(mail.values) == 0
    finally:
        stop.set()
        writer.join()


def _echo(received: Mailbox, answer: Mailbox) -> None:
    mail = received.read()
    assert mail is not None
    answer.post(mail.values + 1, mail.times[0])


def test_a_spawned_process_reads_and_posts():
    box, answer = Mailbox.create((4,)), Mailbox.create((4,))
    box.post(np.ones(4), 7.0)
    process = multiprocessing.get_context("spawn").Process(target=_echo, args=(box, answer))
    process.start()
    process.join()
    mail = answer.read()
    assert mail is not None
    assert (mail.values.tolist(), mail.times[0]) == ([2.0] * 4, 7.0)


def test_a_single_slot_is_refused():
    with pytest.raises(BadInput, match="1 slots"):
        Mailbox.create((1,), slots=1)


def test_a_mailbox_that_is_used_no_more_keeps_no_descriptor():
    box = Mailbox.create((1,))
    number = box.fileno()
    os.fstat(number)
    box.close()
    box.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    box = Mailbox.create((1,))
    number = box.fileno()
    del box
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
