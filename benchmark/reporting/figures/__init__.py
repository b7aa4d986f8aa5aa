"""The paper's figures as pictures: one module a figure. All numbers come from `benchmark.analysis`."""

from __future__ import annotations

from benchmark.reporting.figures.style import Drawn, Facts, write

__all__ = ["Drawn", "Facts", "write"]
