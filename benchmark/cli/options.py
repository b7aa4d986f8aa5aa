"""Options that the verbs on stored runs have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder given to `bench run --out`. Default: the same as there."),
]
Group = Annotated[
    str | None,
    typer.Option(help="First digits of a group of runs; groups differ in data, protocol or code. Default: the newest."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The prepared data set of the runs, for what restores models or looks at patients. Default: the embedded "
        "cohort that was used.",
    ),
]
