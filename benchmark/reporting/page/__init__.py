"""The report of a group of runs as one page that needs no other file."""

from __future__ import annotations

from benchmark.reporting.page.content import Part, parts
from benchmark.reporting.page.render import render

__all__ = ["Part", "parts", "render"]
