"""Raw tables in MIMIC-IV's layout at any size, to measure speed with.

Row width, share of items that feed a channel, texts, blanks, quoted fields and the way rows lie together in the file
follow the public demo of MIMIC-IV. The numbers mean nothing: use the simulation for a cohort that one can learn from.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmark.throughput import patterns
from benchmark.throughput.patterns import Pattern

BLOCK_ROWS = 400_000
"""Rows that are made and compressed at a time."""

STAYS_A_PATIENT = 1.4

LABS_A_CHART_ROW = 0.377
"""Rows of labevents by row of chartevents in MIMIC-IV 2.2."""

LEVEL = 6
"""Compression level of the files."""

_EPOCH = np.datetime64("2110-01-01T00:00:00", "s")


@dataclass(frozen=True)
class Visits:
    """One row a visit: an ICU stay, or in the laboratory table also an admission or day elsewhere.

    Attributes:
        subject, hadm, stay: numbers; stay is 0 where there is none. start: second it begins. rows: its rows in the
            table.
    """

    subject: np.ndarray
    hadm: np.ndarray
    stay: np.ndarray
    start: np.ndarray
    rows: np.ndarray

    def take(self, part: slice) -> Visits:
        return Visits(self.subject[part], self.hadm[part], self.stay[part], self.start[part], self.rows[part])


def write_raw_tables(
    folder: Path, chart_rows: int, lab_rows: int | None = None, seed: int = 0, compress: bool = True
) -> dict[str, int]:
    """Write `hosp/` and `icu/` tables of a MIMIC-IV folder.

    Args:
        folder: is created. chart_rows: rows of chartevents. lab_rows: rows of labevents; by default as many for each
            row of chartevents as in MIMIC-IV 2.2.
        compress: write .csv.gz (one gzip member each), else .csv.

    Returns:
        Rows by table.
    """
    if chart_rows < 1:
        raise ValueError(f"chart_rows {chart_rows}; at least 1 is needed")
    lab_rows = round(chart_rows * LABS_A_CHART_ROW) if lab_rows is None else lab_rows
    rng = np.random.default_rng(seed)
    stays = _stays(chart_rows, rng)
    write = _Writer(folder, compress)
    written = {name: write.frame(name, frame) for name, frame in _small_tables(stays, rng).items()}
    chart, labs = patterns.chart_pattern(rng), patterns.lab_pattern(rng)
    written["icu/chartevents"] = write.blocks("icu/chartevents", stays, chart, _chart_block, seed)
    visits = _lab_visits(stays, lab_rows, rng)
    written["hosp/labevents"] = write.blocks("hosp/labevents", visits, labs, _lab_block, seed)
    return written


def _stays(chart_rows: int, rng: np.random.Generator) -> Visits:
    """Stays whose chart rows add up to `chart_rows`; a stay of h hours has about 51 rows an hour."""
    expected = chart_rows // 4000 + 10
    hours = np.clip(rng.lognormal(3.85, 0.95, expected * 2), 2, 1500)
    rows = np.maximum(np.round(hours * patterns.CHART_ROWS / patterns.CHART_HOURS), 1).astype(np.int64)
    count = int(np.searchsorted(np.cumsum(rows), chart_rows)) + 1
    rows = rows[:count]
    rows[-1] -= rows.sum() - chart_rows
    further = rng.random(count) < 1 - 1 / STAYS_A_PATIENT
    subject = 10_000_000 + 13 * np.cumsum(~further | (np.arange(count) == 0))
    start = rng.integers(0, 90 * 365 * 24, count) * 3600 + rng.integers(0, 3600, count)
    stay = 30_000_000 + rng.permutation(count)
    return Visits(subject, 20_000_000 + np.arange(count), stay, start, rows)


def _lab_visits(stays: Visits, lab_rows: int, rng: np.random.Generator) -> Visits:
    """ICU patients have four of ten laboratory rows, most of them before or after the ICU; others the rest."""
    own = _spread(lab_rows * 2 // 5, len(stays.subject))
    count = max(len(stays.subject), 1)
    others = _spread(lab_rows - int(own.sum()), count)
    subject = np.concatenate([stays.subject, 10_000_005 + 13 * rng.permutation(count)])
    hadm = np.concatenate([stays.hadm, 25_000_000 + np.arange(count)])
    stay = np.concatenate([stays.stay, np.zeros(count, dtype=np.int64)])
    start = np.concatenate([stays.start, rng.integers(0, 90 * 365 * 24, count) * 3600])
    order = np.lexsort((hadm, subject))
    return Visits(subject[order], hadm[order], stay[order], start[order], np.concatenate([own, others])[order])


def _spread(total: int, parts: int) -> np.ndarray:
    edges = np.linspace(0, total, parts + 1).round().astype(np.int64)
    return np.diff(edges)


def _chart_block(visits: Visits, pattern: Pattern, rng: np.random.Generator, _: int) -> pl.DataFrame:
    """Rows of the given stays, by stay and time as in the file."""
    at, position = _repeat(visits.rows)
    cycle, slot = np.divmod(position, patterns.CHART_ROWS)
    item = pattern.draw(slot, rng)
    value = pattern.value(item, rng)
    late = rng.integers(0, 40, len(item)) // 4 * 4
    begin = visits.start[at] // 60 * 60
    charted = begin + (cycle * patterns.CHART_HOURS * 60 + pattern.minute[slot]) * 60
    return pl.DataFrame(
        {
            "subject_id": visits.subject[at],
            "hadm_id": visits.hadm[at],
            "stay_id": visits.stay[at],
            "caregiver_id": 1000 + (visits.hadm[at] * 7 + cycle // 3) % 90_000,
            "charttime": _times(charted),
            "storetime": _times(charted + late * 60),
            "itemid": pattern.itemid[item],
            "value": pattern.text.gather(value),
            "valuenum": pattern.number.gather(value),
            "valueuom": pattern.unit.gather(item),
            "warning": (item % 50 == 7).astype(np.int8),
        }
    )


def _lab_block(visits: Visits, pattern: Pattern, rng: np.random.Generator, first: int) -> pl.DataFrame:
    """Rows of the given visits: panels of one specimen each, from two days before to two weeks after the start."""
    at, position = _repeat(visits.rows)
    panel, slot = np.divmod(position, patterns.LAB_ROWS)
    item = pattern.draw(slot, rng)
    value = pattern.value(item, rng)
    panels = np.maximum(-(-visits.rows // patterns.LAB_ROWS), 1)[at]
    drawn = visits.start[at] + ((panel / panels) * 16 - 2) * 86_400 // 60 * 60 + pattern.minute[slot] * 60
    drawn = drawn.astype(np.int64)
    row = first + np.arange(len(item))
    specimen = visits.hadm[at] * 64 % 90_000_000 + panel * 4 + pattern.specimen[slot]
    nowhere = rng.random(len(item)) < 0.2
    return pl.DataFrame(
        {
            "labevent_id": 1 + row,
            "subject_id": visits.subject[at],
            "hadm_id": _blank(pl.Series(visits.hadm[at]), nowhere),
            "specimen_id": specimen,
            "itemid": pattern.itemid[item],
            "order_provider_id": _either(item % 3 == 0, "P12A3B", None),
            "charttime": _times(drawn),
            "storetime": _times(drawn + 3600 + (panel % 50) * 60),
            "value": pattern.text.gather(value),
            "valuenum": pattern.number.gather(value),
            "valueuom": pattern.unit.gather(item),
            "ref_range_lower": pattern.low.gather(item),
            "ref_range_upper": pattern.high.gather(item),
            "flag": _either(value % 5 == 0, "abnormal", None),
            "priority": _either(panel % 3 == 0, "STAT", "ROUTINE"),
            "comments": pattern.comment.gather(rng.integers(0, len(pattern.comment), len(item))),
        }
    )


def _repeat(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row its visit and its number within the visit."""
    at = np.repeat(np.arange(len(rows)), rows)
    return at, np.arange(len(at)) - np.repeat(np.cumsum(rows) - rows, rows)


