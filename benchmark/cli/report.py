"""`bench report`: everything that stored runs say, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import Data, Group, Out


def report_command(
    page: Annotated[Path, typer.Argument(metavar="OUT.html", help="File to write; an earlier one is replaced.")],
    out: Out = None,
    group: Group = None,
    data: Data = None,
) -> None:
    """Write one page with results, statistics, figures, analyses, cohort and settings; it loads nothing else.

    Examples:

        bench report report.html

        bench report report.html --out results --data data/mimic
    """
    from rich.console import Console

    from benchmark import registry
    from benchmark.cli.analyse import NAMES, NEEDS_DATA, analyses, data_of
    from benchmark.cli.progress import Steps
    from benchmark.config import default_out
    from benchmark.errors import UserError
    from benchmark.files import replace_text, write_fault
    from benchmark.reporting.layouts import layouts
    from benchmark.reporting.page import parts, render
    from benchmark.reporting.paper import paper_figures
    from benchmark.reporting.resamples import resamples_of
    from benchmark.reporting.stored import Stored
    from benchmark.reporting.tables import build_tables
    from benchmark.runs.collect import collect
    from benchmark.tuning.report import read_studies, study_part

    place = out.expanduser().resolve() if out else default_out()
    target = page.expanduser().resolve()
    if target.is_dir():  # or that would come out after all the work
        raise UserError(f"{page} is a folder; name a file to write the page to")
    if fault := write_fault(target.parent):
        raise UserError(f"cannot write to {target.parent}: {fault}")
    entries = registry.models()
    stored = Stored.open(place, list(entries), group)
    opened = data_of(stored, data)
    runs = collect(place)
    with Steps(Console(stderr=True)) as steps:
        resamples = resamples_of(place, runs, stored.group)
        resamples.compute(steps)
        tables = build_tables(runs, stored.group, list(entries), layouts(entries, set(runs["model"])), True, resamples)
        figures = paper_figures(
            place, runs, stored.group, entries, data=opened.folder if opened else None, progress=steps
        )
        made = analyses(stored, opened, "auto", steps)
        remarks, sheets = list(figures.remarks), []
        for name in (name for name in NAMES if opened is not None or name not in NEEDS_DATA):
            try:
                sheets += made[name]()
            except UserError as fault:
                remarks.append(f"The analysis {name} is left out: {fault}")
    if opened is None:
        remarks.append(
            f"Without the data set of the runs (--data) there is no cohort and no {', no '.join(NEEDS_DATA)}."
        )
    content = parts(stored, tables, figures.drawn, remarks, sheets, opened.folder if opened else None)
    caption = stored.group.caption
    studies = [study_part(one) for one in read_studies(place, caption["data"]["fingerprint"])]
    content = [*content[:-1], *studies, content[-1]]  # the settings stay the end
    title = f"Results on {caption['data']['name']}, protocol {caption['protocol']['name']}"
    replace_text(target, render(title, bool(caption["data"]["simulated"]), content))
    typer.echo(f"page: {page}")
