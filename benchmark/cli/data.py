"""`bench data`: looks at prepared data sets, and measures how they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Look at prepared data sets; measure how fast they are made.", no_args_is_help=True)

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder that `bench prepare` wrote.")]


@data_app.command("check")
def check_command(
    data: Data, every: Annotated[bool, typer.Option("--every", help="Show the rules that hold as well.")] = False
) -> None:
    """Look for leaks and damage in a data set: its files are those that were written, and no input tells the outcome.

    Examples:

        bench data check data/mimic
    """
    from benchmark.data.audit import audit_folder
    from benchmark.data.fingerprint import check_fingerprint
    from benchmark.manifest import read_manifest

    data = data.expanduser()
    info = read_manifest(data)
    check_fingerprint(data, info.fingerprint)
    typer.echo(f"{info.name}: content unchanged since it was prepared ({info.fingerprint[:12]})")
    findings = audit_folder(data)
    for finding in findings:
        if finding.violated or finding.kind != "check" or every:
            typer.echo(f"BROKEN {finding}" if finding.violated else str(finding))
    broken, rules = sum(finding.violated for finding in findings), sum(finding.kind == "check" for finding in findings)
    typer.echo(f"{rules} rules checked, {f'{broken} of them broken' if broken else 'all hold'}")
    if broken:
        raise typer.Exit(1)


@data_app.command("report")
def report_command(
    data: Data,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for the report as cohort.md and cohort.html.")
    ] = None,
) -> None:
    """Show the cohort report of a data set; with --out, write it as Markdown and as a page with figures.

    Examples:

        bench data report data/mimic

        bench data report data/mimic --out report
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from benchmark.data.report import markdown
    from benchmark.data.report.stored import stored_report, write_report
    from benchmark.manifest import read_manifest

    folder = read_manifest(data.expanduser()).path
    if out is not None:
        typer.echo("\n".join(map(str, write_report(folder, out.expanduser()))))
        return
    report = markdown(*stored_report(folder))
    console = Console()
    if console.is_terminal:
        console.print(Markdown(report))
    else:
        typer.echo(report)


@data_app.command("scale")
def scale_command(
    rows: Annotated[list[int], typer.Option(help="Rows of the chart table; may be given several times.", min=1)],
    folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Where the made tables lie meanwhile.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Make .csv, not .csv.gz.")] = False,
    lab_rows: Annotated[
        int | None, typer.Option(help="Rows of the laboratory table; by default 0.377 for each chart row.", min=1)
    ] = None,
) -> None:
    """Measure how long raw tables of a size take to the finished series, and how much memory.

    Tables in MIMIC-IV's layout are made, read by a process of its own, and deleted. A hundred million rows need about
    6 GB of disk.

    Examples:

        bench data scale --rows 1000000

        bench data scale --rows 1000000 --rows 10000000 --rows 100000000 --folder /scratch

        bench data scale --rows 2000000 --lab-rows 60000000
    """
    from benchmark.throughput.scale import markdown, measure_scale

    measured = []
    for one in measure_scale(rows, folder, compress=not plain, lab_rows=lab_rows):
        typer.echo(f"{sum(one.rows.values()):,} rows in {one.total:.1f} s, {one.peak:,.0f} MiB", err=True)
        measured.append(one)
    typer.echo(markdown(measured))
