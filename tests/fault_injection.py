"""Breaks commands at random points, calls them again and compares with what an undisturbed call makes.

    python tests/fault_injection.py --faults 200 --seed 1

Kinds of faults, all drawn from the seed:

    kill at an operation    SIGKILL just before the n-th creation, renaming or removal of a file or folder
    kill after a time       SIGKILL after t seconds
    full disk               from the n-th such operation on, each one that needs room fails with ENOSPC
    short write             no file may grow beyond n bytes: the write that would is cut off (also in native code)

A command is called in a forked child, so that it needs no second for its imports. After every fault must hold: what has
its final name is whole, nothing that was finished is gone or has changed, and a call that ended by itself said so in a
line, without a traceback. After the last call the results must equal the undisturbed ones byte for byte.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faulty_calls import Ended, Fault, call

PROTOCOL = """
base: quick
dimensions: {width: 8, layers: 1, heads: 2, hours: 24, note_tokens: 16, film: 64, patch: 32}
training: {batch_size: 8, epochs: {multitask: 2, singletask: 2}}
seeds: [40]
"""
MODELS, TASKS = "flexcare,mt", "ihm,phe"
TRIALS = 4
UNUSED = (
    "benchmark.analysis.",
    "benchmark.throughput.",
    "benchmark.reporting.paper",
    "benchmark.reporting.figures.rep",
)
"""Modules that none of the commands needs."""


@dataclass(frozen=True)
class Subject:
    """A command to break.

    Attributes:
        begin: makes the folder of an episode ready. arguments: of the command in that folder.
        results: what counts, by name, of all that is finished; it raises if something that is visible is not whole.
        calm: an undisturbed call, where one has been made already.
    """

    begin: Callable[[Path], None]
    arguments: Callable[[Path], list[str]]
    results: Callable[[Path], dict[str, bytes]]
    calm: Calm | None = None


@dataclass(frozen=True)
class Calm:
    """What an undisturbed call makes, how many operations that takes, and how long."""

    results: Mapping[str, bytes]
    changes: int
    seconds: float


def finished_runs(folder: Path) -> dict[str, bytes]:
    """Contents of finished runs but for times; opens each file, so that half of one would be found."""
    import pandas as pd
    from safetensors import safe_open

    found = {}
    for file in sorted((folder / "out" / "runs").glob("[!.]*/run.json")):
        run, record = file.parent, json.loads(file.read_text())
        if record["status"] != "done":
            continue
        found[f"{run.name}/job"] = json.dumps([record["job"], record["metrics"]]).encode()
        found[f"{run.name}/history"] = (
            pd.read_parquet(run / "history.parquet").drop(columns="seconds").to_json().encode()
        )
        pd.read_parquet(run / "predictions.parquet")
        with safe_open(run / "checkpoint.safetensors", "pt") as state:
            assert len(list(state.keys()))
        for name in ("predictions.parquet", "checkpoint.safetensors"):
            found[f"{run.name}/{name}"] = (run / name).read_bytes()
    return found


def tables(folder: Path) -> dict[str, bytes]:
    import numpy as np

    for file in (folder / "out" / "resampled").glob("[!.]*"):
        with np.load(file) as arrays:
            assert all(len(arrays[name].shape) < 3 for name in arrays.files)
    found = {}
    for place in ("tables", "resampled"):
        for file in sorted((folder / "out" / place).glob("[!.]*")):
            assert file.stat().st_size, f"{file} is empty"
            found[f"{place}/{file.name}"] = file.read_bytes()
    return found


def study(folder: Path) -> dict[str, bytes]:
    """Of a study the finished trials, the other trainings and the settings found; of a trial all but its times."""
    from benchmark.tuning.study import number_of, read_trials

    found = {}
    for file in sorted((folder / "out" / "tuning" / "validated").glob("[!.]*")):
        found[f"validated/{file.name}"] = json.dumps(json.loads(file.read_text())["metrics"]).encode()
    for facts in sorted((folder / "out" / "tuning").glob("*/study.json")):
        own = facts.parent
        found["study.json"] = json.dumps(json.loads(facts.read_text())).encode()
        for trial in read_trials(own) if (own / "journal.log").exists() else ():
            known = {name: trial.user_attrs[name] for name in ("gains", "metrics", "raw_sum", "best_epochs")}
            content = [trial.state.name, trial.params, trial.values, trial.intermediate_values, known]
            found[f"trial {number_of(trial)}"] = json.dumps(content).encode()
        for name in ("confirmed.json", "best.yaml", "history.svg", "report.md"):
            if (own / name).exists():
                found[name] = (own / name).read_bytes()
    return found


def data_set(folder: Path) -> dict[str, bytes]:
    """Of a prepared data set all but the secret key and what names the folder."""
    out = folder / "data"
    if not out.exists():
        return {}
    assert (out / "manifest.json").is_file(), "a data set without its manifest"
    return {
        file.relative_to(out).as_posix(): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name != "key.bin"
    }


def calm_call(arguments: list[str], folder: Path, results: Callable[[Path], dict[str, bytes]]) -> Calm:
    """An undisturbed call, which must end well."""
    started = time.monotonic()
    ended = call(arguments, folder)
    assert not ended.signal and not ended.code, (arguments, ended)
    return Calm(results(folder), ended.changes, time.monotonic() - started)


def subjects(base: Path) -> dict[str, Subject]:
    """The commands, with what they need; undisturbed calls make that in `base`."""
    raw, data, protocol = base / "raw", base / "data", base / "tiny.yaml"
    protocol.write_text(PROTOCOL)
    sources = ["--mimic-iv", raw / "mimic-iv", "--mimic-cxr", raw / "mimic-cxr", "--mimic-note", raw / "mimic-note"]
    sources = list(map(str, sources))

    def undisturbed(*arguments: object, results: Callable[[Path], dict[str, bytes]] = lambda _: {}) -> Calm:
        return calm_call(list(map(str, arguments)), base, results)

    def run(folder: Path, place: Path) -> list[str]:
        options = ["--models", MODELS, "--tasks", TASKS, "--protocol", protocol, "--device", "cpu", "--workers", 1]
        return list(map(str, ["run", *options, "--save-every", 0, "--data", place, "--out", folder / "out"]))

    def tune(folder: Path) -> list[str]:
        asked = ["--model", "flexcare", "--tasks", TASKS, "--seeds", "40,41", "--trials", TRIALS, "--epochs", 1]
        options = ["--best", 2, "--best-seeds", 1, "--protocol", protocol, "--device", "cpu"]
        return list(map(str, ["tune", *asked, *options, "--data", data, "--out", folder / "out"]))

    undisturbed("simulate", "--patients", 80, "--seed", 5, raw)
    prepared = undisturbed("prepare", *sources, data, results=data_set)
    bare = base / "bare"  # without embeddings: every episode makes them
    shutil.copytree(data, bare)
    ran = undisturbed(*run(base, data), results=finished_runs)
    shutil.rmtree(base / "out" / "tables")
    shutil.rmtree(base / "out" / "resampled")
    return {
        "prepare": Subject(
            lambda _: None, lambda folder: ["prepare", *sources, str(folder / "data")], data_set, prepared
        ),
        "run": Subject(
            lambda folder: shutil.copytree(bare, folder / "data"),
            lambda folder: run(folder, folder / "data"),
            finished_runs,
            ran,
        ),
        "table": Subject(
            lambda folder: shutil.copytree(base / "out", folder / "out"),
            lambda folder: ["table", "--published", "--out", str(folder / "out")],
            tables,
        ),
        "tune": Subject(lambda _: None, tune, study),
    }


class Campaign:
    """Episodes of at most `most` faults, until their number is reached and every command had one."""

    def __init__(self, base: Path, seed: int, most: int) -> None:
        self.base, self.random, self.most = base, random.Random(seed), most
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.episodes = 0

    def prove(self, faults: int, names: list[str] | None = None) -> None:
        chosen = {name: own for name, own in subjects(self.base).items() if not names or name in names}
        ideal = {name: self._ideal(name, subject) for name, subject in chosen.items()}
        while self.total < faults or self.episodes < len(chosen):
            name = list(chosen)[self.episodes % len(chosen)]
            self._episode(name, chosen[name], ideal[name])
            self.episodes += 1
            print(f"{self.total} faults, {self.episodes} episodes, last {name}", file=sys.stderr, flush=True)

    @property
    def total(self) -> int:
        """Faults that struck."""
        return sum(count for (_, _, outcome), count in self.counts.items() if outcome != "came too late")

    def _ideal(self, name: str, subject: Subject) -> Calm:
        if subject.calm is not None:
            return subject.calm
        folder = self._folder(f"ideal-{name}", subject)
        return calm_call(subject.arguments(folder), folder, subject.results)

    def _folder(self, name: str, subject: Subject) -> Path:
        folder = self.base / name / "work"
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        subject.begin(folder)
        return folder

    def _draw(self, changes: int, seconds: float) -> Fault:
        kind = self.random.choices(
            ["kill at an operation", "kill after a time", "full disk", "short write"], [5, 2, 2, 1]
        )[0]
        if kind == "kill after a time":
            return Fault(kind, self.random.uniform(0, 0.8 * seconds))
        if kind == "short write":
            return Fault(kind, int(10 ** self.random.uniform(3.5, 5.5)))
        return Fault(kind, self.random.randint(1, changes))

    def _episode(self, name: str, subject: Subject, calm: Calm) -> None:
        folder, faults = self._folder(f"episode-{name}", subject), []
        kept = subject.results(folder)
        for _ in range(self.random.randint(1, self.most)):
            faults.append(self._draw(calm.changes, calm.seconds))
            ended = call(subject.arguments(folder), folder, faults[-1])
            outcome = self._outcome(ended)
            self.counts[name, faults[-1].kind, outcome] += 1
            context = f"{name} after {faults}, which ended {outcome}: {ended.said[-2000:]}"
            assert "Traceback" not in ended.said, context
            now = subject.results(folder)
            lost = [part for part, content in kept.items() if now.get(part) != content]
            assert not lost, f"finished work is gone or changed: {lost}; {context}"
            kept = now
            if outcome == "came too late":
                break
        ended = call(subject.arguments(folder), folder)
        assert not ended.signal and not ended.code, (name, faults, ended)
        now, ideal = subject.results(folder), calm.results
        assert now.keys() == ideal.keys(), (name, faults, now.keys() ^ ideal.keys())
        different = [part for part in ideal if ideal[part] != now[part]]
        assert not different, f"{name} after {faults}: other bytes in {different}"
        rest = [path.name for path in folder.rglob(".unfinished-*") if path.is_dir() or name == "run"]
        assert not rest, f"{name} after {faults}: {rest} are left"

    @staticmethod
    def _outcome(ended: Ended) -> str:
        if ended.signal:
            return "killed"
        if ended.code not in (0, 1, 2):
            raise AssertionError(f"exit code {ended.code}: {ended.said[-3000:]}")
        return "came too late" if not ended.code else f"exit code {ended.code}"


def _import_everything() -> None:
    """Once for all children. Nothing is computed, so that no library has threads yet that a fork would lose."""
    import pkgutil
    from importlib import import_module

    import torch
    import transformers

    import benchmark

    torch.set_num_threads(1)
    # A trial that loses three workers is given up; here any number of kills must leave the study as it would have been.
    import_module("benchmark.tuning.study").ATTEMPTS = sys.maxsize
    for module in pkgutil.walk_packages(benchmark.__path__, "benchmark."):
        if not module.name.startswith(UNUSED):
            import_module(module.name)
    for name in ("BertModel", "AutoTokenizer", "BertTokenizerFast"):
        getattr(transformers, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most", type=int, default=12, help="faults in a row before a call is let through")
    parser.add_argument("--only", nargs="*", help="commands")
    parser.add_argument("--folder", type=Path, help="default: a temporary one, removed at the end")
    options = parser.parse_args()
    _import_everything()
    base = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    base.mkdir(parents=True, exist_ok=True)
    campaign, started = Campaign(base, options.seed, options.most), time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # what was proved until then is told
        campaign.prove(options.faults, options.only)
    if options.folder is None:
        shutil.rmtree(base)
    summary: dict[str, Any] = {"faults": campaign.total, "episodes": campaign.episodes}
    summary["seconds"] = round(time.monotonic() - started)
    summary["by command, fault and outcome"] = [[*key, count] for key, count in sorted(campaign.counts.items())]
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
