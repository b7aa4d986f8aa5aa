"""`bench tune`: search settings of models on validation patients, with the same budget for every model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.run import Data, Device, LabelFraction, Out, Protocol, Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial
    from rich.console import Console

    from benchmark.config import RunConfig
    from benchmark.runs.plan import Plan
    from benchmark.tuning.trials import Search
    from benchmark.tuning.tune import Heard, Request
    from benchmark.tuning.winners import Confirmed

Model = Annotated[str | None, typer.Option(help="Name of the model to tune; short for --models with one name.")]
Models = Annotated[
    str | None, typer.Option(help="Names of models or groups with commas between; each gets the same number of trials.")
]
Trials = Annotated[int, typer.Option(min=1, help="Finished trials that every study shall have, earlier ones included.")]
Wide = Annotated[bool, typer.Option("--wide", help="Search what the model declares beyond its usual space as well.")]
MultiObjective = Annotated[
    bool,
    typer.Option("--multi-objective", help="One objective a task, for the trade-off between tasks; nothing is pruned."),
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Of a trial. Default: the protocol's. The best settings always get those.")
]
StudySeed = Annotated[int, typer.Option("--seed", min=0, help="Of the values that are drawn.")]
Seeds = Annotated[
    str | None, typer.Option(help="Of the reference; the first one is that of trials. Default: the protocol's.")
]
Best = Annotated[int, typer.Option(min=1, help="How many of the best settings are trained again over seeds.")]
BestSeeds = Annotated[int, typer.Option(min=1, help="With how many of the seeds.")]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.yaml",
        help="A file for `bench run --config`: --models, --tasks, --seeds, --data, --protocol, --label-fraction, "
        "--device, --workers and --out are read from it. Options typed here win.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes side by side. With more than one, the values drawn depend on who is faster. Default: 1.",
    ),
]


def tune_command(
    model: Model = None,
    models: Models = None,
    trials: Trials = 40,
    wide: Wide = False,
    multi_objective: MultiObjective = False,
    epochs: Epochs = None,
    seed: StudySeed = 0,
    tasks: Tasks = None,
    seeds: Seeds = None,
    best: Best = 3,
    best_seeds: BestSeeds = 2,
    data: Data = None,
    protocol: Protocol = None,
    config: Config = None,
    label_fraction: LabelFraction = None,
    device: Device = None,
    workers: Workers = None,
    out: Out = None,
) -> None:
    """Search settings of models on validation patients.

    A trial is worth its mean gain over FlexCare-st, in standard deviations of FlexCare-st over seeds; test patients are
    not read. Call it again to go on with a study, with more trials or after an interruption; several calls may serve
    one study at once. The settings found are written as a file for `bench run --config`.

    Examples:

        bench tune --model flexcare --trials 40

        bench tune --model flexcare --trials 60 --wide --epochs 8

        bench tune --models all --trials 20 --workers 2

        bench tune --model flexcare --trials 40 --multi-objective --data data/mimic
    """
    from rich.console import Console

    from benchmark.config import resolve
    from benchmark.errors import UserError
    from benchmark.protocols.reading import read_yaml
    from benchmark.tuning.tune import Request

    in_file = config is not None and "models" in read_yaml(config.expanduser())
    if (model is None) == (models is None) and not (model is None and in_file):
        raise UserError(
            "name either one --model or several --models (names, or a group such as all), or the models in --config"
        )
    typed = {
        "models": model or models,
        "tasks": tasks,
        "seeds": seeds,
        "data": data,
        "protocol": protocol,
        "label_fraction": label_fraction,
        "device": device,
        "workers": workers,
        "out": out,
    }
    settings = resolve(typed, config)
    _refuse_what_runs_alone_have(settings)
    if len(settings.seeds) < 2:
        raise UserError(
            f"seeds: {list(settings.seeds)} is one seed; gains are in standard deviations of the reference over seeds, "
            "which takes two or more"
        )
    request = Request(trials, wide, multi_objective, epochs, seed, settings.workers or 1, best, best_seeds)
    _tune(Console(), settings, request)


def _refuse_what_runs_alone_have(settings: RunConfig) -> None:
    """An option of `bench run` in the file that a search would pass over is a fault."""
    from benchmark.errors import UserError
    from benchmark.options import RunOptions

    usual = RunOptions()
    unused = ("trace", "form", "executor", "address", "gpu_share", "slurm", "save_every", "stall_after", "dry_run")
    found = [name for name in unused if getattr(settings, name) != getattr(usual, name)]
    if found:
        raise UserError(
            f"{', '.join(found)}: goes with bench run; a search trains its trials one after another, or in as many "
            "processes as --workers says"
        )


def _tune(console: Console, settings: RunConfig, request: Request) -> None:
    from benchmark.cli.progress import Steps
    from benchmark.runs.launch import prepare_plan
    from benchmark.tuning.report import read_studies, write_markdown
    from benchmark.tuning.tune import find_winner, plan_search, run_trials
    from benchmark.tuning.winners import write_settings

    try:
        with Steps(console) as steps:
            plan = prepare_plan(settings, steps, again=True)
        heard = _heard(console)
        searches, winners = [], []
        for name in settings.models:
            search = plan_search(settings, name, request, plan, heard)
            _print_head(console, search, plan)
            run_trials(search, request.workers, heard)
            found = find_winner(search, request, heard)
            _print_winners(console, found)
            write_settings(search.folder / "best.yaml", [search], found[:1])
            report = write_markdown(next(one for one in read_studies(settings.out) if one.folder == search.folder))
            _say(console, f"settings: {search.folder / 'best.yaml'}; report: {report}")
            searches.append(search)
            winners.append(found[0])
    except KeyboardInterrupt:
        _say(console, "\nstopped; the same command goes on from the finished trials")
        raise typer.Exit(130) from None
    if len(searches) > 1:
        together = settings.out / "tuning" / f"tuned-{settings.protocol.name}.yaml"
        write_settings(together, searches, winners)
        _say(console, f"settings of all {len(searches)} models: {together}")


def _heard(console: Console) -> Heard:
    from benchmark.runs.executors import Ended
    from benchmark.runs.tally import counted, duration
    from benchmark.tuning.tune import Heard

    def trial(search: Search, one: FrozenTrial) -> None:
        _say(console, _trial_line(search, one))

    def training(event: object) -> None:
        if isinstance(event, Ended):
            result = event.result
            _say(console, f"  {result.job.id}: {result.status} ({duration(result.seconds)})")

    def trainings(what: str, count: int) -> None:
        _say(console, f"{what}: {counted(count, 'training')}, scored on validation")

    return Heard(trial, training, trainings)


def _trial_line(search: Search, trial: FrozenTrial) -> str:
    from benchmark.runs.tally import duration
    from benchmark.tuning.objective import mean_gain
    from benchmark.tuning.study import number_of

    known = trial.user_attrs
    values = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    spent = duration(known["seconds"]) if "seconds" in known else "?"
    if "same_as" in known:
        spent = f"as trial {known['same_as']}"
    if "diverged" in known:
        outcome = "diverged"
    elif "error" in known:
        outcome = f"given up: {known['error']}"
    elif "gains" in known:
        outcome = f"gain {mean_gain(known['gains']):+.3f}, raw sum {known['raw_sum']:.4f}"
        outcome += ", stopped early" if trial.state.name == "PRUNED" else ""
    else:
        outcome = "given up: its worker was killed each time"
    return f"[{search.model} {number_of(trial)}] {outcome} ({spent}): {values}"


def _print_head(console: Console, search: Search, plan: Plan) -> None:
    _say(
        console,
        f"study {search.id} on {plan.data.name} ({'SIMULATED' if plan.data.simulated else 'real'} data), protocol "
        f"{plan.protocol.name}: {len(search.searched)} parameters, {search.budget} trials, seed {search.training_seed}",
    )


def _print_winners(console: Console, found: Sequence[Confirmed]) -> None:
    for one in found:
        spread = "" if one.deviation is None else f" ({one.deviation:.3f})"
        seeds = ", ".join(map(str, one.seeds))
        _say(console, f"  trial {one.trial}: gain {one.mean:+.3f}{spread} over seeds {seeds}, raw sum {one.raw:.4f}")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
