"""How long raw tables of a given size take on their way to the series stores, and how much memory.

The tables are made (`raw_tables`), then read, filtered, cleaned, discretised and written by a fresh process, whose own
peak of memory is what counts. Nothing is put into memory beforehand; whether the files come from the disk or from the
system's cache depends on their size and on the machine, and a table that has just been written is usually in the cache.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

from benchmark.memory import peak_resident
from benchmark.throughput.raw_tables import write_raw_tables

MIMIC_ROWS = 313_645_063 + 118_171_367
"""Rows of chartevents and labevents of MIMIC-IV 2.2."""

CHART, LABS = "icu/chartevents", "hosp/labevents"


@dataclass(frozen=True)
class Measured:
    """One size.

    Attributes:
        rows: of each large table. megabytes: of the files. events: after cleaning. hours: rows of the stores.
        seconds: of each step, in order. total: seconds from opening the files to the finished stores.
        cpu: seconds of all cores together, which say more than `total` on a machine that is busy with other things.
        peak: largest memory of the process in MiB, libraries included.
    """

    rows: dict[str, int]
    megabytes: float
    events: int
    hours: int
    seconds: dict[str, float]
    total: float
    cpu: float
    peak: float

    @property
    def rate(self) -> float:
        """Rows of both tables a second."""
        return sum(self.rows.values()) / self.total


def measure_scale(
    sizes: Sequence[int],
    folder: Path | None = None,
    compress: bool = True,
    seed: int = 0,
    lab_rows: int | None = None,
) -> Iterator[Measured]:
    """Make tables of each size, measure, and delete them.

    Args:
        sizes: rows of chartevents. lab_rows: rows of labevents at every size; by default as many for each row of
            chartevents as in MIMIC-IV 2.2.
        folder: where the tables and stores lie meanwhile; by default in the system's temporary folder. A hundred
            million rows need about 4 GB there, gzipped. compress: whether the tables are gzipped.
    """
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="scale-", dir=folder) as place:
            write_raw_tables(Path(place) / "raw", rows, lab_rows, seed=seed, compress=compress)
            yield measure(Path(place) / "raw", Path(place) / "out")


def measure(raw: Path, out: Path) -> Measured:
    """Take the tables of a MIMIC-IV folder through, in a process of its own; `out` is deleted afterwards."""
    command = [sys.executable, "-m", __spec__.name, str(raw), str(out)]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=messages)
        messages.seek(0)
        if process.returncode:
            raise RuntimeError(
                f"{' '.join(command)} ended with {process.returncode}: {messages.read().decode()[-2000:]}"
            )
    shutil.rmtree(out)
    return Measured(**json.loads(process.stdout))


def markdown(measured: Sequence[Measured]) -> str:
    """A table of sizes, times and memory."""
    rows = [
        {
            "chart rows": f"{one.rows[CHART]:,}",
            "lab rows": f"{one.rows.get(LABS, 0):,}",
            "files, MB": f"{one.megabytes:,.0f}",
            **{f"{step}, s": f"{seconds:.1f}" for step, seconds in one.seconds.items()},
            "total, s": f"{one.total:.1f}",
            "CPU, s": f"{one.cpu:.1f}",
            "rows/s": f"{one.rate / 1e6:.2f} M",
            "peak, MiB": f"{one.peak:,.0f}",
            "MIMIC-IV 2.2 at this rate": f"{MIMIC_ROWS / one.rate / 60:.1f} min",
        }
        for one in measured
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


class _Watch:
    """Adds up the time between the first and the last report of each step."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self.begun.setdefault(step, now)


def _take_through(raw_folder: Path, out: Path) -> Measured:
    """What is measured: from raw tables to stores, in this process."""
    from benchmark.data.events import extract_events
    from benchmark.data.raw import RawMimic
    from benchmark.data.series import write_series

    watch, begun, worked = _Watch(), time.perf_counter(), time.process_time()
    raw = RawMimic(raw_folder)
    columns = ["subject_id", "hadm_id", "stay_id", "intime", "outtime", "los"]
    stays = raw.scan("icu/icustays", columns).collect().to_pandas()
    stays["los_hours"] = stays["los"] * 24
    events = extract_events(raw, stays, out / "events", progress=watch)
    training = set(stays.stay_id[stays.subject_id % 10 < 7].tolist())
    cuts = stays[["stay_id"]].assign(hour=stays.los_hours / 2)
    index = write_series(events, stays, training, cuts, out, progress=watch)
    total, cpu = time.perf_counter() - begun, time.process_time() - worked
    sizes = [path.stat().st_size for table in (CHART, LABS) if (path := raw.path(table))]
    rows, hours = events.report["read"], sum(index.rows.values())
    return Measured(
        rows, sum(sizes) / 1e6, events.report["events"], hours, watch.seconds, total, cpu, peak_resident() / 2**20
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_take_through(Path(sys.argv[1]), Path(sys.argv[2])))))
