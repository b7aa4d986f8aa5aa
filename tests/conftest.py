"""What holds for all tests: where they find each other's helpers, and one thread for torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# `tests/models` must not hide the package `models`: a regular package on the path wins over a plain folder.
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def pytest_configure(config: pytest.Config) -> None:
    """Sums are then made in the same order everywhere, and small tensors need no second core."""
    import torch

    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are interpreted; Triton asks when it is imported
