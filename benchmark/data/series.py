"""ICU time series: reads the cleaned events of all stays and writes them as standardised hourly arrays.

A stored series holds every hour of its stay and row k is hour k. Who reads a sample with more rows than fit keeps the
last ones: position 0 of such an input is then not hour 0 of the stay, and the time since admission is not known from
positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.data.channels import CHANNELS, VALUES, WIDTH, normal_values
from benchmark.data.discretiser import StayEvents, discretise_stays, last_rows, row_counts
from benchmark.data.events import STAYS_A_BUCKET, Events, Progress
from benchmark.data.fingerprint import fingerprint
from benchmark.data.rules import Rules
from benchmark.data.standardiser import Standardiser, StandardiserFit
from benchmark.data.stores import RaggedWriter, new_folder


@dataclass(frozen=True)
class SeriesIndex:
    """Where the series of each stay lies.

    Attributes:
        stay_row: sequence of the store by stay_id. rows: number of hourly rows by stay_id.
        observed: share of all hourly rows in which a channel was observed, by channel name.
        standardiser: what the series were scaled with.
    """

    stay_row: dict[int, int]
    rows: dict[int, int]
    observed: dict[str, float] = field(default_factory=dict)
    standardiser: Standardiser | None = None


def write_series(
    events: Events,
    stays: pd.DataFrame,
    train_stays: set[int],
    cuts: pd.DataFrame,
    out: Path,
    rules: Rules = Rules(),
    progress: Progress | None = None,
) -> SeriesIndex:
    """Writes `out/series/{values,offsets,tails}.npy` and `out/standardiser.json`.

    Args:
        events: from `extract_events`. stays: columns `stay_id, los_hours`; one series each, in this order.
        train_stays: stays that the standardiser is fitted on.
        cuts: columns `stay_id, hour`: row i of `tails.npy` is the last hourly row of that stay's series made from
            events strictly before that hour, which need not be a whole number; with `film_cut=at` up to that hour.
        progress: called with (what, done, total).
    """
    notify = progress or (lambda *_: None)
    wanted = _Stays(stays["stay_id"].to_numpy(), stays["los_hours"].to_numpy(np.float64))
    ends = cuts["hour"].to_numpy(np.float64)
    cut_row = _rows_of_cuts(wanted, cuts["stay_id"].to_numpy(), ends)
    trained = np.isin(wanted.ids, list(train_stays))
    if rules.statistics == "mimic3":
        standardiser, trained = Standardiser.of_mimic3(), np.zeros(len(trained), dtype=bool)
    else:
        standardiser = _fitted(events, wanted, trained, notify)

    lengths, normal = row_counts(wanted.hours), normal_values(rules)
    observed = np.zeros(len(CHANNELS))
    with new_folder(out / "series") as folder:
        writer = RaggedWriter(folder, lengths, WIDTH)
        tails = np.zeros((len(cuts), WIDTH), dtype=np.float16)
        for done, (own, rows) in enumerate(wanted.buckets(events)):
            notify("series", done, len(events.files))
            hourly = discretise_stays(own, wanted.hours[rows], normal)
            observed += hourly[:, VALUES:].sum(0, dtype=np.float64)
            writer.write_many(rows, standardiser.apply(hourly))
            which = np.flatnonzero(np.isin(cut_row, rows))
            place = np.argsort(rows)[np.searchsorted(np.sort(rows), cut_row[which])]
            last = last_rows(own, place, ends[which], rules.film_cut == "at", normal)
            tails[which] = standardiser.apply(last)
        writer.close()
        np.save(folder / "tails.npy", tails)
    notify("series", len(events.files), len(events.files))
    standardiser.save(out / "standardiser.json", wanted.ids[trained], series=fingerprint(out, ("series",)))
    shares = observed / max(int(lengths.sum()), 1)
    return SeriesIndex(
        stay_row=dict(zip(wanted.ids.tolist(), range(len(lengths)), strict=True)),
        rows=dict(zip(wanted.ids.tolist(), lengths.tolist(), strict=True)),
        observed={channel.name: float(share) for channel, share in zip(CHANNELS, shares, strict=True)},
        standardiser=standardiser,
    )


def _fitted(events: Events, wanted: _Stays, trained: np.ndarray, notify: Progress) -> Standardiser:
    fit = StandardiserFit()
    training = _Stays(wanted.ids[trained], wanted.hours[trained])
    for done, (own, rows) in enumerate(training.buckets(events)):
        notify("standardiser", done, len(events.files))
        fit.add(own, training.hours[rows])
    notify("standardiser", len(events.files), len(events.files))
    return fit.finish()


def _rows_of_cuts(wanted: _Stays, stay: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """Position of the stay of each cut."""
    rows = wanted.rows_of(stay)
    wrong = np.flatnonzero((rows < 0) | (row_counts(hour) == 0))
    if len(wrong):
        cut = wrong[0]
        raise ValueError(
            f"cut {cut}: stay {stay[cut]} at hour {hour[cut]}; a known stay and an hour above 0 are needed"
        )
    return rows


class _Stays:
    """The stays that get a series, in their order."""

    def __init__(self, ids: np.ndarray, hours: np.ndarray) -> None:
        self.ids, self.hours = ids.astype(np.int64), hours
        self._order = np.argsort(self.ids)
        self._sorted = self.ids[self._order]
        if (np.diff(self._sorted) == 0).any():
            raise ValueError("stays must be unique by stay_id")
        if not np.isfinite(hours).all():
            raise ValueError(f"stay {self.ids[~np.isfinite(hours)][0]} has no length")

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Positions of stays, -1 for those that are not among them."""
        if not len(self.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self.ids) - 1)
        return np.where(self._sorted[at] == ids, self._order[at], -1)

    def buckets(self, events: Events) -> Iterator[tuple[StayEvents, np.ndarray]]:
        """Events and positions of the stays, bucket by bucket; at the end those without any event."""
        left = np.ones(len(self.ids), dtype=bool)
        for frame in events.buckets():
            row = self.rows_of(frame["stay_id"].to_numpy())
            frame, row = frame[row >= 0], row[row >= 0]
            first = np.flatnonzero(np.diff(row, prepend=-1))
            columns = (frame[name].to_numpy() for name in ("hour", "channel", "value"))
            yield StayEvents(np.append(first, len(row)), *columns), row[first]
            left[row] = False
        empty = np.flatnonzero(left)
        for part in np.array_split(empty, -(-len(empty) // STAYS_A_BUCKET)) if len(empty) else ():
            none = np.zeros(0)
            yield StayEvents(np.zeros(len(part) + 1, dtype=np.int64), none, none.astype(np.int16), none), part
