"""`bench verify`: repeats a stored run and says whether the same comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import Data, Out


def verify_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or the first signs of its name.")],
    out: Out = None,
    data: Data = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Default: that of the run.")] = None,
) -> None:
    """Train and test a stored run once more, and compare with what is stored.

    Equal code, data and packages on a CPU give equal bytes, whatever ran beside. On a GPU sums are made in another
    order from call to call, so that the last digits differ; runs made with --deterministic are repeated with it, and
    there equal bytes are to be expected. A run whose seed was trained side by side with others is repeated with the
    same ones, since how many they are may change the order of sums on a GPU; only RUN is compared. Exit code 0: the
    same bytes; 1: other ones.

    Examples:

        bench verify flexcare-6tasks-s40

        bench verify mmf-ihm-s40 --out results --data data/mimic

        bench verify results/runs/mmf-ihm-s40-5a62a89de559
    """
    from rich.console import Console

    from benchmark.cli.progress import Steps
    from benchmark.config import default_out
    from benchmark.errors import UserError
    from benchmark.manifest import data_of_runs
    from benchmark.runs.collect import read_run
    from benchmark.runs.folder import runs_folder
    from benchmark.runs.verify import find_run, verify
    from benchmark.suggest import unknown

    if device not in (None, "cpu", "cuda"):
        raise UserError(unknown("device", device, ("cpu", "cuda")))
    place = out.expanduser().resolve() if out else default_out()
    folder = Path(run).expanduser().resolve()
    if folder.is_dir() and folder.parent == runs_folder(folder.parent.parent):
        place, run = folder.parent.parent, folder.name
    name = find_run(place, run)
    fingerprint = read_run(runs_folder(place) / name)["job"]["data"]
    info = data_of_runs(place, fingerprint, data and data.expanduser().resolve())
    if info is None:
        raise UserError(f"{name} needs its data set; name its folder with --data")
    with Steps(Console(stderr=True)) as steps:
        verdict = verify(place, name, info, device, lambda report: steps("epochs", report.epoch, report.epochs))
    for line in verdict.elsewhere:
        typer.echo(f"otherwise than then: {line}")
    if verdict.same_bytes:
        typer.echo(f"{name}: the same bytes of predictions and of the kept state")
        return
    typer.echo(f"{name}: other bytes; the largest difference of a probability is {verdict.largest_gap:.3g}")
    for metric, gap in verdict.metrics.items():
        typer.echo(f"  {metric}: {gap:+.4f}")
    raise typer.Exit(1)
