"""Fingerprints of the source text that determines results: a run is repeated when, and only when, that text changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages `benchmark`, `models` and `baselines`: a source checkout or site-packages."""

RESULT_SOURCES = (
    "models",
    "baselines",
    "benchmark/random.py",
    "benchmark/data",
    "benchmark/evaluation",
    "benchmark/tasks",
    "benchmark/training",
)
"""What a run's numbers depend on. The command line, the runner and the tables are left out: they only carry numbers."""

COHORT_SOURCES = ("benchmark/random.py", "benchmark/data", "benchmark/simulation", "benchmark/tasks")
"""What the embedded cohort depends on."""

_SUFFIXES = frozenset({".py", ".csv", ".yaml", ".json"})


@cache
def code_version(sources: tuple[str, ...] = RESULT_SOURCES) -> str:
    """SHA-256 (hex) over names and contents of all source files under `sources`, relative to `ROOT`."""
    files: list[Path] = []
    for source in sources:
        path = ROOT / source
        files += [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in _SUFFIXES]
    return hash_files(files, ROOT)


def hash_files(files: Iterable[Path], root: Path | None = None) -> str:
    """SHA-256 (hex) over files in any order; names count relative to `root`, or by their last part without one."""
    digest = hashlib.sha256()
    for name, file in sorted((str(file.relative_to(root)) if root else file.name, file) for file in set(files)):
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
