"""Which models and runs a figure is made of."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from benchmark import registry
from benchmark.analysis.families import families, latest_runs
from benchmark.runs.groups import RunGroup
from models.contract import ModelEntry

ENTRY = ModelEntry("theirs", "Theirs", object, lambda *_: None, "a paper")


def test_the_variants_of_the_papers_figure() -> None:
    (family,) = families(registry.models())
    assert list(family.parts.values()) == ["a", "b", "c", "d", "full"]
    assert list(family.parts)[-1] == family.original == "flexcare"
    assert family.no_task_token == "flexcare-no-task-token"


def test_ablations_of_another_package_are_a_family_of_their_own() -> None:
    theirs = {
        "theirs": ENTRY,
        "theirs-x": replace(ENTRY, name="theirs-x", title="without x", group="ablation", variant_of="theirs"),
    }
    family = families(registry.models() | theirs)[1]
    assert family.original == "theirs"
    assert dict(family.parts) == {"theirs-x": "without x", "theirs": "full"}
    assert family.no_task_token is None


def test_of_several_kinds_of_runs_the_last_asked_for_are_taken() -> None:
    def run(name: str, **changes: object) -> dict[str, object]:
        plain = {"run": name, "status": "done", "model": "m", "tasks": ("ihm", "phe"), "seed": 40, "variant": "old"}
        return {**plain, "label_fraction": 1.0, **changes}

    runs = pd.DataFrame(
        [
            run("old", variant="old"),
            run("new42", variant="new", seed=42),
            run("new40", variant="new"),
            run("failed", variant="new", seed=44, status="failed"),
            run("single", variant="single", tasks=("drg",)),
            run("few", variant="few", label_fraction=0.1),
            run("stranger", variant="newest"),
            run("other", variant="new", model="other"),
        ]
    )
    group = RunGroup("g", {}, ("old", "new42", "new40", "failed", "other", "single", "few"), "")
    assert latest_runs(runs, group, "m")["run"].tolist() == ["new40", "new42"]
    assert latest_runs(runs, group, "nobody").empty
