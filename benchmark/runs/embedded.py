"""The embedded cohort: simulated raw files put through the same preparation as real ones, kept between calls."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmark.code_version import COHORT_SOURCES, code_version
from benchmark.files import remove_abandoned
from benchmark.locks import holding
from benchmark.runs.folder import unfinished_folder

Progress = Callable[[str, int, int], None]


def embedded_folder(home: Path, patients: int, seed: int) -> Path:
    """Where the prepared cohort lies, once it is made; each version of the code that makes it has its own folder."""
    return home / "data" / f"embedded-{patients}-s{seed}-{code_version(COHORT_SOURCES)[:12]}"


def embedded_cohort(home: Path, patients: int, seed: int, progress: Progress | None = None) -> Path:
    """The prepared embedded cohort; simulated and prepared now unless that was done before. Raw files are not kept.

    Args:
        home: folder of results; the cohort is kept in its `data` folder.
        patients, seed: of the simulation.
        progress: called with (what, done, total).
    """
    target = embedded_folder(home, patients, seed)
    if not (target / "manifest.json").is_file():
        with holding(target.with_name(f".{target.name}.lock"), wait=True):
            if not (target / "manifest.json").is_file():  # otherwise another process has just made it
                _make(target, patients, seed, progress)
    return target


def _make(target: Path, patients: int, seed: int, progress: Progress | None) -> None:
    from benchmark.data.prepare import prepare
    from benchmark.simulation import simulate

    remove_abandoned(target.parent)
    workshop = unfinished_folder(target.parent)
    try:
        raw, prepared = workshop / "raw", workshop / "prepared"
        simulate(raw, patients, seed, progress=progress)
        name = f"embedded cohort, {patients} patients"
        prepare(
            raw / "mimic-iv",
            prepared,
            mimic_cxr=raw / "mimic-cxr",
            mimic_note=raw / "mimic-note",
            name=name,
            progress=progress,
        )
        os.rename(prepared, target)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
