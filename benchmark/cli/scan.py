"""`bench scan-results`: looks for identifiers and text of notes before results are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scan_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results, or what is to be shared of them.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="A prepared data set they were made from; may be repeated. Default: DIR/data/*."
        ),
    ] = None,
) -> None:
    """Look for identifiers of the raw data and for text of notes that slipped into results.

    Exit code 0: nothing was found; 1: something was. Data sets below DIR are left out: they are patients' data. What
    may be shared is for your data use agreement to say, not for this command.

    Examples:

        bench scan-results results

        bench scan-results to-publish --data data/mimic
    """
    from benchmark.privacy import Secrets, scan

    place = folder.expanduser().resolve()
    beside = [file.parent for file in sorted((place / "data").glob("[!.]*/manifest.json"))]
    named = [path.expanduser().resolve() for path in data or beside]
    secrets = Secrets.of(named)
    findings = list(scan(place, secrets))
    for finding in findings:
        typer.echo(f"{finding.file.relative_to(place)}: {finding.what}")
    against = (
        f"{len(secrets.numbers) + len(secrets.names):,} identifiers and {len(secrets.texts):,} texts of "
        f"{', '.join(path.name for path in named)}"
        if named
        else "general signs alone; name the data set with --data to look for its identifiers and texts"
    )
    typer.echo(f"{len(findings)} findings in {place}, looking for {against}")
    if findings:
        raise typer.Exit(1)
