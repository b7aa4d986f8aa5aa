"""Which runs belong into one table.

A run's folder says what it was made from. Still, one run can belong to several comparisons: if only the task weights of
multitask training change, the single-task models' runs stay valid and are not repeated. So each call of the runner
leaves a small file that lists its jobs:

    OUT/plans/<group>-<hash of the list>.json

Runs of different data, protocols or code never share a group.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmark.errors import UserError
from benchmark.files import replace_text
from benchmark.runs.folder import json_text
from benchmark.runs.job import digest

if TYPE_CHECKING:
    from benchmark.runs.plan import Plan


CAPTION = ("group", "data", "protocol", "encoder", "code")
"""Keys of run.json and of plan files with what the runs of a group share."""


@dataclass(frozen=True)
class RunGroup:
    """Runs that may stand in one table.

    Attributes:
        id: hash that they share. caption: facts of data, protocol, encoder and code, as in every run.json.
        runs: ids of their jobs, the latest asked-for last. newest: when one of them was last asked for (ISO time).
    """

    id: str
    caption: Mapping[str, Any]
    runs: tuple[str, ...]
    newest: str


def caption_of(plan: Plan, code: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that every run of a plan records beside its job."""
    encoder = plan.encoder
    return {
        "group": plan.group,
        "data": {
            "name": plan.data.name,
            "fingerprint": plan.data.fingerprint,
            "simulated": plan.data.simulated,
            "profile": plan.data.profile,
            "samples": {task: dict(parts) for task, parts in plan.data.samples.items()},
        },
        "protocol": plan.protocol.model_dump(mode="json"),
        "encoder": {"key": encoder.key, "name": encoder.name, "width": encoder.width} if encoder else None,
        "code": dict(code),
    }


def record_plan(out: Path, plan: Plan, caption: Mapping[str, Any]) -> None:
    """Notes which jobs were asked for together, whether or not they have to run."""
    jobs = [job.id for job in plan.jobs]
    target = out / "plans" / f"{plan.group}-{digest(sorted(jobs))}.json"
    asked = datetime.now(UTC).isoformat(timespec="milliseconds")
    replace_text(target, json_text({**caption, "asked": asked, "jobs": jobs}))


def groups(out: Path, runs: pd.DataFrame) -> list[RunGroup]:
    """All groups among the stored runs, the newest first; `runs` as `collect` gives them."""
    members: dict[str, dict[str, None]] = {}
    newest: dict[str, str] = {}
    captions: dict[str, Mapping[str, Any]] = {}
    for run in runs.sort_values("finished").itertuples():
        members.setdefault(run.group, {})[run.run] = None
        newest[run.group] = max(newest.get(run.group, ""), run.finished)
        captions[run.group] = run.caption
    known = set(runs["run"])
    for plan in sorted(_plans(out), key=lambda plan: plan["asked"]):
        present = [job for job in plan["jobs"] if job in known]
        if not present:
            continue
        group = members.setdefault(plan["group"], {})
        for job in present:
            group.pop(job, None)
            group[job] = None
        newest[plan["group"]] = max(newest.get(plan["group"], ""), plan["asked"])
        captions[plan["group"]] = {key: plan[key] for key in CAPTION}
    found = [RunGroup(name, captions[name], tuple(runs), newest[name]) for name, runs in members.items()]
    return sorted(found, key=lambda group: group.newest, reverse=True)


def choose(found: list[RunGroup], wanted: str | None, out: Path | None = None) -> RunGroup:
    """The group whose id starts with `wanted`, or the newest; `out` is the folder that they were looked for in."""
    if not found:
        place = f" in {out}" if out else ""
        raise UserError(f"there are no runs yet{place}; `bench run` makes some")
    if wanted is None:
        return found[0]
    matches = [group for group in found if group.id.startswith(wanted)]
    if len(matches) != 1:
        said = "no group" if not matches else f"{len(matches)} groups"
        raise UserError(f"{said} of runs starts with {wanted!r}. Allowed: {', '.join(group.id for group in found)}")
    return matches[0]


def _plans(out: Path) -> list[dict[str, Any]]:
    """The records of earlier calls. One that cannot be read costs a comparison, not the table."""
    plans = []
    for file in sorted((out / "plans").glob("[!.]*.json")):
        try:
            plan = json.loads(file.read_text(encoding="utf-8"))
            jobs, kept = plan["jobs"], {key: plan[key] for key in (*CAPTION, "asked")}
            if not isinstance(jobs, list) or not all(isinstance(kept[key], str) for key in ("group", "asked")):
                raise TypeError("values of another type")
        except (OSError, ValueError, KeyError, TypeError) as fault:
            warnings.warn(f"{file} is left out: {type(fault).__name__}: {fault}", stacklevel=2)
        else:
            plans.append({**kept, "jobs": jobs})
    return plans
