"""What holds for all tests: where they find each other's helpers, and one thread for torch."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# `tests/models` must not hide the package `models`: a regular package on the path wins over a plain folder.
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def pytest_configure(config: pytest.Config) -> None:
    """Sums are then made in the same order everywhere, and small tensors and tables need no second core."""
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read when it is imported
    if getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput"):
        return  # this process shares out the tests and runs none
    import torch

    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are interpreted; Triton asks when it is imported


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: a core that is given one of them last keeps the other one waiting."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """The libraries' million objects are there to stay; to look through them for garbage takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_unconfigure() -> None:
    gc.unfreeze()  # Triton complains at the end of what was never collected
