"""What a data set keeps about the origin of its inputs, so that it can be audited without the raw files.

Everything lies in the data set's folder `private`, since it holds MIMIC's numbers and times:

- `links.parquet`: unit and moment of prediction of each sample (written with the samples).
- `patients.parquet`: patient, subject_id, split.
- `stays.parquet`: one row a stored series, in order: its stay with begin, end and partition.
- `films.parquet`: one row a stored film, in order.
- `notes.parquet`: one row a text, with the time of its summary and the patient that the summary itself names.
- `last_event.npy`, `observed.npy`: for each row of the series store the hour of its latest event (NaN without one) and
  the channels with an event, as bits. `tails.parquet`: the same for each series that is cut within an hour.

The last three are counted from the events themselves, not from the arrays that were made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from benchmark.data.rules import Rules
from benchmark.data.samples import Sampled

_Key = tuple[str, int]
"""Section and admission of a text."""

_KEYS = {"section": pl.String, "hadm_id": pl.Int64}

ROUNDING = 1e-6
"""Hours by which an event may lie beyond the end of a row."""


def write_event_hours(
    frames: Iterable[pd.DataFrame], stays: pd.DataFrame, cuts: pd.DataFrame, private: Path, rules: Rules
) -> None:
    """Write `last_event.npy`, `observed.npy` and `tails.parquet`.

    Args:
        frames: events, all of a stay in one frame: stay_id, hour, channel. stays: stay_id, los_hours of the stored
            series, in their order. cuts: stay_id, hour of the tails, in their order.
    """
    offsets = np.concatenate([[0], np.cumsum(rows_of(stays.los_hours.to_numpy()))])
    last = np.full(offsets[-1], -np.inf)
    observed = np.zeros(offsets[-1], dtype=np.int32)
    series = pd.Series(np.arange(len(stays)), index=stays.stay_id.to_numpy())
    lengths, cut_stay, cut_hour = stays.los_hours.to_numpy(), cuts.stay_id.to_numpy(), cuts.hour.to_numpy()
    latest, bits = np.full(len(cuts), -np.inf), np.zeros(len(cuts), dtype=np.int32)
    for frame in frames:
        stay, hour, channel = (frame[name].to_numpy() for name in ("stay_id", "hour", "channel"))
        order = np.lexsort((hour, stay))
        stay, hour, bit = stay[order], hour[order], np.left_shift(np.int32(1), channel[order].astype(np.int32))
        _add_hours(series.reindex(stay).to_numpy(), hour, bit, lengths, offsets, (last, observed))
        for cut in np.flatnonzero(np.isin(cut_stay, stay)):
            own = slice(*np.searchsorted(stay, [cut_stay[cut], cut_stay[cut] + 1]))
            latest[cut], bits[cut] = _of_cut(hour[own], bit[own], cut_hour[cut], rules)
    tails = cuts[["stay_id", "hour"]].assign(last_event=np.where(np.isfinite(latest), latest, np.nan), observed=bits)
    np.save(private / "last_event.npy", np.where(np.isfinite(last), last, np.nan))
    np.save(private / "observed.npy", observed)
    tails.to_parquet(private / "tails.parquet", index=False)


def rows_of(hours: np.ndarray) -> np.ndarray:
    """Rows of series of these lengths.

    >>> rows_of(np.array([0.5, 1.0, 5.0, 5.3, 48.0])).tolist()
    [1, 1, 5, 6, 48]
    """
    return np.maximum(np.ceil(hours - ROUNDING), 0).astype(np.int64)


def _add_hours(
    series: np.ndarray,
    hour: np.ndarray,
    bit: np.ndarray,
    lengths: np.ndarray,
    offsets: np.ndarray,
    into: tuple[np.ndarray, np.ndarray],
) -> None:
    """Note each event in its row; an event at a full hour belongs to the row that ends there."""
    known = np.flatnonzero(np.isfinite(series))
    row = series[known].astype(np.int64)
    known = known[hour[known] <= lengths[row] + ROUNDING]
    row = series[known].astype(np.int64)
    place = np.maximum(np.ceil(hour[known] - ROUNDING) - 1, 0).astype(np.int64)
    place = offsets[row] + np.minimum(place, offsets[row + 1] - offsets[row] - 1)
    np.maximum.at(into[0], place, hour[known])
    np.bitwise_or.at(into[1], place, bit[known])


def _of_cut(hour: np.ndarray, bit: np.ndarray, cut: float, rules: Rules) -> tuple[float, int]:
    """Latest event before a cut, and the channels observed between the last full hour and the cut."""
    before = hour <= cut + ROUNDING if rules.film_cut == "at" else hour < cut
    begin = rows_of(np.array([cut]))[0] - 1
    inside = before & ((hour > begin + ROUNDING) | (begin == 0))
    return float(hour[before].max(initial=-np.inf)), int(np.bitwise_or.reduce(bit[inside], initial=0))


def write_origins(
    private: Path,
    sampled: Sampled,
    stays: pd.DataFrame,
    films: pd.DataFrame | None,
    notes: tuple[Mapping[_Key, int], Mapping[_Key, pd.Timestamp], pl.DataFrame] | None,
) -> None:
    """Write the tables of patients, stays, films and notes.

    Args:
        stays: subject_id, hadm_id, stay_id, intime, outtime, los_hours, split of the stored series, in their order.
        films: dicom_id, subject_id, study_id, time and film, the row of the store (-1: not stored).
        notes: by section and admission: row of the text table; when its summary was charted; the patient that the
            summary itself names, not the one that the admission has (section, hadm_id, subject_id).
    """
    columns = ["patient", "subject_id", "split"]
    numbered = pd.concat([frame[["sample", "patient", "split"]] for frame in sampled.frames.values()])
    patients = numbered.merge(sampled.links[["sample", "subject_id"]], on="sample")[columns].drop_duplicates()
    patients.sort_values(columns, ignore_index=True).to_parquet(private / "patients.parquet", index=False)
    columns = ["subject_id", "hadm_id", "stay_id", "intime", "outtime", "los_hours", "split"]
    stays[columns].to_parquet(private / "stays.parquet", index=False)
    if films is not None:
        stored = films[films.film >= 0].sort_values("film", ignore_index=True)
        stored[["film", "dicom_id", "subject_id", "study_id", "time"]].to_parquet(
            private / "films.parquet", index=False
        )
    if notes is not None:
        rows, times, patients = notes
        keys = sorted(rows, key=rows.__getitem__)
        table = pd.DataFrame({"note": [rows[key] for key in keys], "section": [section for section, _ in keys]})
        table["hadm_id"] = np.array([hadm for _, hadm in keys], dtype=np.int64)
        table["charttime"] = pd.Series([times[key] for key in keys], dtype="datetime64[us]")
        texts = pl.DataFrame({"section": table.section.tolist(), "hadm_id": table.hadm_id.to_numpy()}, _KEYS)
        named = texts.join(patients, on=["section", "hadm_id"], how="left", maintain_order="left")
        table["subject_id"] = named["subject_id"].to_numpy()
        table.to_parquet(private / "notes.parquet", index=False)
