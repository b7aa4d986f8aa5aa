"""Films and intervals: the fast joins against a plain search."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.film_list import study_time
from benchmark.data.links import enclosing, latest_film
from benchmark.data.rules import Rules

ORIGIN = pd.Timestamp("2150-03-01")
few = st.integers(0, 6)
films_of = st.lists(st.tuples(st.integers(1, 2), few), max_size=8)
spans = st.lists(st.tuples(st.integers(1, 3), few, few), max_size=6)


def at(hours) -> pd.Series:
    return ORIGIN + pd.to_timedelta(pd.Series(list(hours), dtype="int64"), unit="h")


@settings(deadline=None, max_examples=60)
@given(films=films_of, windows=spans)
def test_latest_film_is_the_last_inside_the_window(films, windows):
    frame = pd.DataFrame(
        {"subject_id": pd.Series([s for s, _ in films], dtype="int64"), "time": at(t for _, t in films)}
    )
    frame["dicom_id"] = pd.Series([f"{(7 * i) % 10}" for i in range(len(films))], dtype="object")
    spans = pd.DataFrame({"subject_id": pd.Series([s for s, _, _ in windows], dtype="int64")})
    spans = spans.assign(start=at(a for _, a, _ in windows), end=at(b for _, _, b in windows))
    rows = latest_film(spans, frame)
    for (subject, start, end), row in zip(windows, rows, strict=True):
        inside = [i for i, (s, t) in enumerate(films) if s == subject and start <= t <= end]
        best = min(inside, key=lambda i: (-films[i][1], frame.dicom_id[i]), default=-1)
        assert row == best


def test_of_two_films_of_a_moment_the_whole_one_counts():
    noon = pd.Timestamp("2150-03-01 12:00")
    films = pd.DataFrame({"subject_id": 1, "dicom_id": ["a", "b"], "row": [0, 1], "time": noon, "whole": [False, True]})
    windows = pd.DataFrame({"subject_id": [1], "start": [noon], "end": [noon]})
    for choice in ("smallest_id", "last_in_file"):
        assert latest_film(windows, films, replace(Rules(), film_choice=choice)).tolist() == [1]


def test_units_of_time_need_not_agree():
    films = pd.DataFrame({"subject_id": [1], "dicom_id": ["a"], "time": at([3]).astype("datetime64[us]")})
    windows = pd.DataFrame({"subject_id": [1], "start": at([0]), "end": at([4]).astype("datetime64[s]")})
    assert latest_film(windows, films).tolist() == [0]
    assert latest_film(windows.assign(end=at([4]).astype("datetime64[ns]")), films).tolist() == [0]


@settings(deadline=None, max_examples=60)
@given(moments=films_of, intervals=spans)
def test_enclosing_interval_is_the_one_that_began_last(moments, intervals):
    points = pd.DataFrame({"subject_id": pd.Series([s for s, _ in moments], dtype="int64")})
    points = points.assign(time=at(t for _, t in moments))
    frame = pd.DataFrame({"subject_id": pd.Series([s for s, _, _ in intervals], dtype="int64")})
    frame = frame.assign(start=at(a for _, a, _ in intervals), end=at(b for _, _, b in intervals))
    for (subject, time), row in zip(moments, enclosing(points, frame), strict=True):
        around = [i for i, (s, a, b) in enumerate(intervals) if s == subject and a <= time <= b]
        assert row == min(around, key=lambda i: (-intervals[i][1], i), default=-1)


@pytest.mark.parametrize(
    ("number", "clock"), [(5.2, "00:00:05"), (73112.0, "07:31:12"), (213014.531, "21:30:14"), (0.0, "00:00:00")]
)
def test_study_time_regains_its_leading_zeros(number, clock):
    frame = pl.DataFrame({"date": [21500301], "time": [number]})
    moment = frame.select(study_time(pl.col("date"), pl.col("time"))).item()
    assert f"{moment:%Y-%m-%d %H:%M:%S}" == f"2150-03-01 {clock}"
