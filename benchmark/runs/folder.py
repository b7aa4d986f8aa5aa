"""Run folders: written under a temporary name, renamed when complete, so that whatever has its final name is whole.

OUT/runs/<job id>/          run.json, predictions.parquet, history.parquet, checkpoint.safetensors; trace.parquet of
                            a traced run
OUT/runs/<job id>.failed/   run.json with the error; replaced by the next attempt
OUT/unfinished/<job id>/    what a job under way has reached; removed when it is done
OUT/unfinished/<job id>.lock  held by the process that is at the job
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.files import as_usual, unfinished_prefix

FORMAT = 1
_FAILED = ".failed"


def folders(out: Path) -> list[Path]:
    """`out` and all folders of it in which a run writes files."""
    return [out, *(path for path in (*out.glob("*"), *out.glob("unfinished/*")) if path.is_dir())]


def runs_folder(out: Path) -> Path:
    return out / "runs"


def course_folder(out: Path, job_id: str) -> Path:
    """Where a job keeps what it has reached until it is done."""
    return out / "unfinished" / job_id


def course_file(out: Path, job_id: str) -> Path:
    """The last epoch that a job kept."""
    return course_folder(out, job_id) / "course.safetensors"


def lock_file(out: Path, job_id: str) -> Path:
    """What the process that is at a job holds (see `benchmark.locks`)."""
    return out / "unfinished" / f"{job_id}.lock"


def remove_course(out: Path, job_id: str) -> None:
    shutil.rmtree(course_folder(out, job_id), ignore_errors=True)


def is_done(out: Path, job_id: str) -> bool:
    return (runs_folder(out) / job_id / "run.json").is_file()


def finished_runs(out: Path) -> Iterator[Path]:
    """Folders of finished and failed runs; never one that is still being written."""
    for file in sorted(runs_folder(out).glob("*/run.json")):
        if not file.parent.name.startswith("."):
            yield file.parent


@contextmanager
def new_run(out: Path, job_id: str, failed: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which takes the run's name when the block ends without an error.

    If another process finished the same job in the meantime, its folder stays and this one is dropped.
    """
    runs = runs_folder(out)
    temporary = unfinished_folder(runs)
    try:
        yield temporary
        _flush(temporary)
        for path in (temporary, *temporary.iterdir()):
            as_usual(path)
        target = runs / (job_id + _FAILED if failed else job_id)
        if failed:
            shutil.rmtree(target, ignore_errors=True)
        if not _moved(temporary, target):
            return
        if not failed:
            shutil.rmtree(runs / (job_id + _FAILED), ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unfinished_folder(parent: Path) -> Path:
    """A new folder in `parent` to fill and then rename; its name tells whose it is."""
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=unfinished_prefix(), dir=parent))


def json_text(value: Any) -> str:
    """Strict JSON: NaN and infinite numbers become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _moved(source: Path, target: Path) -> bool:
    try:
        os.rename(source, target)
    except OSError:
        if target.is_dir():
            return False
        raise
    return True


def _flush(folder: Path) -> None:
    """Makes the files' contents durable before the rename does the same for their name."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
