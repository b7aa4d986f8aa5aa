"""What a study found, as blocks of the report page and as Markdown: history, importances, trade-off, best settings."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState
from tabulate import tabulate

from benchmark.errors import UserError
from benchmark.files import replace_text, replacing
from benchmark.reporting.figures.style import GREY, STRONG, STYLE, Facts, new_figure
from benchmark.reporting.names import task_title
from benchmark.reporting.page.blocks import Block, Cell, Part, Picture, Table
from benchmark.runs.tally import counted
from benchmark.tuning.objective import front, mean_gain
from benchmark.tuning.study import number_of, read_trials
from benchmark.tuning.winners import Confirmed, read_confirmed

LEAST_TRIALS = 10
"""Completed trials of different values below which importances would be guesses."""


@dataclass(frozen=True)
class StudyRecord:
    """A stored study: `facts` of study.json, its finished trials, and the best settings over seeds, best first."""

    folder: Path
    facts: Mapping[str, Any]
    trials: Sequence[FrozenTrial]
    confirmed: Sequence[Confirmed]

    @property
    def completed(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]


def read_studies(out: Path, data: str | None = None) -> list[StudyRecord]:
    """The studies under `out` that have a completed trial; of the data set with that fingerprint, if one is given."""
    found = []
    for file in sorted((out / "tuning").glob("*/study.json")):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            record = StudyRecord(file.parent, facts, read_trials(file.parent), read_confirmed(file.parent))
            fits = data is None or facts["data"]["fingerprint"] == data
        except (OSError, ValueError, KeyError, TypeError, UserError) as fault:
            warnings.warn(f"{file} is left out: {type(fault).__name__}: {fault}", stacklevel=2)
            continue
        if fits and record.completed:
            found.append(record)
    return found


def study_part(record: StudyRecord) -> Part:
    """The study as a part of the report page."""
    blocks: list[Block] = [_summary(record)]
    if record.confirmed:
        blocks.append(_best(record))
        blocks.append(_by_task(record))
    blocks.append(Picture(_history(record), _history_caption(record)))
    blocks.append(_importances(record))
    blocks.append(_trade_off(record))
    return Part(f"Tuning of {record.facts['title']}", blocks)


def write_markdown(record: StudyRecord) -> Path:
    """Writes the same as report.md beside the study, with the history as history.svg."""
    part, lines = study_part(record), []
    for block in part.blocks:
        if isinstance(block, Table):
            rows = [[cell.text for cell in row] for row in block.rows]
            lines += [block.caption, "", tabulate(rows, headers=list(block.headers), tablefmt="github"), ""]
        elif isinstance(block, Picture):
            _save(block.drawing, record.folder / "history.svg")
            lines += ["![history](history.svg)", "", block.caption, ""]
        else:
            lines += [str(block), ""]
    file = record.folder / "report.md"
    replace_text(file, "\n".join([f"# {part.title}", "", *lines]).rstrip() + "\n")
    return file


def _summary(record: StudyRecord) -> str:
    facts, states = record.facts, [trial.state for trial in record.trials]
    stopped = sum(trial.state == TrialState.PRUNED and "diverged" not in trial.user_attrs for trial in record.trials)
    diverged = sum("diverged" in trial.user_attrs for trial in record.trials)
    again = sum("same_as" in trial.user_attrs for trial in record.trials)
    lost = states.count(TrialState.FAIL)
    parts = [f"{states.count(TrialState.COMPLETE)} completed"]
    parts += [f"{stopped} stopped early"] if stopped else []
    parts += [f"{diverged} diverged"] if diverged else []
    parts += [f"{lost} given up after their worker died"] if lost else []
    parts += [f"{again} of values drawn before, not trained again"] if again else []
    made_up = "simulated data" if facts["data"]["simulated"] else "data"
    reference = facts["reference"]
    return (
        f"Study {facts['study']} on {made_up} {facts['data']['name']}, protocol {facts['protocol']}: "
        f"{len(record.trials)} finished trials ({', '.join(parts)}), seed {facts['training_seed']} of training, "
        f"{counted(len(facts['searched']), 'parameter')}. A trial is worth its mean standardised gain "
        f"over {reference['model']} on validation (seeds {', '.join(map(str, reference['seeds']))}); test "
        "patients were not read."
    )


def _best(record: StudyRecord) -> Table:
    names = [one["name"] for one in record.facts["searched"]]
    rows = []
    for one in record.confirmed:
        spread = "" if one.deviation is None else f" ({one.deviation:.3f})"
        values = [_cell(one.values[name]) for name in names]
        rows.append([Cell(str(one.trial), str(one.trial)), Cell(f"{one.mean:+.3f}{spread}", repr(one.mean)), *values])
    rows.append(_start_row(record, names))
    seeds = ", ".join(map(str, record.confirmed[0].seeds))
    epochs = " or ".join(map(str, sorted(set(record.facts["epochs"]))))  # of trials, which may have fewer
    caption = (
        f"Best settings: mean gain on validation over seeds {seeds} (sample standard deviation over seeds), trained "
        f"for the protocol's epochs; last row: trial 0, the settings without tuning, one seed, {epochs} epochs."
    )
    return Table(["trial", "mean gain", *names], rows, words=(), caption=caption)


def _start_row(record: StudyRecord, names: Sequence[str]) -> list[Cell]:
    start = next((trial for trial in record.trials if number_of(trial) == 0), None)
    if start is None or "gains" not in start.user_attrs:
        return [Cell("0"), Cell("-"), *(Cell("-") for _ in names)]
    gain = mean_gain(start.user_attrs["gains"])
    return [Cell("0", "0"), Cell(f"{gain:+.3f}", repr(gain)), *(_cell(start.params[name]) for name in names)]


def _by_task(record: StudyRecord) -> Table:
    winner = record.confirmed[0]
    rows = []
    for task, gains in winner.gains_by_task.items():
        spread = f"{min(gains):+.2f} to {max(gains):+.2f}"
        reference = record.facts["reference"]
        about = f"{reference['mean'][task]:.4f} ({reference['deviation'][task]:.4f})"
        mean = fmean(gains)
        rows.append([Cell(task_title(task)), Cell(about), Cell(f"{mean:+.3f}", repr(mean)), Cell(spread)])
    headers = ["task", "reference: score (deviation)", "gain", "over seeds"]
    return Table(headers, rows, words=(0,), caption=f"Gain of the winner, trial {winner.trial}, by task.")


def _history(record: StudyRecord) -> Figure:
    data = record.facts["data"]
    facts = Facts(data["name"], bool(data["simulated"]), record.facts["protocol"], record.facts["group"])
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.3, facts)
        axes = figure.add_subplot()
        done = sorted((number_of(trial), mean_gain(trial.user_attrs["gains"])) for trial in record.completed)
        cut = [
            (number_of(trial), mean_gain(trial.user_attrs["gains"]))
            for trial in record.trials
            if trial.state == TrialState.PRUNED and trial.user_attrs.get("gains")
        ]
        axes.axhline(0, color=GREY, lw=0.6)
        axes.plot(*zip(*done, strict=True), "o", ms=3, color=STRONG, label="completed")
        if cut:
            axes.plot(*zip(*cut, strict=True), "x", ms=3, color=GREY, label="stopped early")
        best, steps = float("-inf"), []
        for number, gain in done:
            best = max(best, gain)
            steps.append((number, best))
        axes.step(*zip(*steps, strict=True), where="post", color=STRONG, lw=0.8, label="best so far")
        axes.set(xlabel="trial", ylabel="mean gain")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return figure


def _history_caption(record: StudyRecord) -> str:
    return (
        "Mean standardised gain of each trial on validation; 0 is the reference's mean. The best of many trials on the "
        "same validation patients is better than it would be on others."
    )


def _importances(record: StudyRecord) -> Block:
    """Shares of the variance of the gain by parameter (fANOVA), where there are enough different trials."""
    completed = [trial for trial in record.completed if "same_as" not in trial.user_attrs]
    if len(completed) < LEAST_TRIALS or len(record.facts["searched"]) < 2:
        return f"Importances are left out: they take {LEAST_TRIALS} completed trials and two parameters."
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=mean_gain(trial.user_attrs["gains"])
            )
            for trial in completed
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        shares = evaluator.evaluate(study)  # as they are: `get_param_importances` would make their sum 1
    except RuntimeError as fault:  # e.g. all values are equal
        return f"Importances cannot be told: {fault}"
    rows = [[Cell(name), Cell(f"{share:.3f}", repr(float(share)))] for name, share in shares.items()]
    caption = (
        f"Importance: share of the variance of the mean gain over the searched space that a parameter explains alone "
        f"(fANOVA), from {len(completed)} trials."
    )
    return Table(["parameter", "share"], rows, words=(0,), caption=caption)


def _trade_off(record: StudyRecord) -> Table:
    trials = [trial for trial in record.completed if "same_as" not in trial.user_attrs]
    tasks = list(trials[0].user_attrs["gains"])
    points = [tuple(trial.user_attrs["gains"][task] for task in tasks) for trial in trials]
    chosen = sorted((trials[number] for number in front(points)), key=lambda t: -mean_gain(t.user_attrs["gains"]))
    best = {task: max(trial.user_attrs["gains"][task] for trial in chosen) for task in tasks}
    rows = []
    for trial in chosen:
        gains, mean = trial.user_attrs["gains"], mean_gain(trial.user_attrs["gains"])
        cells = [Cell(f"{gains[t]:+.2f}", repr(gains[t]), "best" if gains[t] == best[t] else "") for t in tasks]
        number = Cell(str(number_of(trial)), str(number_of(trial)))
        rows.append([number, Cell(f"{mean:+.3f}", repr(mean)), *cells])
    how = "searched with one objective a task" if len(record.facts["objectives"]) > 1 else "searched by the mean gain"
    caption = (
        f"Trade-off between tasks ({how}): the {len(chosen)} of {len(trials)} trials that no other trial beats on "
        "every task; gains by task on validation."
    )
    return Table(["trial", "mean gain", *(task_title(task) for task in tasks)], rows, words=(), caption=caption)


def _cell(value: Any) -> Cell:
    return Cell(f"{value:.4g}", repr(value)) if isinstance(value, int | float) else Cell(str(value))


def _save(figure: Figure, file: Path) -> None:
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    with replacing(file) as target:
        target.write(stream.getvalue())
