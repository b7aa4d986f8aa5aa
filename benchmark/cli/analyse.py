"""`bench analyse`: what stored runs say beyond the results table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.options import Data, Group, Out

if TYPE_CHECKING:
    import torch

    from benchmark.data.dataset import PreparedData
    from benchmark.reporting.resamples import Progress
    from benchmark.reporting.sheets import Sheet
    from benchmark.reporting.stored import Stored

NEEDS = {"transfer": "; it takes a model that is trained on several tasks and its twin that is trained on one"}
NAMES = ("calibration", "subgroups", "patterns", "robustness", "transfer", "cost")
NEEDS_DATA = ("subgroups", "robustness")


def analyse_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ANALYSIS]...", help="Default: all that the runs allow.")
    ] = None,
    out: Out = None,
    group: Group = None,
    data: Data = None,
    models: Annotated[str | None, typer.Option(help="Names with commas between. Default: all with runs.")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where robustness predicts again.")] = "auto",
) -> None:
    """Look closer at stored runs, without training.

    calibration: Brier score, expected calibration error and reliability curves. subgroups: scores by sex, age,
    insurance and race. patterns: scores by the modalities that are present. robustness: scores while a modality is
    hidden from more and more test samples. transfer: what training on several tasks gains or loses. cost: size, work,
    speed and memory beside scores.

    Examples:

        bench analyse

        bench analyse calibration transfer --models flexcare,flexcare-st

        bench analyse subgroups robustness --out results --data data/mimic
    """
    from rich.console import Console

    from benchmark import registry
    from benchmark.cli.progress import Steps
    from benchmark.config import default_out
    from benchmark.errors import UserError
    from benchmark.reporting.stored import Stored
    from benchmark.suggest import unknown

    for name in names or ():
        if name not in NAMES:
            raise UserError(unknown("analysis", name, NAMES))
    place = out.expanduser().resolve() if out else default_out()
    chosen = [name.strip() for name in models.split(",")] if models else None
    stored = Stored.open(place, list(registry.models()), group, chosen)
    wanted = tuple(dict.fromkeys(names or NAMES))
    opened = data_of(stored, data) if set(wanted) & set(NEEDS_DATA) else None
    if opened is None and names and (lacking := [name for name in wanted if name in NEEDS_DATA]):
        raise UserError(f"{' and '.join(lacking)} need the data set of the runs; name its folder with --data")
    with Steps(Console(stderr=True)) as steps:
        made = analyses(stored, opened, device, steps)
        missing = () if opened else NEEDS_DATA
        files = [file for name in wanted for file in _show(stored, name, made[name], name in missing, not names)]
    for file in files:
        typer.echo(f"CSV: {file}")


def _show(
    stored: Stored, name: str, make: Callable[[], tuple[Sheet, ...]], lacks_data: bool, forgiving: bool
) -> list[Path]:
    """Prints the tables of an analysis and writes their files; if `forgiving`, says what stands in the way of them."""
    from benchmark.errors import UserError
    from benchmark.reporting.sheets import to_markdown, write_csv

    if lacks_data:
        typer.echo(f"{name} is left out: it needs the data set of the runs (--data)\n")
        return []
    try:
        sheets = make()
    except UserError as fault:
        if not forgiving:
            raise
        typer.echo(f"{name} is left out: {fault}\n")
        return []
    files = []
    for sheet in sheets:
        if not len(sheet.lines):
            typer.echo(f"{name}: these runs allow none{NEEDS.get(name, '')}\n")
            continue
        files.append(write_csv(sheet, stored.group, stored.out / "tables"))
        if sheet.notes:  # without any it is for plotting only
            typer.echo(to_markdown(sheet, stored.group))
    return files


def analyses(
    stored: Stored, data: PreparedData | None, device: str, progress: Progress
) -> dict[str, Callable[[], tuple[Sheet, ...]]]:
    """What makes the tables of each analysis."""

    def subgroups() -> tuple[Sheet, ...]:
        from benchmark.analysis.people import groups_of_samples
        from benchmark.reporting.parts import subgroup_sheet

        return (subgroup_sheet(stored, groups_of_samples(data), progress=progress),)

    def robustness() -> tuple[Sheet, ...]:
        from benchmark.reporting.robustness import robustness_sheet

        return (robustness_sheet(stored, data, _device(device), progress=progress),)

    def transfer() -> tuple[Sheet, ...]:
        from benchmark import registry
        from benchmark.reporting.resamples import Resamples
        from benchmark.reporting.transfer import transfer_sheet

        resamples = Resamples(stored.out, dict(zip(stored.runs["run"], stored.runs["tasks"], strict=True)))
        resamples.compute(progress)
        return (transfer_sheet(stored, registry.models(), resamples),)

    def calibration() -> tuple[Sheet, ...]:
        from benchmark.reporting.calibration import calibration_sheets

        return calibration_sheets(stored, progress=progress)

    def patterns() -> tuple[Sheet, ...]:
        from benchmark.reporting.parts import pattern_sheet

        return (pattern_sheet(stored, progress=progress),)

    def cost() -> tuple[Sheet, ...]:
        from benchmark.reporting.cost import cost_sheet

        return (cost_sheet(stored),)

    makers = (calibration, subgroups, patterns, robustness, transfer, cost)
    return dict(zip(NAMES, makers, strict=True))


def data_of(stored: Stored, folder: Path | None) -> PreparedData | None:
    """The data set of the runs: as named, or the one beside the results that they were made from, or None."""
    from benchmark.data.dataset import PreparedData
    from benchmark.errors import UserError

    fingerprint = stored.group.caption["data"]["fingerprint"]
    if folder is not None:
        opened = PreparedData.open(folder.expanduser().resolve())
        if opened.fingerprint != fingerprint:
            raise UserError(f"the runs of group {stored.group.id} were made from other data than {folder}")
        return opened
    for manifest in sorted((stored.out / "data").glob("[!.]*/manifest.json")):
        opened = PreparedData.open(manifest.parent)
        if opened.fingerprint == fingerprint:
            return opened
    return None


def _device(name: str) -> torch.device:
    import torch

    from benchmark.errors import UserError
    from benchmark.suggest import unknown

    if name not in ("auto", "cpu", "cuda"):
        raise UserError(unknown("device", name, ("auto", "cpu", "cuda")))
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' was asked for, but torch sees no CUDA device here. Allowed: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
