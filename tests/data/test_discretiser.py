"""The hourly array: golden vector, numbers of rows, and that no row ever depends on the future."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.channels import CHANNELS, EYE, FIRST_COLUMN, INDEX, VALUES, WIDTH, category_texts
from benchmark.data.discretiser import StayEvents, bins, discretise, discretise_stays, last_rows

HR, GLUCOSE, TEMPERATURE = (INDEX[name] for name in ("Heart Rate", "Glucose", "Temperature"))
EYE_TEXTS = category_texts(INDEX[EYE])


def column(array: np.ndarray, channel: int) -> tuple[list[float], list[float]]:
    return array[:, FIRST_COLUMN[channel]].tolist(), array[:, VALUES + channel].tolist()


def test_golden_vector():
    events = [
        (0.0, HR, 80),
        (0.4, HR, 90),
        (1.0, HR, 100),
        (1.2, GLUCOSE, 150),
        (3.7, HR, 70),
        (3.7, INDEX[EYE], EYE_TEXTS["to speech"]),
        (5.3, HR, 60),
        (6.0, HR, 50),
    ]
    array = discretise(*(np.array(part) for part in zip(*events, strict=True)), 5.3)
    assert array.shape == (6, 76) and array.dtype == np.float32
    assert column(array, HR) == ([100, 100, 100, 70, 70, 60], [1, 0, 0, 1, 0, 1])
    assert column(array, GLUCOSE) == ([128, 150, 150, 150, 150, 150], [0, 1, 0, 0, 0, 0])
    assert column(array, TEMPERATURE) == ([np.float32(36.6)] * 6, [0] * 6)
    # Eye opening has columns 4 to 11: "Spontaneously" is 10 (7 is the same in the older spelling), "To Speech" is 9.
    assert array[:, 4:12].argmax(1).tolist() == [6, 6, 6, 5, 5, 5] and (array[:, 4:12].sum(1) == 1).all()
    assert array[:, VALUES + INDEX[EYE]].tolist() == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(("end", "rows"), [(0.5, 1), (1, 1), (5, 5), (5.3, 6), (48, 48), (0, 0)])
def test_number_of_rows(end: float, rows: int):
    assert bins(end) == rows
    empty = np.array([])
    assert discretise(empty, empty.astype(int), empty, end).shape == (rows, WIDTH)


def test_event_on_the_hour_belongs_to_the_earlier_row():
    array = discretise(np.array([2.0, 2.0 + 1e-3]), np.array([HR, GLUCOSE]), np.array([50.0, 60.0]), 4)
    assert column(array, HR)[1] == [0, 1, 0, 0] and column(array, GLUCOSE)[1] == [0, 0, 1, 0]


def test_times_must_be_in_order():
    with pytest.raises(ValueError, match="not decrease"):
        discretise(np.array([2.0, 1.0]), np.array([HR, HR]), np.array([50.0, 60.0]), 4)


@st.composite
def stays(draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    event = st.tuples(
        st.one_of(st.integers(0, 8), st.floats(0, 8)), st.integers(0, len(CHANNELS) - 1), st.integers(0, 50)
    )
    events = sorted(draw(st.lists(event, max_size=40)), key=lambda e: e[0])
    hour, channel, value = (np.array([e[i] for e in events], dtype=t) for i, t in enumerate((float, int, float)))
    widths = np.array([c.width if not c.continuous else 1000 for c in CHANNELS])
    return hour, channel, value % widths[channel] if len(value) else value


@given(stays(), st.integers(1, 8))
def test_hours_are_a_prefix_of_the_longer_window(stay, end: int):
    np.testing.assert_array_equal(discretise(*stay, end), discretise(*stay, 8.5)[:end])


@given(stays(), st.floats(0.1, 8))
def test_later_events_change_no_earlier_row(stay, cut: float):
    hour, channel, value = stay
    early = hour <= cut
    complete = np.floor(cut - 1e-6).astype(int)  # rows that end before the cut, and the one it lies in
    with_future, without = discretise(*stay, 9), discretise(hour[early], channel[early], value[early], 9)
    np.testing.assert_array_equal(with_future[: max(complete, 0)], without[: max(complete, 0)])


@given(stays(), st.floats(0.1, 8.9))
def test_agrees_with_a_plain_loop(stay, end: float):
    hour, channel, value = stay
    array = discretise(*stay, end)
    last: dict[int, float] = {}
    for row in range(len(array)):
        seen = set()
        for h, c, v in zip(hour, channel, value, strict=True):
            if max(0, int(np.floor(h - 1e-6))) == row and h <= end + 1e-6:
                last[c] = v
                seen.add(c)
        assert array[row, VALUES:].tolist() == [float(c in seen) for c in range(len(CHANNELS))]
        for c, v in last.items():
            at = FIRST_COLUMN[c] + (0 if CHANNELS[c].continuous else int(v))
            assert array[row, at] == (np.float32(v) if CHANNELS[c].continuous else 1)
    for c, spec in enumerate(CHANNELS):
        if not spec.continuous:
            assert (array[:, FIRST_COLUMN[c] : FIRST_COLUMN[c] + spec.width].sum(1) == 1).all()


def joined(stays: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> StayEvents:
    start = np.cumsum([0, *(len(hour) for hour, _, _ in stays)])
    return StayEvents(start, *(np.concatenate(part) for part in zip(*stays, strict=True)))


ENDS = st.one_of(st.integers(0, 9), st.floats(0, 9)).map(float)


@given(st.lists(st.tuples(stays(), ENDS), min_size=1, max_size=5))
def test_many_stays_at_once_equal_one_after_another(drawn):
    ends = np.array([end for _, end in drawn])
    expected = np.concatenate([discretise(*stay, end) for stay, end in drawn])
    np.testing.assert_array_equal(discretise_stays(joined([stay for stay, _ in drawn]), ends), expected)


CUTS = st.lists(ENDS.filter(lambda end: bins(end) > 0), max_size=3)


@given(st.lists(st.tuples(stays(), CUTS), min_size=1, max_size=4))
def test_last_rows_equal_the_end_of_a_series_that_is_cut(drawn):
    events = joined([stay for stay, _ in drawn])
    place = np.repeat(np.arange(len(drawn)), [len(cuts) for _, cuts in drawn])
    cuts = np.array([cut for _, own in drawn for cut in own])
    open_, closed = last_rows(events, place, cuts, closed=False), last_rows(events, place, cuts, closed=True)
    for index, (at, cut) in enumerate(zip(place, cuts, strict=True)):
        hour, channel, value = drawn[at][0]
        before = hour < cut
        np.testing.assert_array_equal(open_[index], discretise(hour[before], channel[before], value[before], cut)[-1])
        np.testing.assert_array_equal(closed[index], discretise(hour, channel, value, cut)[-1])


def test_an_event_at_the_cut_counts_only_if_it_may():
    events = joined([(np.array([0.5, 2.3]), np.array([HR, HR]), np.array([50.0, 60.0]))])
    rows = [last_rows(events, np.array([0]), np.array([2.3]), closed)[0] for closed in (False, True)]
    assert [row[FIRST_COLUMN[HR]] for row in rows] == [50, 60] and [row[VALUES + HR] for row in rows] == [0, 1]


def test_times_must_be_in_order_within_each_stay():
    columns = np.array([HR, HR]), np.array([50.0, 60.0])
    with pytest.raises(ValueError, match="not decrease"):
        StayEvents(np.array([0, 2]), np.array([2.0, 1.0]), *columns)
    with pytest.raises(ValueError, match="start at 0"):
        StayEvents(np.array([0, 2]), np.array([-1.0, 1.0]), *columns)
    StayEvents(np.array([0, 1, 2]), np.array([2.0, 1.0]), *columns)
