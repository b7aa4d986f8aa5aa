"""The cohort report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from benchmark.data.audit.finding import Finding
from benchmark.data.report.blocks import Figure, Table
from benchmark.data.report.content import sections


def markdown(report: dict[str, Any], findings: Sequence[Finding] = ()) -> str:
    """The report as Markdown, without figures; arguments as for `sections`."""
    first, *further = sections(report, findings)
    parts = [f"# {first.title}", *map(_block, first.blocks)]
    for section in further:
        parts += [f"## {section.title}", *(_block(block) for block in section.blocks if not isinstance(block, Figure))]
    return "\n\n".join(parts) + "\n"


def _block(block: str | Table) -> str:
    if isinstance(block, str):
        return block
    align = ["left" if column in block.words else "right" for column in range(len(block.headers))]
    return tabulate(block.rows, list(block.headers), tablefmt="github", disable_numparse=True, colalign=align)
