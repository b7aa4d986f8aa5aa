"""A folder of measured figures: tables as Markdown, LaTeX and CSV, plots, and the raw rounds.

It appears under its name when it is complete.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from benchmark.data.stores import new_folder
from benchmark.errors import UserError
from benchmark.files import write_fault
from benchmark.reporting.figures.style import STYLE
from benchmark.reporting.formats import latex_text, markdown_text
from benchmark.reporting.sheets import Sheet
from benchmark.runs.environment import environment, git_commit
from benchmark.throughput.steps import Measurement

SIMULATED = "SIMULATED SAMPLES"
"""Stands in every file: no figure here is of a patient."""


def facts_of(device: torch.device, threads: int, peaks: Mapping[str, float]) -> dict[str, Any]:
    """What the figures hold for: device, versions, date, threads, and the device's peak."""
    facts = environment(device.type, threads)
    facts |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit(), "simulated": True}
    if device.type == "cuda":
        facts["driver"] = driver_version()
    return facts | {"peak_flops": dict(peaks)}


def driver_version() -> str | None:
    """Of the GPUs here, as their own tool says it; torch knows the version of CUDA alone. None without that tool."""
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def caption(facts: Mapping[str, Any]) -> str:
    """One line on where and when.

    >>> caption({"device": "cpu", "device_name": "AMD EPYC", "threads": 1, "packages": {"torch": "2.13.0"},
    ...          "date": "2026-01-02T03:04:05+00:00", "peak_flops": {"float32": 7.5e10}})
    'AMD EPYC (cpu), 1 thread, torch 2.13.0, 2026-01-02; peak by a large matrix product: float32 75 GFLOP/s.'
    """
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"
    driver = f", driver {facts['driver']}" if facts.get("driver") else ""
    peaks = ", ".join(f"{name} {_rate(value)}" for name, value in facts["peak_flops"].items())
    return (
        f"{facts['device_name']} ({facts['device']}), {threads}, torch {facts['packages']['torch']}{driver}, "
        f"{facts['date'][:10]}; peak by a large matrix product: {peaks}."
    )


def _rate(value: float) -> str:
    return f"{value / 1e12:,.0f} TFLOP/s" if value >= 1e13 else f"{value / 1e9:,.0f} GFLOP/s"


def default_folder(results: Path, device: torch.device) -> Path:
    """`results/throughput/<device>-<date>`."""
    name = environment(device.type, 1)["device_name"]
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return results / "throughput" / f"{plain}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def require_free(folder: Path) -> None:
    """Refuses, before anything is measured, a folder that exists or cannot be made."""
    if folder.exists():
        raise UserError(f"{folder} exists already; figures are never written over others. Choose another --out")
    if fault := write_fault(folder):
        raise UserError(f"nothing can be written in {folder}: {fault}")


def write_folder(
    folder: Path,
    facts: Mapping[str, Any],
    sheets: Sequence[Sheet],
    figures: Mapping[str, Figure],
    raw: Mapping[str, Any],
    remarks: Iterable[str] = (),
) -> None:
    """Writes everything at once.

    Args:
        figures: by name. raw: rounds and counts, kept as JSON with the facts. remarks: sentences under the title.
    """
    with new_folder(folder) as place:
        (place / "throughput.md").write_text(markdown(facts, sheets, remarks, list(figures)))
        (place / "throughput.tex").write_text("\n".join(latex(sheet, facts) for sheet in sheets))
        for sheet in sheets:
            flat = {"device": facts["device_name"], "threads": facts["threads"], "torch": facts["packages"]["torch"]}
            lines = sheet.lines.assign(**flat, date=facts["date"], simulated=True)
            lines.to_csv(place / f"{sheet.name}.csv", index=False, lineterminator="\n")
        (place / "rounds.json").write_text(json.dumps({"facts": dict(facts), **raw}, indent=1) + "\n")
        with matplotlib.rc_context(STYLE):
            for name, figure in figures.items():
                figure.savefig(place / f"{name}.png", dpi=300)
                figure.savefig(place / f"{name}.svg", metadata={"Date": None})


def markdown(
    facts: Mapping[str, Any], sheets: Sequence[Sheet], remarks: Iterable[str] = (), figures: Sequence[str] = ()
) -> str:
    """All tables, one after the other."""
    parts = ["# Measured speed", f"{SIMULATED}. {caption(facts)}", *remarks]
    if facts["device"] != "cuda":
        parts.append("CUDA device: not measured; this run was on a CPU.")
    for sheet in sheets:
        parts += [f"## {sheet.title}", table(sheet.shown), *map(markdown_text, sheet.notes)]
    parts += [f"![{name}]({name}.svg)" for name in figures]
    return "\n\n".join(parts) + "\n"


def table(shown: pd.DataFrame) -> str:
    """A table as Markdown."""
    cells = [[markdown_text(str(cell)) for cell in row] for row in shown.itertuples(index=False)]
    header = [markdown_text(name) for name in shown.columns]
    return tabulate(cells, headers=header, tablefmt="github", disable_numparse=True)


def latex(sheet: Sheet, facts: Mapping[str, Any]) -> str:
    """A floating table for papers; needs the package booktabs."""
    names = sheet.shown.columns
    lines = [" & ".join(map(latex_text, map(str, row))) + r" \\" for row in sheet.shown.itertuples(index=False)]
    title = f"{SIMULATED}. {sheet.title}. {caption(facts)} {' '.join(sheet.notes)}"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table*}[t]",
            r"\centering",
            r"\footnotesize",
            rf"\caption{{{latex_text(title)}}}",
            rf"\label{{tab:throughput-{sheet.name}}}",
            rf"\begin{{tabular}}{{{'l' * len(names)}}}",
            r"\toprule",
            " & ".join(map(latex_text, names)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def raw_rounds(found: Measurement) -> dict[str, Any]:
    """Every round of a measurement, as plain values."""
    return {
        "comparisons": [
            {"rows": [asdict(row) for row in comparison.rows], "again": asdict(comparison.again)}
            for comparison in found.comparisons
        ]
    }
