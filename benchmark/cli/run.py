"""`bench run`: train, test and compare models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from benchmark.config import RunConfig
    from benchmark.runs.executors import Tell
    from benchmark.runs.launch import Summary
    from benchmark.runs.plan import Plan
    from benchmark.runs.tally import Tally


Models = Annotated[
    str | None,
    typer.Option(
        help="Names of models or groups with commas between. Groups: all (the paper's comparison; the default), "
        "ablations, references, extensions, presets."
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(help="Names with commas between, or all. Default: those of the paper's Table 3 that the data allow."),
]
Seeds = Annotated[str | None, typer.Option(help="Numbers with commas between. Default: the protocol's.")]
Data = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="A data set from `bench prepare`. Default: the embedded simulated cohort."),
]
Protocol = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE.yaml", help="Default: quick without --data, paper with --data."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.yaml",
        help="May hold all these options, and under `protocol` a name or values in place of the protocol's. "
        "Options typed here win.",
    ),
]
LabelFraction = Annotated[
    float | None,
    typer.Option(help="Share of each task's training samples to use, the same ones for all models. Default: 1."),
]
Device = Annotated[str | None, typer.Option(help="auto (the default: a GPU if there is one), cpu or cuda.")]
Workers = Annotated[
    int | None, typer.Option(help="Processes side by side. Default: one a core on the CPU, one on a GPU.")
]
Form = Annotated[
    str | None,
    typer.Option(
        help="packed: a process trains one run at a time, no padding; fixed: the seeds of a model side by side on "
        "batches of fixed shapes; auto (the default): fixed on GPUs, packed on the CPU and under ray and slurm."
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="On a GPU: only algorithms that give the same bytes each time, where torch has them; slower, and a model "
        "that needs others fails. A CPU needs no such switch.",
    ),
]
SaveEvery = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="A running job keeps what it has reached at the end of an epoch if so long has gone since the last time; "
        "when it is killed, the same command goes on from there. Default: 60.",
    ),
]
StallAfter = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES",
        help="Tell of a running job of which nothing was heard for so long: no epoch reported, none kept. Nothing is "
        "stopped. Default: 180.",
    ),
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="What carries out the jobs: process (one after another), pool (processes), gpus (all of them, packed "
        "by memory), ray, slurm. Default: auto, the first three as suits. Results do not depend on it.",
    ),
]
Address = Annotated[
    str | None, typer.Option(help="Of a running Ray cluster, for --executor ray. Default: Ray on this machine.")
]
GpuShare = Annotated[float | None, typer.Option(help="Of a GPU that a job takes under Ray. Default: 1.")]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder of runs and tables. Default: results/ of the source checkout, else ~/.local/share/flexcare-bench.",
    ),
]
Trace = Annotated[
    bool,
    typer.Option(
        "--trace",
        help="Models trained on several tasks: test all tasks after each task's part of each epoch (Figure 7). Changes "
        "no other number, and takes longer.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would run, with the time and memory that it would take here if the data are there, and stop.",
    ),
]

Devices = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="With --dry-run: for how many devices to plan, with commas between; GPUs like the one here, on the CPU "
        "processes with a core each. Default: those at hand.",
    ),
]
PaperSize = Annotated[
    bool,
    typer.Option(
        "--paper-size",
        help="With --dry-run, in place of a data set: plan the runs of the paper's Tables 3 to 5 (of --models and "
        "--tasks, if given) for the numbers of samples of its Table 2, from steps that are timed here.",
    ),
]


def run_command(
    models: Models = None,
    tasks: Tasks = None,
    seeds: Seeds = None,
    data: Data = None,
    protocol: Protocol = None,
    config: Config = None,
    label_fraction: LabelFraction = None,
    trace: Trace = False,
    device: Device = None,
    workers: Workers = None,
    form: Form = None,
    executor: ExecutorOption = None,
    address: Address = None,
    gpu_share: GpuShare = None,
    save_every: SaveEvery = None,
    stall_after: StallAfter = None,
    deterministic: Deterministic = False,
    out: Out = None,
    dry_run: DryRun = False,
    devices: Devices = None,
    paper_size: PaperSize = False,
) -> None:
    """Train, test and compare models.

    Finished runs are not repeated; interrupted ones go on from the last epoch that they kept, failed ones are tried
    again. The table of results ends it.

    Examples:

        bench run --models all

        bench run --models flexcare,medfuse --tasks ihm,phe --seeds 40,42 --dry-run

        bench run --models all --data data/mimic --protocol paper --device cuda

        bench run --models mt,mmf,flexcare-st --tasks drg --label-fraction 0.01

        bench run --models all --executor ray --gpu-share 0.25

        bench run --config my.yaml

        bench run --dry-run --paper-size --devices 1,4,8
    """
    from rich.console import Console

    from benchmark.config import resolve

    typed = {
        "models": models,
        "tasks": tasks,
        "seeds": seeds,
        "data": data,
        "protocol": protocol,
        "label_fraction": label_fraction,
        "trace": trace or None,
        "device": device,
        "workers": workers,
        "form": form,
        "executor": executor,
        "address": address,
        "gpu_share": gpu_share,
        "save_every": save_every,
        "stall_after": stall_after,
        "deterministic": deterministic or None,
        "out": out,
        "dry_run": dry_run or None,
        "devices": devices,
        "paper_size": paper_size or None,
    }
    _run(Console(), resolve(typed, config))


def _run(console: Console, settings: RunConfig) -> None:
    from benchmark.cli.dry_run import dry_run
    from benchmark.cli.progress import Steps
    from benchmark.runs.launch import launch, prepare_plan

    if settings.dry_run:
        dry_run(console, settings)
        return
    try:
        with Steps(console) as steps:
            plan = prepare_plan(settings, steps)
        _print_head(console, settings, plan)
        summary = launch(settings, plan, lambda tally: _watch(tally, console))
    except KeyboardInterrupt:
        _say(console, "\nstopped; the same command goes on from here")
        raise typer.Exit(130) from None
    _print_end(console, settings, summary)
    if summary.failed:
        raise typer.Exit(1)


def _watch(tally: Tally, console: Console) -> AbstractContextManager[Tell]:
    """Shows a running grid with the names that readers know."""
    from benchmark import registry
    from benchmark.reporting.names import metric_title
    from benchmark.runs.display import watching
    from benchmark.tasks import TASKS

    titles = {name: entry.title for name, entry in registry.models().items()}
    titles |= {name: task.title for name, task in TASKS.items()}
    main = {name: task.metrics[0] for name, task in TASKS.items()}
    titles |= {metric: metric_title(metric) for metric in main.values()}
    return watching(tally, console, titles, main)


def _print_head(console: Console, settings: RunConfig, plan: Plan) -> None:
    from benchmark.runs.folder import is_done
    from benchmark.runs.launch import device_of, worker_count
    from benchmark.runs.tally import counted

    finished = sum(is_done(settings.out, job.id) for job in plan.jobs)
    waiting = len(plan.jobs) - finished
    workers = worker_count(settings, device_of(settings), waiting)
    parts = [
        f"{plan.data.name} ({'SIMULATED' if plan.data.simulated else 'real'} data)",
        f"protocol {plan.protocol.name}",
        f"note encoder {plan.encoder.name}" if plan.encoder else "no notes",
        f"{device_of(settings)}, {workers} at a time" if waiting else "nothing to run",
    ]
    _say(console, "; ".join(parts))
    done = f", {finished} of them finished before" if finished else ""
    _say(console, f"{counted(len(plan.jobs))}{done}; results in {settings.out}")


def _print_end(console: Console, settings: RunConfig, summary: Summary) -> None:
    from benchmark.cli.progress import Steps
    from benchmark.cli.table import make_tables, print_tables
    from benchmark.runs.display import shortened
    from benchmark.runs.tally import counted, duration

    count = len(summary.results) - len(summary.failed)
    _say(console, f"{counted(count)} finished in {duration(summary.seconds)}, {len(summary.failed)} failed")
    for result in summary.failed[:10]:
        _say(console, f"  failed: {result.job.id}: {shortened(result.error)}")
    if len(summary.failed) > 10:
        _say(console, f"  and {len(summary.failed) - 10} more")
    if summary.failed:
        _say(console, f"  more in run.json of {settings.out / 'runs'}/*.failed; the same command tries them again")
    with Steps(console) as steps:
        tables, others = make_tables(settings.out, summary.plan.group, progress=steps)
    print_tables(console, tables, settings.out, others=others)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
