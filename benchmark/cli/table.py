"""`bench table`: the results table of stored runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.options import Group, Out

if TYPE_CHECKING:
    from rich.console import Console

    from benchmark.reporting.resamples import Progress
    from benchmark.reporting.tables import ResultTable
    from benchmark.runs.groups import RunGroup


def table_command(
    out: Out = None,
    published: Annotated[
        bool, typer.Option("--published", help="Put the paper's figures beside, with the difference.")
    ] = False,
    group: Group = None,
    all_metrics: Annotated[
        bool, typer.Option("--all-metrics", help="Also those that the paper's table does not have.")
    ] = False,
) -> None:
    """Print the results so far.

    A cell is the mean over seeds, with the sample standard deviation. The same table is written as Markdown, LaTeX and
    CSV.

    Examples:

        bench table

        bench table --published --out results

        bench table --group 3f2a --all-metrics
    """
    from rich.console import Console

    from benchmark.cli.progress import Steps
    from benchmark.config import default_out

    place = out.expanduser().resolve() if out else default_out()
    console = Console()
    with Steps(Console(stderr=True)) as steps:
        tables, others = make_tables(place, group, published, steps)
    print_tables(console, tables, place, all_metrics, others)


def make_tables(
    out: Path, group: str | None = None, with_published: bool = False, progress: Progress = lambda *_: None
) -> tuple[list[ResultTable], list[RunGroup]]:
    """The tables of one group of the runs under `out`, with intervals and marks, and the other groups there."""
    from benchmark import registry
    from benchmark.reporting.layouts import layouts
    from benchmark.reporting.resamples import resamples_of
    from benchmark.reporting.tables import build_tables
    from benchmark.runs.collect import collect
    from benchmark.runs.groups import choose, groups

    runs = collect(out)
    found = groups(out, runs)
    chosen = choose(found, group, out)
    entries = registry.models()
    resamples = resamples_of(out, runs, chosen)
    resamples.compute(progress)
    every = layouts(entries, set(runs["model"]))
    tables = build_tables(runs, chosen, list(entries), every, with_published, resamples)
    return tables, [other for other in found if other is not chosen]


def print_tables(
    console: Console,
    tables: Sequence[ResultTable],
    out: Path,
    all_metrics: bool = False,
    others: Sequence[RunGroup] = (),
) -> None:
    """Shows the tables, writes their files and says where they are."""
    from benchmark.reporting.formats import to_markdown, to_screen, write_tables

    try:
        for table in tables:
            if console.is_terminal:
                console.print(to_screen(table, all_metrics, console.width))
            else:
                typer.echo(to_markdown(table, all_metrics))
    finally:  # also if somebody closes the pipe early, as `head` does
        written = [write_tables(table, out / "tables", all_metrics) for table in tables]
    for files in written:
        for name, path in files.items():
            typer.echo(f"{name + ':':<10}{path}")
    if others:
        typer.echo("\nOther groups of runs here, of other data, protocol or code (bench table --group ID):")
    for other in others:
        caption = other.caption
        about = f"{caption['data']['name']}, {caption['protocol']['name']}, code {caption['code']['version'][:8]}"
        typer.echo(f"  {other.id}  {other.newest[:16].replace('T', ' ')}  {len(other.runs)} runs  {about}")
