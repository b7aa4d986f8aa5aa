"""Events of the stays, taken out of raw tables of any size with little memory.

Chart and laboratory tables are read once each, from front to back. Rows of wanted items and patients are put aside as
they come, each in the bucket of its patient. All stays of a patient share a bucket, so a bucket holds everything that
decides about its rows: two stays of one time, values of one minute, and the kind of a laboratory specimen, which may
stand anywhere in the file. Then one bucket after another is judged, sorted and written; one with too many rows in
parts of fewer patients. So memory does not grow with the rows of the tables, only by some bytes with each stay.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl

from benchmark.data import cleaning
from benchmark.data.channels import items
from benchmark.data.dictionaries import DICTIONARIES, check_dictionaries
from benchmark.data.measures import CODE, KEPT
from benchmark.data.raw import RawMimic, batches
from benchmark.data.request import code
from benchmark.data.rules import Rules
from benchmark.data.tally import Tally
from benchmark.errors import UserError
from benchmark.files import replace_text

Progress = Callable[[str, int, int], None]

CHART, LABS = "icu/chartevents", "hosp/labevents"

STAYS_A_BUCKET = 1024
"""Least number of stays in a bucket; about a million events and 90,000 hours of MIMIC-IV."""

BATCH_ROWS = 100_000
"""Wanted rows that are put aside at a time."""

HELD_ROWS = 250_000
"""Wanted rows that wait in memory to be written to their buckets."""

ROWS_A_PART = 1_000_000
"""Wanted rows of patients that are judged together; more only by the rows of the last patient."""

DONE = "events.json"
_FIRST, _EARLY, _SPILL = "first_hours.parquet", "early_hours.parquet", "spill"


@dataclass(frozen=True)
class Events:
    """Cleaned events on disk, in buckets of stays.

    Attributes:
        folder: where they lie. report: counts of rows by table, channel and verdict, and what the item dictionaries
            say. files: one a bucket, or several where it has many rows.
    """

    folder: Path
    report: dict[str, Any]
    files: tuple[Path, ...]

    @classmethod
    def open(cls, folder: Path) -> Events:
        """Events that an earlier call has completed.

        Raises:
            UserError: there are none.
        """
        marker = folder / DONE
        if not marker.is_file():
            raise UserError(f"{folder} holds no complete events (no {DONE})")
        content = json.loads(marker.read_text(encoding="utf-8"))
        return cls(folder, content["report"], tuple(_events_file(folder, i) for i in range(content["buckets"])))

    def buckets(self) -> Iterator[pd.DataFrame]:
        """One frame a file, all stays of a patient in the same.

        Columns stay_id int64, hour float64 (since intime), channel int16, value float64 (category number for
        categorical channels), sorted by stay, hour and channel.
        """
        for file in self.files:
            yield pl.read_parquet(file).to_pandas()

    def first_hours(self) -> pd.Series:
        """Hour of the first event of each stay that has any, by stay_id."""
        first = pl.read_parquet(self.folder / _FIRST)
        return pd.Series(first["hour"].to_numpy(), index=pd.Index(first["stay_id"].to_numpy(), name="stay_id"))

    def early_hours(self) -> dict[int, float]:
        """Hour, negative, of the first good value before the stay by stay_id, where the rules see such."""
        return dict(pl.read_parquet(self.folder / _EARLY).rows())


def extract_events(
    raw: RawMimic, stays: pd.DataFrame, folder: Path, rules: Rules = Rules(), progress: Progress | None = None
) -> Events:
    """Read the events of the stays and write them to `folder`.

    A folder that is complete and was made from the same files, stays and rules is used as it is; what an interrupted
    call has left is made anew.

    Args:
        raw: the raw files. stays: columns `subject_id, hadm_id, stay_id, intime, outtime`.
        progress: called with (what, done, total).
    """
    notify = progress or (lambda *_: None)
    table = pl.from_pandas(stays[list(cleaning.STAY_COLUMNS)]).with_columns(
        pl.col("intime", "outtime").cast(pl.Datetime("us"))
    )
    key = _key(raw, table, rules)
    if (folder / DONE).is_file() and json.loads((folder / DONE).read_text(encoding="utf-8"))["key"] == key:
        return Events.open(folder)
    dictionary = check_dictionaries(raw, rules)  # before the long part, which a fault in them would waste
    _clear(folder)
    spill = folder / _SPILL
    spill.mkdir(parents=True)

    buckets = _buckets(table)
    _spill_chart(raw, table, buckets, spill, rules, notify)
    if raw.has(LABS):
        _spill_labs(raw, table, buckets, spill, rules, notify)
    files, report = _judge(table, buckets, folder, rules, notify)
    shutil.rmtree(spill)
    read = {table: raw.rows[table] for table in (CHART, LABS) if table in raw.rows}
    report |= {"read": read, "dictionary": dictionary}
    content = {"key": key, "buckets": files, "report": report}
    replace_text(folder / DONE, json.dumps(content, indent=2) + "\n")
    return Events.open(folder)


def _key(raw: RawMimic, stays: pl.DataFrame, rules: Rules) -> str:
    """Names code, files, stays and rules, so that events are not taken for those of other ones."""
    digest = hashlib.sha256(f"{code()} {rules!r}".encode())
    for table in (CHART, LABS, *DICTIONARIES.values()):
        path = raw.path(table)
        stat = path.stat() if path else None
        digest.update(f"{path} {stat and (stat.st_size, stat.st_mtime_ns)}".encode())
    for column in stays.iter_columns():
        digest.update(column.to_physical().to_numpy().tobytes())
    return digest.hexdigest()


def _clear(folder: Path) -> None:
    """Remove what an earlier call has left; first the marker, so that it never stands beside half of the rest."""
    for name in (DONE, _FIRST, _EARLY):
        (folder / name).unlink(missing_ok=True)
    for file in folder.glob("events-*.parquet"):
        file.unlink()
    if (folder / _SPILL).exists():
        shutil.rmtree(folder / _SPILL)


def _buckets(stays: pl.DataFrame) -> pl.DataFrame:
    """Columns subject_id, bucket: patients by number, `STAYS_A_BUCKET` stays or a few more to a bucket.

    Tables that are sorted by patient, as the published ones are, fill one bucket after another.
    """
    return (
        stays.group_by("subject_id")
        .len()
        .sort("subject_id")
        .select("subject_id", bucket=((pl.col("len").cum_sum() - pl.col("len")) // STAYS_A_BUCKET).cast(pl.Int32))
    )


def _events_file(folder: Path, number: int) -> Path:
    return folder / f"events-{number:05d}.parquet"


def _items_of(table: str, rules: Rules) -> pl.DataFrame:
    return cleaning.item_frame(item for item in items(rules) if item.table == table)


def _spill_chart(
    raw: RawMimic, stays: pl.DataFrame, buckets: pl.DataFrame, spill: Path, rules: Rules, notify: Progress
) -> None:
    """Put the chart rows of the stays' numbers aside."""
    rows = raw.scan(CHART, cleaning.CHART_COLUMNS)
    places = stays.join(buckets, on="subject_id").select("bucket", own="stay_id", patient="subject_id")
    wanted = cleaning.wanted_chart(rows, stays, _items_of(CHART, rules), rules)
    notify("chart events", 0, 1)
    with _Spill(spill, "chart") as put:
        for batch in batches(
            wanted.join(places.lazy(), on="own", maintain_order="left").drop("own"), CHART, BATCH_ROWS
        ):
            put(batch)
    notify("chart events", 1, 1)


