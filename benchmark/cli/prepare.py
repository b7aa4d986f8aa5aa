"""`bench prepare`: from raw MIMIC files to a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def prepare_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    mimic_iv: Annotated[Path, typer.Option(help="MIMIC-IV: the folder that holds hosp/ and icu/.")],
    mimic_cxr: Annotated[
        Path | None, typer.Option(help="MIMIC-CXR-JPG: the folder that holds the metadata CSV and files/.")
    ] = None,
    mimic_note: Annotated[
        Path | None, typer.Option(help="MIMIC-IV-Note: the folder that holds note/discharge.csv.gz.")
    ] = None,
    profile: Annotated[
        str, typer.Option(metavar="fix|ref", help="fix: recommended rules; ref: those of the published pipeline.")
    ] = "fix",
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SETTING", help="A rule set otherwise than in the profile; may be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What tables call this data set.")] = None,
) -> None:
    """Turn raw MIMIC files, plain or gzipped, into a data set for `bench run --data`.

    A source that is not given is no error: without films there is no DIA, without notes no DRG. The report says so.
    `bench list rules` shows what --rule can set. A call that was stopped can be made again and goes on where it was; if
    OUT was made from the same files by the same rules already, nothing is done.

    Examples:

        bench prepare --mimic-iv mimiciv/2.2 --mimic-cxr mimic-cxr-jpg/2.0.0 --mimic-note mimic-iv-note/2.2 data/mimic

        bench prepare --mimic-iv mimic-iv-demo data/demo

        bench prepare --mimic-iv mimiciv/2.2 --profile ref --rule split=hashed data/ref
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from benchmark.cli.progress import Steps
    from benchmark.data.prepare import prepare
    from benchmark.data.rules import Rules

    rules = Rules.of_profile(profile, rule or [])
    out, mimic_iv, mimic_cxr, mimic_note = (
        path and path.expanduser() for path in (out, mimic_iv, mimic_cxr, mimic_note)
    )
    console, known = Console(), os.path.lexists(out)
    with Steps(console) as steps:
        prepare(mimic_iv, out, mimic_cxr, mimic_note, name, steps, rules)
    if known:
        typer.echo(
            f"nothing has changed since {out} was prepared, and none of its files is missing (`bench data check` looks "
            "into them); remove it to prepare it again"
        )
        return
    report = (out / "cohort.md").read_text(encoding="utf-8")
    if console.is_terminal:
        console.print(Markdown(report))
    else:
        typer.echo(report)
    typer.echo(f"data set: {out}")
