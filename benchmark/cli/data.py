"""`bench data`: looks at prepared data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Look at prepared data sets.", no_args_is_help=True)

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder that `bench prepare` wrote.")]


@data_app.command("check")
def check_command(data: Data) -> None:
    """Check a data set: its files are those that were written.

    Examples:

        bench data check data/mimic
    """
    from benchmark.data.fingerprint import check_fingerprint
    from benchmark.manifest import read_manifest

    info = read_manifest(data)
    check_fingerprint(data, info.fingerprint)
    typer.echo(f"{info.name}: content unchanged since it was prepared ({info.fingerprint[:12]})")


@data_app.command("report")
def report_command(data: Data) -> None:
    """Show the cohort report of a data set again.

    Examples:

        bench data report data/mimic
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from benchmark.manifest import read_manifest

    report = (read_manifest(data).path / "cohort.md").read_text(encoding="utf-8")
    console = Console()
    if console.is_terminal:
        console.print(Markdown(report))
    else:
        typer.echo(report)