def _spill_labs(
    raw: RawMimic, stays: pl.DataFrame, buckets: pl.DataFrame, spill: Path, rules: Rules, notify: Progress
) -> None:
    """Put the laboratory rows of the patients aside, with those that name specimens."""
    rows = raw.scan(LABS, cleaning.LAB_COLUMNS)
    wanted = cleaning.wanted_labs(rows, buckets, _items_of(LABS, rules), rules)
    notify("laboratory events", 0, 1)
    with _Spill(spill, "labs") as put:
        for batch in batches(wanted, LABS, BATCH_ROWS):
            put(batch)
    notify("laboratory events", 1, 1)


class _Spill:
    """Writes rows to files by their column `bucket`, a few million at a time."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.part = folder, name, 0
        self.held: list[pl.DataFrame] = []

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self._write()

    def __call__(self, batch: pl.DataFrame) -> None:
        self.held.append(batch)
        if sum(map(len, self.held)) >= HELD_ROWS:
            self._write()

    def _write(self) -> None:
        if not self.held:
            return
        frame = pl.concat(self.held)
        self.held.clear()
        for (bucket,), rows in frame.partition_by("bucket", as_dict=True, include_key=False).items():
            rows.write_ipc(self.folder / f"{bucket:05d}-{self.name}-{self.part:05d}.arrow", compression="lz4")
        self.part += 1


def _judge(
    stays: pl.DataFrame, buckets: pl.DataFrame, folder: Path, rules: Rules, notify: Progress
) -> tuple[int, dict[str, Any]]:
    """Turn the rows of each bucket into its events; returns the number of files and the counts."""
    count = int(buckets["bucket"].max() or 0) + 1
    tally, first_hours, events, totals = Tally(), [], 0, 0
    for bucket, judged in _judged(stays, buckets, folder / _SPILL, rules, count):
        notify("events", bucket, count)
        frame, derived = _events_of(judged, tally, rules)
        frame.write_parquet(_events_file(folder, len(first_hours)), compression="lz4", statistics=False)
        first_hours.append(frame.group_by("stay_id").agg(pl.col("hour").min()).sort("stay_id"))
        events, totals = events + len(frame), totals + derived
    notify("events", count, count)
    pl.concat(first_hours).write_parquet(folder / _FIRST)
    early = sorted(tally.earliest().items())
    pl.DataFrame(early, schema={"stay_id": pl.Int64, "hour": pl.Float64}, orient="row").write_parquet(folder / _EARLY)
    return len(first_hours), {"events": events, "derived_coma_totals": totals, **tally.report(items(rules))}


def _judged(
    stays: pl.DataFrame, buckets: pl.DataFrame, spill: Path, rules: Rules, count: int
) -> Iterator[tuple[int, list[pl.DataFrame]]]:
    """Bucket and judged rows of one part after another; the next is read while the caller works on one."""
    chart_items, lab_items = _items_of(CHART, rules), _items_of(LABS, rules)

    def judge(bucket: int, own: pl.DataFrame) -> tuple[int, list[pl.DataFrame]]:
        patients = own["subject_id"].unique().implode()
        found = []
        if (chart := _spilled(spill, bucket, "chart")) is not None:
            chart = chart.filter(pl.col("patient").is_in(patients)).drop("patient")
            found.append(cleaning.chart_rows(chart, own, chart_items, rules).collect())
        if (labs := _spilled(spill, bucket, "labs")) is not None:
            labs = labs.filter(pl.col("subject_id").is_in(patients))
            found.append(cleaning.lab_rows(labs, own, lab_items, rules).collect())
        return bucket, found

    parts = ((bucket, own) for bucket in range(count) for own in _parts(stays, buckets, spill, bucket))
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(judge, *next(parts))
        for part in parts:
            found = following.result()
            following = pool.submit(judge, *part)
            yield found
        yield following.result()


def _parts(stays: pl.DataFrame, buckets: pl.DataFrame, spill: Path, bucket: int) -> list[pl.DataFrame]:
    """Stays of a bucket, all in one part unless it has more than `ROWS_A_PART` rows; a patient is in one part."""
    patients = buckets.filter(pl.col("bucket") == bucket).select("subject_id")
    chart, labs = _spilled(spill, bucket, "chart"), _spilled(spill, bucket, "labs")
    columns = [pl.LazyFrame(schema={"subject_id": pl.Int64})]
    columns += [chart.select(subject_id="patient")] if chart is not None else []
    columns += [labs.select("subject_id")] if labs is not None else []
    counts = pl.concat(columns).group_by("subject_id").len().collect(engine="streaming")
    rows = patients.join(counts, on="subject_id", how="left", maintain_order="left")["len"].fill_null(0).cum_sum()
    part = patients.with_columns(part=rows.shift(1, fill_value=0) // ROWS_A_PART)
    return stays.join(part, on="subject_id").partition_by("part", include_key=False) or [stays.clear()]


def _spilled(spill: Path, bucket: int, name: str) -> pl.LazyFrame | None:
    files = sorted(spill.glob(f"{bucket:05d}-{name}-*.arrow"))
    return pl.scan_ipc(files) if files else None


def _events_of(judged: list[pl.DataFrame], tally: Tally, rules: Rules) -> tuple[pl.DataFrame, int]:
    """Events of one bucket from its judged rows, and how many of them are derived."""
    if not judged:
        return _NO_EVENTS, 0
    rows = pl.concat(judged)
    tally.add(rows)
    kept, repeated = cleaning.one_per_minute(rows.filter(pl.col("verdict") == CODE[KEPT]), rules)
    tally.add_repeated(repeated)
    derived = cleaning.coma_totals(kept, rules)
    return pl.concat([kept, derived]).sort("stay_id", "hour", "channel"), len(derived)


_NO_EVENTS = pl.DataFrame(schema={"stay_id": pl.Int64, "hour": pl.Float64, "channel": pl.Int16, "value": pl.Float64})
