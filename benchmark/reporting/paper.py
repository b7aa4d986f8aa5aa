"""The figures of the paper from one group of stored runs: which runs they need, what is missing, what was drawn."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from benchmark.analysis.ablations import ablation_scores
from benchmark.analysis.families import Family, families, latest_runs
from benchmark.analysis.representations import SAMPLES, project, represent, separation
from benchmark.analysis.routing import expert_use
from benchmark.analysis.segments import read_traces
from benchmark.code_version import code_version
from benchmark.config import default_out
from benchmark.errors import UserError
from benchmark.manifest import read_manifest
from benchmark.protocols.reading import shipped
from benchmark.reporting.figures.ablations import draw_ablations
from benchmark.reporting.figures.representations import draw_representations
from benchmark.reporting.figures.routing import draw_routing
from benchmark.reporting.figures.segments import draw_segments
from benchmark.reporting.figures.style import Drawn, Facts
from benchmark.runs.groups import RunGroup
from benchmark.runs.restore import restore_run
from benchmark.tasks import TASKS
from benchmark.training import Restored
from models.contract import ModelEntry

Progress = Callable[[str, int, int], None]


class Missing(Exception):
    """A figure cannot be drawn from the runs that are there; the sentence says what would make them."""


@dataclass(frozen=True)
class Figures:
    """What was drawn, and a sentence for each figure that was left out or lacks a part."""

    drawn: list[Drawn] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def paper_figures(
    out: Path,
    runs: pd.DataFrame,
    group: RunGroup,
    entries: Mapping[str, ModelEntry],
    wanted: Sequence[int] | None = None,
    data: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Figures:
    """Draws Figures 4 to 7, or those of them that are wanted.

    Args:
        out: folder of the results. runs: as `collect` gives them. group: whose runs are drawn.
        entries: the registered models. data: the prepared data set of the runs, for Figures 5 and 6; by default it is
            looked for among the embedded cohorts.

    Raises:
        UserError: a number stands for no figure, `data` is another data set, or a file cannot be read.
    """
    unknown = [number for number in wanted or () if number not in FIGURES]
    if unknown:
        raise UserError(f"there is no figure {unknown[0]} to draw. Allowed: {', '.join(map(str, FIGURES))}")
    source = _Source(out, runs, group, entries, data, progress)
    if data is not None:
        source.require(data)
    done = Figures()
    for number in sorted(set(wanted or FIGURES)):
        progress(f"figure {number}", 0, 1)
        try:
            drawn, remarks = FIGURES[number](source)
        except Missing as reason:
            done.remarks.append(f"Figure {number} is left out: {reason}")
        else:
            done.drawn.extend(drawn)
            done.remarks.extend(f"Figure {number}: {remark}" for remark in remarks)
        progress(f"figure {number}", 1, 1)
    return done


@dataclass(frozen=True)
class _Source:
    """The runs of a group, and models restored from them."""

    out: Path
    runs: pd.DataFrame
    group: RunGroup
    entries: Mapping[str, ModelEntry]
    data: Path | None
    progress: Progress

    @cached_property
    def facts(self) -> Facts:
        caption = self.group.caption
        data, protocol = caption["data"], caption["protocol"]["name"]
        return Facts(data["name"], bool(data["simulated"]), protocol, self.group.id)

    @cached_property
    def family(self) -> Family:
        """Of the models with ablations, the first that has runs here."""
        found = families(self.entries)
        members = set(self.runs.loc[self.runs["run"].isin(self.group.runs), "model"])
        return next((one for one in found if one.original in members), found[0])

    def of(self, model: str) -> pd.DataFrame:
        return latest_runs(self.runs, self.group, model)

    def title(self, model: str) -> str:
        return self.entries[model].title

    def restored(self, run: str) -> Restored:
        import torch

        from benchmark.data.dataset import PreparedData

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return restore_run(self.out, run, PreparedData.open(self.folder), device)

    @cached_property
    def folder(self) -> Path:
        """The prepared data set: as named, or the embedded cohort that the runs were made from."""
        if self.data is not None:
            return self.data
        if (found := self._embedded) is None:
            name = self.facts.data
            raise Missing(f"it restores models, which needs the data set {name!r}; name its folder with --data DIR")
        return found

    @cached_property
    def _embedded(self) -> Path | None:
        wanted = self.group.caption["data"]["fingerprint"]
        for file in sorted((self.out / "data").glob("[!.]*/manifest.json")):
            if read_manifest(file.parent).fingerprint == wanted:
                return file.parent
        return None

    def require(self, folder: Path) -> None:
        """Refuses another data set than that of the runs."""
        found, wanted = read_manifest(folder).fingerprint, self.group.caption["data"]["fingerprint"]
        if found != wanted:
            raise UserError(
                f"data: {folder} has fingerprint {found[:12]}; the runs of group {self.group.id} were made from "
                f"{self.facts.data!r}, {wanted[:12]}"
            )

    def command(self, models: Sequence[str], trace: bool = False) -> str:
        """The call of the runner that makes runs of `models` like the others of the group."""
        words = ["bench run --models", ",".join(models)]
        originals = self.of(self.family.original)
        tasks = {task for own in originals["tasks"] for task in own}
        words += ["--tasks", ",".join(name for name in TASKS if name in tasks)] if tasks else []
        seeds = sorted({int(seed) for seed in originals["seed"]})
        words += ["--seeds", ",".join(map(str, seeds))] if seeds else []
        words += ["--trace"] if trace else []
        words += [f"--protocol {self.facts.protocol}"] if self.facts.protocol in shipped() else []
        words += [] if self._embedded else ["--data DIR"]
        words += [] if self.out == default_out() else [f"--out {shlex.quote(str(self.out))}"]
        sentence = f"`{' '.join(words)}` makes them"
        if self.facts.protocol not in shipped():
            sentence += f", with the --protocol or --config of the other runs ({self.facts.protocol})"
        done = self.runs[self.runs["run"].isin(self.group.runs) & (self.runs["status"] == "done")]
        if any(self.of(model).empty and model in set(done["model"]) for model in models):
            sentence += "; figures draw runs on several tasks with all labels, which those that are here are not"
        if self.group.caption["code"]["version"] != code_version():
            sentence += "; the code has changed since, so that the others have to run again as well"
        return sentence


def _figure4(source: _Source) -> tuple[list[Drawn], list[str]]:
    labels = source.family.parts
    found = {model: frame for model in labels if not (frame := source.of(model)).empty}
    missing = [model for model in labels if model not in found]
    if source.family.original not in found or len(found) < 2:
        raise Missing(f"there are no finished runs of {', '.join(missing)}. {source.command(missing)}.")
    remarks = [f"no finished runs of {', '.join(missing)}. {source.command(missing)}."] if missing else []
    return [draw_ablations(ablation_scores(found), labels, source.family.original, source.facts)], remarks


def _figure5(source: _Source) -> tuple[list[Drawn], list[str]]:
    sides = {"without task token": source.family.no_task_token, "with task token": source.family.original}
    runs = {side: source.of(model) if model else pd.DataFrame({"seed": []}) for side, model in sides.items()}
    missing = [model for side, model in sides.items() if model and runs[side].empty]
    if missing:
        raise Missing(f"there are no finished runs of {', '.join(missing)}. {source.command(missing)}.")
    seeds = sorted(set.intersection(*(set(frame["seed"]) for frame in runs.values())))
    if not seeds:
        models = [model for model in sides.values() if model]
        raise Missing(f"{' and '.join(models)} have no seed in common. {source.command(models)}.")
    points, numbers = {}, []
    for side, frame in runs.items():
        for done, seed in enumerate(seeds):
            source.progress(f"representations {side}", done, len(seeds))
            representation = represent(*_restored_with_width(source, frame, seed))
            numbers.append({"side": side, "seed": int(seed), **separation(representation)})
            if seed == seeds[0]:
                points[side] = project(representation)
        source.progress(f"representations {side}", len(seeds), len(seeds))
    return [draw_representations(points, pd.DataFrame(numbers), int(seeds[0]), SAMPLES, source.facts)], []


def _restored_with_width(source: _Source, frame: pd.DataFrame, seed: int) -> tuple[Restored, int]:
    from benchmark.runs.collect import read_run
    from benchmark.runs.folder import runs_folder

    run = frame.loc[frame["seed"] == seed, "run"].iloc[0]
    job = read_run(runs_folder(source.out) / run)["job"]
    return source.restored(run), int(job["dimensions"]["width"])


def _figure6(source: _Source) -> tuple[list[Drawn], list[str]]:
    original = source.family.original
    runs = source.of(original)
    if runs.empty:
        raise Missing(f"there are no finished runs of {original}. {source.command([original])}.")
    frames = []
    for done, run in enumerate(runs.itertuples()):
        source.progress("expert use", done, len(runs))
        frames.append(expert_use(source.restored(run.run)).assign(seed=int(run.seed)))
    source.progress("expert use", len(runs), len(runs))
    return draw_routing(pd.concat(frames, ignore_index=True), source.facts), []


def _figure7(source: _Source) -> tuple[list[Drawn], list[str]]:
    original = source.family.original
    traces = read_traces(source.out, source.of(original))
    if traces.empty:
        raise Missing(f"there are no traced runs of {original}. {source.command([original], trace=True)}.")
    return draw_segments(traces, source.facts), []


FIGURES = {4: _figure4, 5: _figure5, 6: _figure6, 7: _figure7}
"""What draws each figure; gives the pictures and remarks on what they lack."""
