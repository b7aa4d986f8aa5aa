"""`bench simulate`: raw files of made-up patients whose true outcome probabilities are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it must not exist or be empty.")],
    patients: Annotated[int, typer.Option(help="How many patients.")] = 1000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")] = 1,
    missing_image: Annotated[
        float | None, typer.Option(metavar="SHARE", help="ICU stays without a frontal film. Default: 0.82.")
    ] = None,
    missing_note: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Admissions without a usable history. Default: 0.08.")
    ] = None,
    missing_film_series: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Films outside any ICU time series. Default: 0.76.")
    ] = None,
    missing_film_note: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Films without a usable history. Default: 0.33.")
    ] = None,
) -> None:
    """Write raw files of simulated patients, in the layout of MIMIC-IV, MIMIC-CXR-JPG and MIMIC-IV-Note.

    No row is about a real person. Patient k is the same whatever the number of patients. OUT/truth.parquet holds the
    true outcome probability of every sample; no model ever sees it.

    Examples:

        bench simulate --patients 1000 --seed 1 raw

        bench prepare --mimic-iv raw/mimic-iv --mimic-cxr raw/mimic-cxr --mimic-note raw/mimic-note data/simulated
    """
    from rich.console import Console

    from benchmark.cli.progress import Steps
    from benchmark.simulation import MissingRates, simulate

    given = {
        "image": missing_image,
        "note": missing_note,
        "film_series": missing_film_series,
        "film_note": missing_film_note,
    }
    missing = MissingRates(**{name: rate for name, rate in given.items() if rate is not None})
    out = out.expanduser()
    with Steps(Console()) as steps:
        simulate(out, patients, seed, missing, steps)
    typer.echo(f"simulated patients: {out}")
