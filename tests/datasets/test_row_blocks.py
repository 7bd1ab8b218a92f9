"""Row blocks: each row is read once, in blocks that fit in memory."""

from __future__ import annotations

import pytest

from imitact.datasets.row_blocks import in_blocks


@pytest.mark.parametrize(("start", "stop"), [(0, 20), (3, 4), (5, 17), (8, 8)])
@pytest.mark.parametrize("chunk_rows", [1, 4, 7, 1000])
@pytest.mark.parametrize("row_bytes", [1, 3 << 20, 1 << 40])
def test_blocks_give_every_row_once(start: int, stop: int, chunk_rows: int, row_bytes: int):
    read: list[tuple[int, int]] = []

    def rows(first: int, last: int) -> list[int]:
        read.append((first, last))
        return list(range(first, last))

    assert [*in_blocks(rows, start, stop, row_bytes, chunk_rows)] == list(range(start, stop))
    assert all(last > first for first, last in read)
    if row_bytes == 3 << 20 and chunk_rows == 1:
        assert all(last - first <= 2 for first, last in read)
    if row_bytes == 1 and chunk_rows == 4:
        assert len(read) == (stop > start)
