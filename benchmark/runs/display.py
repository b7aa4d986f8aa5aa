"""Shows a running grid: one live display on a terminal, plain lines elsewhere: one for each finished run, and now and
then one for a finished epoch, so that a long run is not silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.runs.executors import Advanced, Deferred, Ended, Event, Stalled, Tell
from benchmark.runs.job import Job
from benchmark.runs.tally import Cell, Tally, duration

QUIET = 30.0
"""Seconds without a plain line after which the next finished epoch gets one."""


@contextmanager
def watching(
    tally: Tally, console: Console, titles: Mapping[str, str], main_metrics: Mapping[str, str]
) -> Iterator[Tell]:
    """Gives the function to tell events to, and shows them while the block lasts.

    Args:
        tally: keeps the count. console: where to show.
        titles: of models, tasks and metrics, by name. main_metrics: the metric to show of each task.
    """
    if console.is_terminal:
        view = _View(tally, titles)
        with Live(view, console=console, refresh_per_second=4, transient=True):

            def show(event: Event) -> None:
                tally.tell(event)
                if isinstance(event, Stalled):
                    console.print(stall_line(event, titles), soft_wrap=True, markup=False, highlight=False)

            yield show
        return

    last = tally.clock()

    def tell(event: Event) -> None:
        nonlocal last
        tally.tell(event)
        line = None
        if isinstance(event, Ended):
            line = result_line(event, tally, titles, main_metrics)
        elif isinstance(event, Deferred):
            line = f"{job_title(event.job, titles)}: another process is at it; this one looks again at the end"
        elif isinstance(event, Stalled):
            line = stall_line(event, titles)
        elif isinstance(event, Advanced) and tally.clock() - last >= QUIET and event.report.task == event.job.tasks[-1]:
            line = epoch_line(event, tally, titles)
        if line:
            last = tally.clock()
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    yield tell


def result_line(event: Ended, tally: Tally, titles: Mapping[str, str], main_metrics: Mapping[str, str]) -> str:
    """What became of one job, on one line."""
    result = event.result
    width = len(str(len(tally.jobs)))
    head = f"[{tally.ended:>{width}}/{len(tally.jobs)}] {job_title(result.job, titles)}"
    if result.status == "failed":
        return f"{head}: FAILED, {shortened(result.error)}"
    if result.status == "skipped":
        return f"{head}: finished by another process"
    scores = [
        f"{titles.get(task, task)} {titles.get(name, name)} {_score(metrics.get(name))}"
        for task, metrics in result.metrics.items()
        if (name := main_metrics.get(task, ""))
    ]
    left = tally.seconds_left()
    rest = f"; about {duration(left)} left" if left else ""
    return f"{head}: {', '.join(scores)} ({duration(result.seconds)}{rest})"


def stall_line(event: Stalled, titles: Mapping[str, str]) -> str:
    return f"{job_title(event.job, titles)}: nothing heard for {duration(event.seconds)}; is it stuck?"


def epoch_line(event: Advanced, tally: Tally, titles: Mapping[str, str]) -> str:
    """How far a running job is, on one line."""
    report, left = event.report, tally.seconds_left()
    rest = f"; about {duration(left)} left" if left else ""
    return (
        f"{job_title(event.job, titles)}: epoch {report.epoch}/{report.epochs}, {titles.get(report.task, report.task)} "
        f"loss {report.train_loss:.4f}, validation {report.val_loss:.4f}{rest}"
    )


def job_title(job: Job, titles: Mapping[str, str]) -> str:
    tasks = titles.get(job.tasks[0], job.tasks[0]) if len(job.tasks) == 1 else f"{len(job.tasks)} tasks"
    return f"{titles.get(job.model, job.model)}, {tasks}, seed {job.seed}"


def shortened(error: str, length: int = 160) -> str:
    """The beginning of an error message, on one line."""
    line = " ".join(error.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


class _View:
    """The live display; drawn anew several times a second."""

    def __init__(self, tally: Tally, titles: Mapping[str, str]) -> None:
        self.tally, self.titles = tally, titles

    def __rich__(self) -> RenderableType:
        return Group(self._grid(), "", self._jobs(), "", self._foot())

    def _grid(self) -> Table:
        cells = self.tally.grid()
        tasks = list(dict.fromkeys(task for row in cells.values() for task in row))
        order = [name for name in self.titles if name in tasks]
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("runs done")
        for task in order:
            table.add_column(self.titles[task], justify="right")
        for model in sorted(cells, key=list(self.titles).index):
            row = [_cell(cells[model].get(task)) for task in order]
            table.add_row(self.titles[model], *row)
        return table

    def _jobs(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("now", "epoch", "task", "loss", "validation"):
            table.add_column(name, justify="left" if name in ("now", "task") else "right")
        for job, report in list(self.tally.running.values()):
            if report is None:
                table.add_row(job_title(job, self.titles), f"0/{job.epochs}", "", "", "")
                continue
            task = self.titles.get(report.task, report.task)
            losses = (f"{report.train_loss:.4f}", f"{report.val_loss:.4f}")
            table.add_row(job_title(job, self.titles), f"{report.epoch}/{report.epochs}", task, *losses)
        return table

    def _foot(self) -> Text:
        tally = self.tally
        text = Text(f"{tally.ended} of {len(tally.jobs)} runs")
        if tally.failed:
            text.append(f", {tally.failed} failed", style="red")
        text.append(f" · {duration(tally.elapsed)} gone, about {duration(tally.seconds_left())} left")
        return text


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    style = "green" if cell.done == cell.total else "yellow" if cell.running else "red" if cell.failed else "dim"
    text = Text(f"{cell.done}/{cell.total}", style=style)
    if cell.running:
        text.append(f" +{cell.running}", style="yellow")
    if cell.failed:
        text.append(f" !{cell.failed}", style="bold red")
    return text


def _score(value: float | None) -> str:
    return "n.a." if value is None or value != value else f"{value:.4f}".removeprefix("0")
