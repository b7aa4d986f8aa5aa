"""`bench list`: the names that other verbs take."""

from __future__ import annotations

from typing import Annotated

import typer

KINDS = ("models", "tasks", "protocols", "rules")


def list_command(
    what: Annotated[
        str | None, typer.Argument(metavar="[models|tasks|protocols|rules]", help="Default: all but rules.")
    ] = None,
    options: Annotated[bool, typer.Option("--options", help="With models: their own options and defaults.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="With models: parameters and operations of a sample.")] = False,
) -> None:
    """List models, tasks, protocols or the rules of data preparation.

    Examples:

        bench list models --options

        bench list models --cost

        bench list tasks

        bench list protocols

        bench list rules
    """
    from benchmark.errors import UserError
    from benchmark.suggest import unknown

    if what is not None and what not in KINDS:
        raise UserError(unknown("list", what, KINDS))
    if options and cost:
        raise UserError("--options and --cost are two lists of models; name one of them")
    if (options or cost) and what not in (None, "models"):
        raise UserError(f"{'--options' if options else '--cost'} goes with models; found with {what}")
    printers = {
        "models": _costs if cost else lambda: _models(options),
        "tasks": _tasks,
        "protocols": _protocols,
        "rules": _rules,
    }
    for position, kind in enumerate(KINDS[:3] if what is None else (what,)):
        typer.echo("\n" * bool(position) + printers[kind]())


def _models(options: bool) -> str:
    from dataclasses import asdict

    from tabulate import tabulate

    from benchmark import registry

    entries = registry.models().values()
    if options:
        rows = [[entry.name, key, value] for entry in entries for key, value in asdict(entry.config()).items()]
        return tabulate(rows, headers=["model", "option", "default"], disable_numparse=True)
    typed = {group: name for name, group in registry.GROUP_NAMES.items()}
    rows = [
        [e.name, e.title, typed[e.group], "all tasks together" if e.multitask else "one task each", e.paper]
        for e in entries
    ]
    return tabulate(rows, headers=["model", "title", "group", "trained on", "paper"])


def _costs() -> str:
    """Size and work of each model at the sizes of the paper."""
    from tabulate import tabulate

    from benchmark import registry
    from benchmark.tasks import TASKS
    from models.contract import Dimensions, Head
    from models.cost import Inputs, cost

    six = [Head(len(task.classes or ("",)), task.kind, task.primary) for task in TASKS.values() if task.in_table3]
    whole, series = Inputs(), Inputs(owned=("ehr",))
    rows = []
    for entry in registry.models().values():
        heads = six if entry.multitask else six[:1]
        measured = None if entry.fits else cost(entry, Dimensions(), heads, [whole, series])
        numbers = [f"{measured.parameters:,}", *(f"{flops / 1e6:,.1f}" for flops in measured.flops)] if measured else []
        rows.append([entry.name, entry.title, len(heads), *(numbers or ["-"] * 3)])
    head = ["model", "title", "tasks", "parameters", "MFLOP, all present", "MFLOP, series only"]
    return tabulate(rows, headers=head, disable_numparse=True, colalign=("left", "left", *["right"] * 4)) + (
        f"\n\nForward pass of one sample at the sizes of the paper: {whole.hours} hours, a film of 224 x 224 pixels in "
        f"patches of 16,\n{whole.note_tokens} note tokens, width 128; a multiply-add is two operations. "
        "A model that is not trained by gradient has none (-)."
    )


def _tasks() -> str:
    from tabulate import tabulate

    from benchmark.reporting.names import metric_title
    from benchmark.tasks import TASKS

    rows = []
    for task in TASKS.values():
        classes = len(task.classes) if task.classes else "from the data"
        metrics = ", ".join(metric_title(name) for name in task.metrics)
        rows.append([task.name, task.kind, classes, metrics, task.description])
    return tabulate(rows, headers=["task", "kind", "classes", "metrics", "what is predicted"])


def _protocols() -> str:
    from tabulate import tabulate

    from benchmark.protocols.reading import parse_protocol, protocol_values, shipped

    rows = []
    for name in shipped():
        protocol = parse_protocol(protocol_values(name), faults := [])
        if protocol is None:
            raise RuntimeError(f"shipped protocol {name} is faulty: {faults}")
        size = f"{protocol.dimensions.width} wide, {protocol.dimensions.layers} layers"
        epochs = f"{protocol.training.epochs.multitask}/{protocol.training.epochs.singletask}"
        seeds = " ".join(map(str, protocol.seeds))
        rows.append([name, size, epochs, seeds, protocol.note_encoder, protocol.description])
    return tabulate(rows, headers=["protocol", "size", "epochs", "seeds", "note encoder", "for"])


def _rules() -> str:
    from rich.console import Console
    from rich.table import Table

    from benchmark.data.switches import SWITCHES

    table = Table("rule", "setting", "what it does", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for switch in SWITCHES:
        table.add_row(switch.name, "", f"{switch.about}:")
        for setting, effect in switch.settings.items():
            profiles = [name for name in ("fix", "ref") if getattr(switch, name) == setting]
            table.add_row("", setting, effect + (f" [{', '.join(profiles)}]" if profiles else ""))
    console = Console(width=None if Console().is_terminal else 120)
    with console.capture() as capture:
        console.print(table, markup=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
