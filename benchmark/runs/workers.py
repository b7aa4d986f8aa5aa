"""Manners of worker processes: they leave decisions to their parent, end with it, and start with the right threads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from multiprocessing import parent_process


def as_worker() -> None:
    """Makes this process a worker of the one that spawned it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.filterwarnings("ignore", category=UserWarning, module="benchmark.registry")  # told once, by the parent


def import_path() -> dict[str, str]:
    """Lets a new Python process that is started by others find the packages that this one finds."""
    return {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


class threads_in_environment:
    """Lets numeric libraries of a new process start with the right number of threads; they read it once, at import.

    Other `variables` of its environment can be given along.
    """

    NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")

    def __init__(self, threads: int, variables: Mapping[str, str] | None = None) -> None:
        self.values = {**dict.fromkeys(self.NAMES, str(threads)), **(variables or {})}

    def __enter__(self) -> None:
        self.before = {name: os.environ.get(name) for name in self.values}
        os.environ.update(self.values)

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