def _times(seconds: np.ndarray) -> pl.Series:
    return pl.Series((_EPOCH + seconds).astype("datetime64[ms]")).dt.to_string("%Y-%m-%d %H:%M:%S")


def _blank(values: pl.Series, where: np.ndarray) -> pl.Series:
    return pl.select(pl.when(pl.Series(~where)).then(values)).to_series()


def _either(where: np.ndarray, yes: str, no: str | None) -> pl.Series:
    return pl.Series([no, yes], dtype=pl.String).gather(where.astype(np.int64))


def _small_tables(stays: Visits, rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    """Patients, admissions, stays, diagnoses and the item dictionaries."""
    count = len(stays.subject)
    hours = np.maximum(stays.rows * patterns.CHART_HOURS / patterns.CHART_ROWS, 1.0)
    end = stays.start + (hours * 3600).astype(np.int64)
    dead = rng.random(count) < 0.1
    admitted, left = stays.start - 6 * 3600, end + np.where(dead, 0, 48 * 3600)
    died = _blank(_times(left), ~dead)
    unit = np.where(
        np.arange(count) % 3 == 0, "Medical Intensive Care Unit (MICU)", "Cardiac Vascular Intensive Care Unit"
    )
    subject, first = np.unique(stays.subject, return_index=True)
    year = (_EPOCH + stays.start[first].astype("timedelta64[s]")).astype("datetime64[Y]").astype(int) + 1970
    codes = np.array(["4019", "5849", "42731", "I10", "N179", "E119"])
    which = np.arange(3 * count) % len(codes)
    return {
        "hosp/patients": pl.DataFrame(
            {
                "subject_id": subject,
                "gender": np.where(subject % 2 == 0, "F", "M"),
                "anchor_age": 40 + subject % 50,
                "anchor_year": year,
                "anchor_year_group": "2014 - 2016",
                "dod": pl.Series([None] * len(subject), dtype=pl.String),
            }
        ),
        "hosp/admissions": pl.DataFrame(
            {
                "subject_id": stays.subject,
                "hadm_id": stays.hadm,
                "admittime": _times(admitted),
                "dischtime": _times(left),
                "deathtime": died,
                "admission_type": "EW EMER.",
                "edregtime": _times(admitted - 7200),
                "edouttime": _times(admitted),
                "discharge_location": np.where(dead, "DIED", "HOME"),
                "race": "UNKNOWN",
                "hospital_expire_flag": dead.astype(np.int8),
            }
        ),
        "icu/icustays": pl.DataFrame(
            {
                "subject_id": stays.subject,
                "hadm_id": stays.hadm,
                "stay_id": stays.stay,
                "first_careunit": unit,
                "last_careunit": unit,
                "intime": _times(stays.start),
                "outtime": _times(end),
                "los": (end - stays.start) / 86_400,
            }
        ),
        "hosp/diagnoses_icd": pl.DataFrame(
            {
                "subject_id": np.repeat(stays.subject, 3),
                "hadm_id": np.repeat(stays.hadm, 3),
                "seq_num": np.arange(3 * count) % 3 + 1,
                "icd_code": codes[which],
                "icd_version": np.where(which < 3, 9, 10),
            }
        ),
        **patterns.dictionaries(),
    }


class _Writer:
    """Writes tables, large ones block by block on all cores and in order."""

    def __init__(self, folder: Path, compress: bool) -> None:
        self.folder, self.compress = folder, compress

    def frame(self, table: str, frame: pl.DataFrame) -> int:
        self._write(table, iter([lambda: frame.write_csv().encode()]))
        return len(frame)

    def blocks(
        self,
        table: str,
        visits: Visits,
        pattern: Pattern,
        make: Callable[[Visits, Pattern, np.random.Generator, int], pl.DataFrame],
        seed: int,
    ) -> int:
        def block(part: slice, index: int, first: int) -> bytes:
            frame = make(visits.take(part), pattern, np.random.default_rng([seed, index, len(table)]), first)
            return frame.write_csv(include_header=index == 0).encode()

        parts = _parts(visits.rows)
        tasks = ((lambda p=part, i=index, f=first: block(p, i, f)) for index, (part, first) in enumerate(parts))
        self._write(table, tasks)
        return int(visits.rows.sum())

    def _write(self, table: str, tasks: Iterator[Callable[[], bytes]]) -> None:
        path = self.folder / f"{table}.csv{'.gz' if self.compress else ''}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            if not self.compress:
                for text in _in_order(tasks):
                    stream.write(text)
                return
            # Blocks are deflated apart from each other and ended with a flush, so that one after another they are one
            # stream: a single gzip member, as in the published files.
            stream.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
            check = size = 0
            for text, packed in _in_order((lambda t=task: _deflated(t())) for task in tasks):
                check, size = zlib.crc32(text, check), size + len(text)
                stream.write(packed)
            stream.write(b"\x03\0" + check.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little"))


def _deflated(text: bytes) -> tuple[bytes, bytes]:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    return text, packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH)


def _in_order(tasks: Iterator[Callable[[], object]]) -> Iterator:
    """Results of the tasks in their order; a few are made ahead."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        running = deque()
        for task in tasks:
            running.append(pool.submit(task))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _parts(rows: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Slices of visits with about `BLOCK_ROWS` rows each, and the rows before them."""
    ends = np.cumsum(rows)
    start = before = 0
    while start < len(ends):
        stop = max(int(np.searchsorted(ends, before + BLOCK_ROWS)), start + 1)
        yield slice(start, stop), before
        start, before = stop, int(ends[min(stop, len(ends)) - 1])
