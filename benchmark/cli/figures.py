"""`bench figures`: the paper's figures from stored runs."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.options import Data, Group, Out


def figures_command(
    numbers: Annotated[
        list[int] | None,
        typer.Argument(metavar="[4|5|6|7]...", help="Which figures. Default: all that the runs allow."),
    ] = None,
    out: Out = None,
    group: Group = None,
    data: Data = None,
) -> None:
    """Draw the paper's figures from finished runs.

    4: ablations. 5: patient representations without and with task token. 6: use of the experts. 7: test scores after
    each task's part of each epoch (runs of `bench run --trace`). Each is written as PDF, SVG and PNG, with its data as
    CSV and a caption.

    Examples:

        bench figures

        bench figures 4 7 --out results

        bench figures 5 6 --group 3f2a --data data/mine
    """
    from rich.console import Console

    from benchmark import registry
    from benchmark.cli.progress import Steps
    from benchmark.config import default_out
    from benchmark.errors import UserError
    from benchmark.reporting.figures import write
    from benchmark.reporting.paper import paper_figures
    from benchmark.runs.collect import collect
    from benchmark.runs.groups import choose, groups

    place = out.expanduser().resolve() if out else default_out()
    folder = data.expanduser().resolve() if data else None
    runs = collect(place)
    chosen = choose(groups(place, runs), group, place)
    with Steps(Console()) as steps:
        done = paper_figures(place, runs, chosen, registry.models(), numbers, folder, steps)
    if numbers and not done.drawn:
        raise UserError("\n".join(done.remarks))
    for drawn in done.drawn:
        files = write(drawn, place / "figures")
        typer.echo(f"{drawn.caption}\n")
        for file in files:
            typer.echo(f"  {file}")
        typer.echo("")
    for remark in done.remarks:
        typer.echo(remark)
