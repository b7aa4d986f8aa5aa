"""Which files a data set was made from: their size, content and rows, and the release of MIMIC-IV they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

import polars as pl

from benchmark.data.raw import TABLES, RawMimic, collect
from benchmark.errors import UserError

_CHUNK = 1 << 22

RELEASES: Mapping[str, tuple[int, int, int]] = {
    "2.0": (315_460, 454_324, 76_943),
    "2.1": (299_777, 431_088, 73_141),
    "2.2": (299_712, 431_231, 73_181),
    "3.0 or 3.1": (364_627, 546_028, 94_458),
    "2.2, the open demo": (100, 275, 140),
}
"""Rows of patients, admissions and icustays."""

_PROVIDERS = {
    "hosp/admissions": "admit_provider_id",
    "hosp/labevents": "order_provider_id",
    "icu/chartevents": "caregiver_id",
}
"""Columns that came with 2.2."""


def release(raw: RawMimic) -> str:
    """The release of MIMIC-IV as far as it can be told from row counts, columns and dates.

    Args:
        raw: after patients, admissions and icustays have been read.
    """
    counts = tuple(raw.rows.get(table) for table in ("hosp/patients", "hosp/admissions", "icu/icustays"))
    known = [name for name, rows in RELEASES.items() if rows == counts]
    if known:
        return known[0]
    tables = [table for table in _PROVIDERS if raw.has(table)]
    later = [_PROVIDERS[table] in map(str.lower, raw.columns(table)) for table in tables]
    if not any(later):
        return "2.0 or 2.1, not complete"
    if not all(later):
        return "unknown: some tables have the columns of 2.2 and some have not"
    groups = pl.col("anchor_year_group")
    if "anchor_year_group" in map(str.lower, raw.columns("hosp/patients")):
        frame = raw.scan("hosp/patients", ["anchor_year_group"]).select(groups.str.slice(0, 4).max())
        first = collect(frame, "hosp/patients").item()
        if first is not None and first >= "2020":
            return "3.0 or later, not complete"
    return "2.2 or later, not complete"


class Identities:
    """Hashes of the raw tables, worked out in a thread beside other work, in a `with` block."""

    def __init__(self, raw: RawMimic) -> None:
        self.raw, self.stopped = raw, Event()
        self.before = stamps(raw)
        self.pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Identities:
        self.hashes = {
            table: self.pool.submit(_sha256, self.raw.path(table), self.stopped.is_set) for table in self.before
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self.pool.shutdown(cancel_futures=True)

    def finish(self, rows: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """What the tables are: file, bytes, sha256 and rows, by table.

        Args:
            rows: of tables that an earlier call has read.

        Raises:
            UserError: a file has changed since the block began.
        """
        found = {}
        for table, (size, _) in self.before.items():
            path = self.raw.path(table)
            found[table] = {
                "file": path.name,
                "bytes": size,
                "sha256": self.hashes[table].result(),
                "rows": rows.get(table, self.raw.rows.get(table, -1)),
            }
            if found[table]["rows"] < 0:
                found[table]["rows"] = self.raw.count(table)
        after = stamps(self.raw)
        changed = [str(self.raw.path(table)) for table in self.before if self.before[table] != after.get(table)]
        if changed:
            raise UserError(f"{', '.join(changed)} changed while it was read; prepare the data set again")
        return found


def stamps(raw: RawMimic) -> dict[str, tuple[int, int]]:
    """Bytes and time of last change (ns) of every table's file."""
    paths = {table: raw.path(table) for table in TABLES}
    states = {table: path.stat() for table, path in paths.items() if path is not None}
    return {table: (state.st_size, state.st_mtime_ns) for table, state in states.items()}


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    return _sha256(path, lambda: False)


def _sha256(path: Path, stopped: Callable[[], bool]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while not stopped() and (chunk := stream.read(_CHUNK)):
            digest.update(chunk)
    return digest.hexdigest()


def content_fingerprint(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash for the content of all tables, wherever they lie."""
    lines = "".join(f"{table}\0{files[table]['sha256']}\n" for table in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def oddities(raw: RawMimic) -> dict[str, int]:
    """Counts of rows of the core tables that contradict others or themselves."""
    stays = collect(raw.scan("icu/icustays", ["subject_id", "hadm_id", "intime", "outtime", "los"]), "icu/icustays")
    columns = ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime"]
    admissions = collect(raw.scan("hosp/admissions", columns), "hosp/admissions")
    patients = collect(raw.scan("hosp/patients", ["subject_id", "anchor_age", "dod"]), "hosp/patients")
    late = admissions.join(patients, on="subject_id").filter(pl.col("admittime").dt.truncate("1d") > pl.col("dod"))
    own = stays.join(admissions, on=["subject_id", "hadm_id"])
    length = (pl.col("outtime") - pl.col("intime")).dt.total_seconds() / 86_400
    return {
        "stays without an admission of the same patient": len(stays) - len(own),
        "admissions without a patient": len(admissions.join(patients, on="subject_id", how="anti")),
        "stays with a blank length or end": len(stays.filter(pl.col("los").is_null() | pl.col("outtime").is_null())),
        "stays that end before they begin": len(stays.filter(pl.col("outtime") < pl.col("intime"))),
        "stays whose length is not that between begin and end": len(
            stays.filter((pl.col("los") - length).abs() > 0.05)
        ),
        "stays that begin before their admission": len(own.filter(pl.col("intime") < pl.col("admittime"))),
        "stays that begin after discharge": len(own.filter(pl.col("intime") > pl.col("dischtime"))),
        "admissions that end before they begin": len(admissions.filter(pl.col("dischtime") < pl.col("admittime"))),
        "admissions after the day of death": len(late),
        "patients whose age is not 0 to 120": len(patients.filter(~pl.col("anchor_age").is_between(0, 120))),
        "deaths before admission": len(admissions.filter(pl.col("deathtime") < pl.col("admittime"))),
    }
