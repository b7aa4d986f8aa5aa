"""`bench list`: the names that other verbs take."""

from __future__ import annotations

from typing import Annotated

import typer

KINDS = ("models", "tasks", "protocols")


def list_command(
    what: Annotated[str | None, typer.Argument(metavar="[models|tasks|protocols]", help="Default: all three.")] = None,
    options: Annotated[bool, typer.Option("--options", help="With models: their own options and defaults.")] = False,
) -> None:
    """List models, tasks or protocols.

    Examples:

        bench list models --options

        bench list tasks

        bench list protocols
    """
    from benchmark.errors import UserError
    from benchmark.suggest import unknown

    if what is not None and what not in KINDS:
        raise UserError(unknown("list", what, KINDS))
    printers = {"models": lambda: _models(options), "tasks": _tasks, "protocols": _protocols}
    for position, kind in enumerate(KINDS if what is None else (what,)):
        typer.echo("\n" * bool(position) + printers[kind]())


def _models(options: bool) -> str:
    from dataclasses import asdict

    from tabulate import tabulate

    from benchmark import registry

    entries = registry.models().values()
    if options:
        rows = [[entry.name, key, value] for entry in entries for key, value in asdict(entry.config()).items()]
        return tabulate(rows, headers=["model", "option", "default"], disable_numparse=True)
    rows = [[e.name, e.title, "all tasks together" if e.multitask else "one task each", e.paper] for e in entries]
    return tabulate(rows, headers=["model", "title", "trained on", "paper"])


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
