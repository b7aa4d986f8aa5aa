"""Ragged stores: what is written comes back, in any order and part; half-written stores never appear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.stores import RaggedStore, RaggedWriter, new_folder
from benchmark.errors import UserError


def sequences(lengths: list[int], width: int = 3) -> list[np.ndarray]:
    return [np.full((n, width), i, dtype=np.float16) + np.arange(n)[:, None] / 16 for i, n in enumerate(lengths)]


def write(folder, lengths: list[int]) -> RaggedStore:
    with new_folder(folder) as temporary:
        writer = RaggedWriter(temporary, lengths, 3)
        for row, values in reversed(list(enumerate(sequences(lengths)))):
            writer.write(row, values)
        writer.close()
    return RaggedStore.open(folder)


def test_round_trip(tmp_path):
    lengths = [4, 0, 1, 7]
    store = write(tmp_path / "store", lengths)
    assert store.lengths.tolist() == lengths and store.width == 3 and len(store) == 4
    for row, values in enumerate(sequences(lengths)):
        np.testing.assert_array_equal(store[row], values)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_several_sequences_are_written_at_once(tmp_path):
    lengths = [4, 0, 1, 7]
    parts = sequences(lengths)
    with new_folder(tmp_path / "store") as folder:
        writer = RaggedWriter(folder, lengths, 3)
        for rows in (np.array([3, 0]), np.array([1, 2])):
            writer.write_many(rows, np.concatenate([parts[row] for row in rows]))
        with pytest.raises(ValueError, match=r"\(4, 3\) expected"):
            writer.write_many(np.array([0]), parts[3])
        writer.close()
    store = RaggedStore.open(tmp_path / "store")
    for row, values in enumerate(parts):
        np.testing.assert_array_equal(store[row], values)


@given(st.data())
def test_gather_equals_slicing(data):
    lengths = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.concatenate(sequences(lengths))
    store = RaggedStore(flat, offsets)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=6))
    stops = [data.draw(st.integers(0, lengths[row])) for row in rows]
    starts = [data.draw(st.integers(0, stop)) for stop in stops]
    values, counts = store.gather(np.array(rows, dtype=int), np.array(starts, dtype=int), np.array(stops, dtype=int))
    expected = [sequences(lengths)[row][start:stop] for row, start, stop in zip(rows, starts, stops, strict=True)]
    np.testing.assert_array_equal(values, np.concatenate([np.zeros((0, 3)), *expected]))
    assert counts.tolist() == [len(part) for part in expected]


def test_gather_refuses_rows_that_do_not_exist(tmp_path):
    store = write(tmp_path / "store", [2, 2])
    with pytest.raises(IndexError, match="sequence -1"):
        store.gather(np.array([-1]))
    with pytest.raises(IndexError, match="rows 0 to 3"):
        store.gather(np.array([0]), np.array([0]), np.array([3]))


def test_empty_store(tmp_path):
    assert write(tmp_path / "none", []).gather(np.array([], dtype=int))[0].shape == (0, 3)
    assert write(tmp_path / "zeros", [0, 0]).lengths.tolist() == [0, 0]


def test_failure_leaves_nothing_and_existing_folders_stay(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "store") as folder:
        (folder / "part").write_text("x")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    write(tmp_path / "store", [1])
    with pytest.raises(FileExistsError):
        write(tmp_path / "store", [2])
    assert RaggedStore.open(tmp_path / "store").lengths.tolist() == [1]


def test_incomplete_store_is_a_user_error(tmp_path):
    write(tmp_path / "store", [1])
    (tmp_path / "store" / "offsets.npy").unlink()
    with pytest.raises(UserError, match="complete store"):
        RaggedStore.open(tmp_path / "store")
