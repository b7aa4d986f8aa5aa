"""`bench run --dry-run`: what would be run, and what it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from benchmark.config import RunConfig
    from benchmark.runs.outlook import Outlook
    from benchmark.runs.plan import Plan


def dry_run(console: Console, settings: RunConfig) -> None:
    """Prints the plan, with hours and memory where these can be estimated."""
    from benchmark.cli.progress import Steps
    from benchmark.runs.launch import preview
    from benchmark.runs.outlook import outlook
    from benchmark.runs.paper_size import BASIS, paper_outlook, paper_plan

    if settings.paper_size:
        plan = paper_plan(settings)
        with Steps(console) as steps:
            found = paper_outlook(settings, plan, steps)
        _say(console, f"the paper's Tables 3 to 5, protocol {plan.protocol.name}, {len(settings.seeds)} seeds")
        _print_outlook(console, found, BASIS)
        return
    plan = preview(settings)
    _print_plan(console, settings, plan)
    if plan is None:
        _say(console, "no estimate: the first run makes the cohort")
        return
    with Steps(console) as steps:
        found = outlook(settings, plan, steps)
    _print_outlook(console, found, "Rests on: steps and predictions timed on a part of these data.")
    if found is None:
        _say(console, _without_estimate(settings, plan))


def _without_estimate(settings: RunConfig, plan: Plan) -> str:
    from benchmark.runs.calibrate import is_prepared
    from benchmark.runs.folder import is_done

    waiting = [job for job in plan.jobs if not is_done(settings.out, job.id)]
    if not waiting:
        return "nothing is left to run"
    if not is_prepared(plan.data.path, waiting):
        return "no estimate: note embeddings are not there yet, which the first run makes"
    return "no estimate: models that are fitted in one go have none"


def _print_outlook(console: Console, found: Outlook | None, basis: str) -> None:
    from tabulate import tabulate

    from benchmark.runs.tally import counted, duration

    if found is None:
        return
    rows = [
        [
            name,
            demand.runs,
            duration(demand.seconds / demand.runs),
            duration(demand.longest),
            f"{demand.seconds / 3600:,.2f}",
            f"{demand.memory / 2**20:,.0f} MiB",
        ]
        for name, demand in found.models.items()
    ]
    header = ["model", "runs", "a run", "longest", "hours of work", "memory of a process"]
    _say(console, "\n" + tabulate(rows, headers=header, disable_numparse=True))
    rows = [
        [course.devices, duration(course.seconds), f"{found.work / 3600:,.2f}", f"{course.memory / 2**30:.1f} GiB"]
        for course in found.courses
    ]
    header = ["at a time", "until the last run is done", "hours of work", "memory of all together"]
    _say(console, "\n" + tabulate(rows, headers=header, disable_numparse=True))
    _say(console, f"\nthe longest run {duration(found.longest)}; longest runs first")
    if found.unknown:
        left = counted(found.unknown)
        _say(console, f"without {left} of models that are fitted in one go, which cannot be estimated")
    _say(
        console, f"Measured on {found.device}: {found.timed:,} training step{'' if found.timed == 1 else 's'}. {basis}"
    )


def _print_plan(console: Console, settings: RunConfig, plan: Plan | None) -> None:
    """The job grid of a dry run."""
    from tabulate import tabulate

    from benchmark import registry
    from benchmark.runs.folder import is_done
    from benchmark.runs.launch import device_of, worker_count
    from benchmark.runs.plan import task_sets
    from benchmark.runs.tally import counted

    seeds = len(settings.seeds)
    first = {job.initial for job in plan.jobs} if plan else set()
    done = {job.id for job in plan.jobs if is_done(settings.out, job.id)} if plan else set()
    rows, total = [], 0
    for name in settings.models:
        sets = task_sets(name, settings.tasks)
        jobs = seeds * len(sets)
        finished = sum(job.model == name and job.id not in first and job.id in done for job in plan.jobs) if plan else 0
        how = "all tasks together" if registry.get(name).multitask else "one task each"
        tasks = ", ".join(task for together in sets for task in together)
        rows.append([name, how, tasks, seeds, jobs, finished, jobs - finished])
        total += jobs
        if (source := registry.get(name).pretrained_on) and sets:
            finished = len(first & done)
            rows.append([source, f"before {name}", "the main table's", seeds, seeds, finished, seeds - finished])
            total += seeds
    header = ["model", "trained on", "tasks", "seeds", "runs", "finished", "to run"]
    console.print(tabulate(rows, headers=header), markup=False, highlight=False, soft_wrap=True)
    cohort = settings.protocol.cohort
    source = plan.data.name if plan else f"embedded cohort of {cohort.patients} patients, still to be made"
    device = device_of(settings)
    workers = worker_count(settings, device, max(1, sum(row[-1] for row in rows)))
    _say(console, f"\n{counted(total)} on {source}; protocol {settings.protocol.name}; {device}, {workers} at a time")
    _say(console, f"results in {settings.out}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
