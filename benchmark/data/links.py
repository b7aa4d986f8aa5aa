"""Which film and which note belong to a sample."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmark.data.rules import Rules

MOMENT = "datetime64[us]"


def latest_film(windows: pd.DataFrame, films: pd.DataFrame, rules: Rules = Rules()) -> np.ndarray:
    """The patient's last film in each window, -1 where there is none.

    Args:
        windows: subject_id, start, end (both ends belong to the window); no blanks.
        films: as `read_films` gives them. rules: which of several films of one moment counts.

    Returns:
        Row numbers of `films`, one a window.

    >>> day = lambda *hours: pd.Timestamp("2150-03-01") + pd.to_timedelta(hours, unit="h")
    >>> films = pd.DataFrame({"subject_id": [1, 1, 1, 2], "dicom_id": ["a", "b", "c", "d"], "time": day(5, 9, 9, 2)})
    >>> windows = pd.DataFrame({"subject_id": [1, 1, 1, 2, 3], "start": day(0, 0, 6, 3, 0), "end": day(8, 9, 8, 9, 9)})
    >>> latest_film(windows, films).tolist()
    [0, 1, -1, -1, -1]
    """
    candidates = films.assign(film=np.arange(len(films)))[films.time.notna().to_numpy()]
    candidates = preferred(candidates, rules).drop_duplicates(["subject_id", "time"])
    candidates = candidates[["subject_id", "time", "film"]].sort_values("time")
    ordered = windows[["subject_id", "start", "end"]].assign(window=np.arange(len(windows))).sort_values("end")
    # The join refuses keys of unequal units.
    ordered["end"], candidates["time"] = ordered.end.astype(MOMENT), candidates.time.astype(MOMENT)
    found = pd.merge_asof(ordered, candidates, left_on="end", right_on="time", by="subject_id")
    rows = np.full(len(windows), -1, dtype=np.int64)
    inside = found[found.time.notna() & (found.time >= found.start)]
    rows[inside.window.to_numpy()] = inside.film.to_numpy().astype(np.int64)
    return rows


def preferred(films: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """The films in the order in which one is chosen among those of a moment or study, those that look broken last."""
    if rules.film_choice == "smallest_id":
        ordered = films.sort_values("dicom_id", kind="stable")
    else:
        ordered = films.sort_values("row", ascending=False, kind="stable")
    return ordered.sort_values("whole", ascending=False, kind="stable") if "whole" in ordered else ordered


def enclosing(moments: pd.DataFrame, intervals: pd.DataFrame, latest: str = "start") -> np.ndarray:
    """The interval of the same patient that a moment lies in, -1 where there is none.

    Args:
        moments: subject_id, time (NaT lies in no interval).
        intervals: subject_id, start, end (both ends belong to it) and the column `latest`. Of several the one with the
            largest value in that column counts (by default the one that began last), then the one that stands first.

    Returns:
        Row numbers of `intervals`, one a moment.

    >>> day = lambda *hours: pd.Timestamp("2150-03-01") + pd.to_timedelta(hours, unit="h")
    >>> intervals = pd.DataFrame({"subject_id": [1, 1, 2], "start": day(0, 5, 0), "end": day(20, 9, 9)})
    >>> moments = pd.DataFrame({"subject_id": [1, 1, 1, 1, 2, 3], "time": day(2, 7, 10, 30, 9, 2)})
    >>> enclosing(moments, intervals).tolist()
    [0, 1, 0, -1, 2, -1]
    """
    left = moments[["subject_id", "time"]].assign(moment=np.arange(len(moments)))
    right = intervals[list(dict.fromkeys(["subject_id", "start", "end", latest]))]
    right = right.assign(interval=np.arange(len(intervals)))
    pairs = left.merge(right[right.subject_id.isin(left.subject_id)], on="subject_id")
    pairs = pairs[(pairs.start <= pairs.time) & (pairs.time <= pairs.end)]
    pairs = pairs.sort_values(["moment", latest, "interval"], ascending=[True, False, True])
    pairs = pairs.drop_duplicates("moment")
    rows = np.full(len(moments), -1, dtype=np.int64)
    rows[pairs.moment.to_numpy()] = pairs.interval.to_numpy()
    return rows
