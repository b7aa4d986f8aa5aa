"""`bench compare`: two models or two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.options import Group, Out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.reporting.pairs import Pair


def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A model, or the first signs of a run's folder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    out: Out = None,
    group: Group = None,
    patterns: Annotated[
        bool, typer.Option("--patterns/--no-patterns", help="Also by which modalities are present.")
    ] = True,
    all_metrics: Annotated[
        bool, typer.Option("--all-metrics", help="Also those that the paper does not print.")
    ] = False,
) -> None:
    """Differences between two models with 95 % intervals, on the same test patients and seeds.

    Patients and seeds are resampled together. p values for all samples are adjusted over the tasks (Holm); those of
    patterns are not, and describe.

    Examples:

        bench compare flexcare mmf

        bench compare flexcare flexcare-st --no-patterns --out results
    """
    from benchmark.config import default_out
    from benchmark.files import replace_text
    from benchmark.reporting.pairs import EVERYTHING, choose_runs, compare
    from benchmark.runs.collect import collect
    from benchmark.runs.groups import choose, groups
    from benchmark.tasks import TASKS

    place = out.expanduser().resolve() if out else default_out()
    runs = collect(place)
    chosen = choose(groups(place, runs), group, place)
    # The last asked-for last: of several settings of a model they are compared, as they stand in the table.
    members = runs.set_index("run", drop=False).loc[list(chosen.runs)]
    by_run = not {first, second} & set(members["model"])
    found = compare(place, choose_runs(members, first), choose_runs(members, second), any_seeds=by_run)
    shown = [
        pair
        for pair in found.pairs
        if (patterns or pair.pattern == EVERYTHING) and (all_metrics or pair.metric in TASKS[pair.task].metrics[:2])
    ]
    data = chosen.caption["data"]
    # Before anything is printed: whoever reads the output may stop listening.
    target = place / "tables" / f"compare-{first}-{second}-{chosen.id}.csv"
    replace_text(target, _csv(found.pairs, first, second, data))
    kind = "SIMULATED DATA. " if data["simulated"] else ""
    typer.echo(f"{kind}{first} minus {second} on {data['name']}, protocol {chosen.caption['protocol']['name']}\n")
    typer.echo(_table(shown, first, second))
    typer.echo("\np of all samples: adjusted over the tasks (Holm); of patterns: not adjusted.")
    for remark in [*_remarks(shown, patterns), *found.left_out]:
        typer.echo(remark)
    typer.echo(f"\nCSV: {target}")


def _seeds(pair: Pair, between: str, against: str) -> str:
    """Those of both sides, once where they are the same."""
    return against.join(dict.fromkeys(between.join(map(str, side)) for side in pair.seeds))


def _remarks(pairs: Sequence[Pair], patterns: bool) -> list[str]:
    """On which runs the lines rest, and which of them rest on little."""
    from benchmark.reporting.names import metric_title, task_title
    from benchmark.reporting.pairs import EVERYTHING, LEAST

    tasks: dict[str, dict[str, None]] = {}
    for pair in pairs:
        tasks.setdefault(_seeds(pair, ", ", " against "), {})[task_title(pair.task, pair.label_fraction)] = None
    parts = [seeds + (f" on {', '.join(names)}" if len(tasks) > 1 else "") for seeds, names in tasks.items()]
    remarks = [f"Seeds: {'; '.join(parts)}."]
    if any(len(pair.seeds[0]) == 1 for pair in pairs):
        remarks.append("With one run a side patients alone are resampled; what another training changes is not seen.")
    if patterns:
        remarks.append(f"Patterns of fewer than {LEAST} samples are left out.")
    rare = [
        f"{task_title(pair.task, pair.label_fraction)} {metric_title(pair.metric)} ({pair.gap.defined:.0%})"
        for pair in pairs
        if pair.pattern == EVERYTHING and pair.gap.defined < 0.99
    ]
    if rare:
        remarks.append(f"Share of resamples that define the score, where it is not all: {', '.join(rare)}.")
    return remarks


def _table(pairs: Sequence[Pair], first: str, second: str) -> str:
    from tabulate import tabulate

    from benchmark.reporting.names import metric_title, number, p_value, task_title

    rows, before = [], None
    for pair in pairs:
        place = (task_title(pair.task, pair.label_fraction), pair.pattern)
        rows.append(
            [
                place[0] if before is None or place[0] != before[0] else "",
                pair.pattern if place != before else "",
                f"{pair.samples:,}" if place != before else "",
                metric_title(pair.metric),
                number(pair.first.value),
                number(pair.second.value),
                number(pair.gap.value, sign=True),
                f"{number(pair.gap.low, sign=True)} to {number(pair.gap.high, sign=True)}",
                p_value(pair.gap.p),
            ]
        )
        before = place
    header = ["task", "modalities", "samples", "metric", first, second, "difference", "95 % interval", "p"]
    return tabulate(rows, headers=header, tablefmt="github", disable_numparse=True)


def _csv(pairs: Sequence[Pair], first: str, second: str, data: dict) -> str:
    import pandas as pd

    lines = [
        {
            "task": pair.task,
            "label_fraction": pair.label_fraction,
            "pattern": pair.pattern,
            "samples": pair.samples,
            "seeds": _seeds(pair, " ", " against "),
            "metric": pair.metric,
            "first": first,
            "second": second,
            "first_score": pair.first.value,
            "second_score": pair.second.value,
            "difference": pair.gap.value,
            "low": pair.gap.low,
            "high": pair.gap.high,
            "p": pair.gap.p,
            "resamples_defined": pair.gap.defined,
            "data": data["name"],
            "simulated": data["simulated"],
        }
        for pair in pairs
    ]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")
