"""Writes a simulated cohort: patients in chunks, chunks by several processes, files in one place."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError
from benchmark.simulation import diagnoses, truth, writers
from benchmark.simulation.layout import MIMIC_CXR, MIMIC_IV, MIMIC_NOTE, TABLES, columns
from benchmark.simulation.missing import MissingRates
from benchmark.simulation.records import build_patient, dictionary_rows
from benchmark.simulation.streams import MAX_PATIENTS

GENERATOR = "flexcare-bench simulation 1"
_CHUNK = 25
_ALONE = 4 * _CHUNK  # below this, starting processes takes longer than the work

Progress = Callable[[str, int, int], None]


def simulate(
    out: Path,
    patients: int,
    seed: int,
    missing: MissingRates | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> None:
    """Write raw files of simulated patients in the layout of MIMIC-IV, MIMIC-CXR-JPG and MIMIC-IV-Note.

    Patient k is the same whatever the number of patients, and equal arguments give equal bytes.

    Args:
        out: folder to write; must not exist or be empty.
        patients: how many, at least 1.
        seed: not negative.
        missing: how often modalities are absent; by default as published.
        progress: called with ("simulate", done, total).
        workers: processes; by default one per processor, at most 8, and one in all for a hundred patients or fewer. Has
            no influence on the result. A script that calls this needs the usual `if __name__ == "__main__"`.

    Raises:
        UserError: for a folder that holds something, or numbers that are not allowed.
    """
    out, missing = Path(out), missing or MissingRates()
    _check(out, patients, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    building = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        building.mkdir()
        _write(building, patients, seed, missing, progress, workers)
        if out.exists():
            out.rmdir()
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check(out: Path, patients: int, seed: int) -> None:
    if not 1 <= patients <= MAX_PATIENTS:
        raise UserError(f"patients is {patients}; allowed are 1 to {MAX_PATIENTS}")
    if seed < 0:
        raise UserError(f"seed is {seed}; allowed are 0 and above")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; name a folder that does not exist yet")


def _write(
    folder: Path, patients: int, seed: int, missing: MissingRates, progress: Progress | None, workers: int | None
) -> None:
    files = {table: writers.GzipCsv(folder / f"{table}.csv.gz", columns(table)) for table in TABLES}
    try:
        for table, rows in dictionary_rows().items():
            files[table].write(writers.rows_to_csv(table, rows))
        tasks = [
            (str(folder), seed, first, min(first + _CHUNK, patients), missing) for first in range(0, patients, _CHUNK)
        ]
        with pq.ParquetWriter(folder / "truth.parquet", truth.SCHEMA, compression="zstd") as known:
            for task, (texts, rows) in zip(tasks, _chunks(tasks, workers), strict=True):
                for table, text in texts.items():
                    files[table].write(text)
                known.write_table(rows)
                if progress is not None:
                    progress("simulate", task[3], patients)
    finally:
        for file in files.values():
            file.close()
    _mark(folder, patients, seed, missing)


def _chunks(tasks: list[tuple], workers: int | None) -> Iterator[tuple[dict[str, bytes], pa.Table]]:
    """Yield the chunks in order, made here or by other processes."""
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    if workers <= 1 or tasks[-1][3] < _ALONE:
        yield from map(_build_chunk, tasks)
        return
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(_build_chunk, tasks)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _build_chunk(task: tuple[str, int, int, int, MissingRates]) -> tuple[dict[str, bytes], pa.Table]:
    """Build patients first .. last - 1: write their films, return CSV lines per table and truth rows."""
    folder, seed, first, last, missing = task
    rows: dict[str, list[dict]] = defaultdict(list)
    events: dict[str, list[dict[str, np.ndarray]]] = defaultdict(list)
    known = []
    for number in range(first, last):
        files = build_patient(seed, number, missing)
        for table, lines in files.rows.items():
            rows[table] += lines
        for table, drawn in files.events.items():
            events[table].append(drawn)
        for name, picture in files.films.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
        known.append(files.truth)
    texts = {table: writers.rows_to_csv(table, lines) for table, lines in rows.items()}
    for table, parts in events.items():
        texts[table] = writers.events_to_csv(
            table, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )
    return texts, pa.concat_tables(known).combine_chunks()


def _mark(folder: Path, patients: int, seed: int, missing: MissingRates) -> None:
    """Leave a note in every folder that nothing here is about a real person."""
    facts = {
        "generator": GENERATOR,
        "patients": patients,
        "seed": seed,
        "missing": asdict(missing),
        "drg_classes": list(diagnoses.group_codes()),
    }
    for name, known in (
        ("", "truth.parquet"),
        (MIMIC_IV, "../truth.parquet"),
        (MIMIC_CXR, "../truth.parquet"),
        (MIMIC_NOTE, "../truth.parquet"),
    ):
        (folder / name / "SIMULATED.json").write_text(
            json.dumps(facts | {"truth": known}, indent=2) + "\n", encoding="utf-8"
        )
