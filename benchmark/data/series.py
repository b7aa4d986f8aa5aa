"""ICU time series: reads the cleaned events of all stays and writes them as standardised hourly arrays.

A stored series holds every hour of its stay and row k is hour k. Who reads a sample with more rows than fit keeps the
last ones: position 0 of such an input is then not hour 0 of the stay, and the time since admission is not known from
positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from benchmark.data import cleaning
from benchmark.data.channels import CHANNELS, VALUES, WIDTH, items
from benchmark.data.discretiser import bins, discretise
from benchmark.data.fingerprint import fingerprint
from benchmark.data.raw import RawMimic, collect
from benchmark.data.standardiser import Standardiser, StandardiserFit
from benchmark.data.stores import RaggedWriter, new_folder

Progress = Callable[[str, int, int], None]

CHART, LABS = "icu/chartevents", "hosp/labevents"


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


def read_events(raw: RawMimic, stays: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
    """Cleaned events of the stays.

    Args:
        raw: the raw files. progress: called with (what, done, total).
        stays: columns `stay_id, subject_id, intime, outtime`.

    Returns:
        Columns stay_id int64, hour float64 (since intime), channel int16, value float64 (category number for
        categorical channels), sorted by stay, hour and channel. `.attrs["report"]` counts rows by channel and verdict
        and lists disagreements with the item dictionaries.
    """
    notify = progress or (lambda *_: None)
    table = pl.from_pandas(stays[["stay_id", "subject_id", "intime", "outtime"]]).with_columns(
        pl.col("intime", "outtime").cast(pl.Datetime("us"))
    )
    chart_items = cleaning.item_frame(item for item in items() if item.table == CHART)
    lab_items = cleaning.item_frame(item for item in items() if item.table == LABS)

    notify("chart events", 0, 1)
    chart = raw.scan(CHART, ["stay_id", "itemid", "charttime", "storetime", "value", "valuenum"])
    judged = [collect(cleaning.chart_rows(chart, table.lazy(), chart_items), CHART)]
    notify("chart events", 1, 1)

    if raw.has(LABS):
        notify("laboratory events", 0, 1)
        labs = raw.scan(LABS, ["subject_id", "specimen_id", "itemid", "charttime", "storetime", "value", "valuenum"])
        wanted = collect(cleaning.wanted_labs(labs, table.lazy(), lab_items), LABS)
        judged.append(cleaning.lab_rows(wanted.lazy(), table.lazy(), lab_items).collect())
        notify("laboratory events", 1, 1)

    rows = pl.concat(judged)
    del judged  # tens of millions of rows: keep one copy at a time
    verdicts = rows.group_by("channel", "verdict").agg(rows=pl.len())
    rows = rows.filter(pl.col("verdict") == cleaning.VERDICTS.index(cleaning.KEPT))
    events, repeated = cleaning.one_per_minute(rows)
    totals = cleaning.coma_totals(events)
    events = pl.concat([events, totals]).sort("stay_id", "hour", "channel")

    frame = events.to_pandas()
    frame.attrs["report"] = {
        "events": len(frame),
        "rows": _counts(verdicts, repeated),
        "derived_coma_totals": len(totals),
        "dictionary": check_dictionaries(raw),
    }
    return frame


def _counts(verdicts: pl.DataFrame, repeated: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Rows by channel name and verdict; `kept` less those superseded."""
    counts: dict[str, dict[str, int]] = {channel.name: {} for channel in CHANNELS}
    for channel, verdict, rows in sorted(verdicts.rows()):
        counts[CHANNELS[channel].name][cleaning.VERDICTS[verdict]] = rows
    for channel, rows in repeated.rows():
        of_channel = counts[CHANNELS[channel].name]
        of_channel[cleaning.REPEATED] = rows
        of_channel[cleaning.KEPT] -= rows
    return counts


def check_dictionaries(raw: RawMimic) -> dict[str, list[str]]:
    """Compares the channel table with the files' own item dictionaries.

    Returns:
        "missing": items that the dictionary lacks; "renamed": items with another label there; "unlisted": blood glucose
        and pH items of the laboratory that no channel reads, for a person to consider.
    """
    found: dict[str, list[str]] = {"missing": [], "renamed": [], "unlisted": []}
    for table, dictionary in ((CHART, "icu/d_items"), (LABS, "hosp/d_labitems")):
        if not raw.has(dictionary):
            continue
        labels = dict(collect(raw.scan(dictionary, ["itemid", "label"]), dictionary).rows())
        for item in items():
            if item.table == table and item.itemid not in labels:
                found["missing"].append(f"{item.itemid} {item.label}")
            elif item.table == table and str(labels[item.itemid]).strip().lower() != item.label.lower():
                found["renamed"].append(f"{item.itemid} {item.label}: {labels[item.itemid]}")
    if raw.has("hosp/d_labitems"):
        known = [item.itemid for item in items()]
        label = pl.col("label").str.strip_chars().str.to_lowercase()
        blood = pl.col("fluid").str.strip_chars().str.to_lowercase() == "blood"
        alike = raw.scan("hosp/d_labitems", ["itemid", "label"], optional=["fluid"]).filter(
            (label.str.contains("glucose") | (label == "ph")) & blood & ~pl.col("itemid").is_in(known)
        )
        found["unlisted"] = [f"{item} {name}" for item, name, _ in sorted(collect(alike, "hosp/d_labitems").rows())]
    return found


def write_series(
    events: pd.DataFrame,
    stays: pd.DataFrame,
    train_stays: set[int],
    cuts: pd.DataFrame,
    out: Path,
    progress: Progress | None = None,
) -> SeriesIndex:
    """Writes `out/series/{values,offsets,tails}.npy` and `out/standardiser.json`.

    Args:
        events: from `read_events`. stays: columns `stay_id, los_hours`; one series each, in this order.
        train_stays: stays that the standardiser is fitted on.
        cuts: columns `stay_id, hour`: row i of `tails.npy` is the last hourly row of that stay's series made from
            events strictly before that hour, which need not be a whole number.
    """
    notify = progress or (lambda *_: None)
    ids, hours = stays["stay_id"].to_numpy(), stays["los_hours"].to_numpy(np.float64)
    if len(set(ids.tolist())) != len(ids):
        raise ValueError("stays must be unique by stay_id")
    read = _Slices(events)

    fit = StandardiserFit()
    for stay, end in zip(ids.tolist(), hours.tolist(), strict=True):
        if stay in train_stays:
            fit.add(*read(stay), end)
    standardiser = fit.finish()

    lengths = [bins(end) for end in hours.tolist()]
    observed = np.zeros(len(CHANNELS))
    with new_folder(out / "series") as folder:
        writer = RaggedWriter(folder, lengths, WIDTH)
        for row, (stay, end) in enumerate(zip(ids.tolist(), hours.tolist(), strict=True)):
            hourly = discretise(*read(stay), end)
            observed += hourly[:, VALUES:].sum(0)
            writer.write(row, standardiser.apply(hourly))
            if row % 1000 == 0:
                notify("series", row, len(ids))
        writer.close()
        np.save(folder / "tails.npy", _tails(read, cuts, standardiser, set(ids.tolist())))
    notify("series", len(ids), len(ids))
    trained = (stay for stay in ids.tolist() if stay in train_stays)
    standardiser.save(out / "standardiser.json", trained, series=fingerprint(out, ("series",)))
    shares = observed / max(sum(lengths), 1)
    return SeriesIndex(
        stay_row=dict(zip(ids.tolist(), range(len(ids)), strict=True)),
        rows=dict(zip(ids.tolist(), lengths, strict=True)),
        observed={channel.name: float(share) for channel, share in zip(CHANNELS, shares, strict=True)},
        standardiser=standardiser,
    )


def _tails(read: _Slices, cuts: pd.DataFrame, standardiser: Standardiser, known: set[int]) -> np.ndarray:
    tails = np.zeros((len(cuts), WIDTH), dtype=np.float16)
    for row, (stay, end) in enumerate(zip(cuts["stay_id"].tolist(), cuts["hour"].tolist(), strict=True)):
        if stay not in known or bins(end) == 0:
            raise ValueError(f"cut {row}: stay {stay} at hour {end}; a known stay and an hour above 0 are needed")
        hour, channel, value = read(stay)
        before = int(np.searchsorted(hour, end, side="left"))
        tails[row] = standardiser.apply(discretise(hour[:before], channel[:before], value[:before], end)[-1])
    return tails


class _Slices:
    """The events of one stay after another, as views of the sorted frame."""

    def __init__(self, events: pd.DataFrame) -> None:
        stay = events["stay_id"].to_numpy()
        if len(stay) and (np.diff(stay) < 0).any():
            raise ValueError("events must be sorted by stay_id")
        self.columns = tuple(events[name].to_numpy() for name in ("hour", "channel", "value"))
        ids, first = np.unique(stay, return_index=True)
        self.bounds = dict(zip(ids.tolist(), zip(first, [*first[1:], len(stay)], strict=True), strict=True))

    def __call__(self, stay: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hours, channels and values of a stay; empty if it has no events."""
        start, stop = self.bounds.get(stay, (0, 0))
        hour, channel, value = (column[start:stop] for column in self.columns)
        return hour, channel, value
