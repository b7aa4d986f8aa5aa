"""Whatever is wrong with what the user gives, the command says so in one message, without traceback or leftovers."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from harness_fakes import write_data
from prepared_data import write_prepared
from stored_runs import write_run
from tiny_encoder import make_checkpoint

from benchmark import cli

pytestmark = pytest.mark.reliability

SMALL = """
base: quick
dimensions: {width: 8, layers: 1, heads: 2, hours: 24, note_tokens: 8, film: 32, patch: 16}
training: {batch_size: 16, epochs: {multitask: 1, singletask: 1}}
seeds: [1]
"""


@dataclass(frozen=True)
class Case:
    """Makes something bad in a folder, gives the words of the command, and what the message must say."""

    name: str
    words: Callable[[Path], list[object]]
    says: str
    code: int = 2


def typed(name: str, line: str, says: str) -> Case:
    """A command line that is bad by itself; HERE stands for an empty folder."""
    return Case(name, lambda here: [word.replace("HERE", str(here)) for word in line.split(" ")], says)


def config(name: str, text: str | bytes, says: str) -> Case:
    def words(here: Path) -> list[object]:
        content = text if isinstance(text, bytes) else text.encode()
        (here / "mine.yaml").write_bytes(content)
        return ["run", "--config", here / "mine.yaml", "--out", here / "out"]

    return Case(name, words, says)


def data(name: str, spoil: Callable[[Path], None], says: str, code: int = 1) -> Case:
    """A prepared data set that something has happened to; the run reads time series and films."""

    def words(here: Path) -> list[object]:
        folder = write_prepared(here / "data", ("ihm",))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest |= {"modalities": {"ehr": True, "cxr": True, "note": False}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "private").mkdir()
        (folder / "private" / "key.bin").write_bytes(bytes(32))
        spoil(folder)
        (here / "small.yaml").write_text(SMALL)
        options = ["--protocol", here / "small.yaml", "--device", "cpu", "--workers", 1, "--out", here / "out"]
        return ["run", "--models", "mmf", "--tasks", "ihm", "--data", folder, *options]

    return Case(name, words, says, code)


def encoder(name: str, spoil: Callable[[Path], None], says: str) -> Case:
    """A note encoder that something has happened to, and a data set with texts for it."""

    def words(here: Path) -> list[object]:
        spoil(make_checkpoint(here / "encoder"))
        folder = write_prepared(here / "data", ("ihm",))
        manifest(modalities={"ehr": True, "cxr": True, "note": True})(folder)
        texts = pd.DataFrame({"section": "pmh", "text": [f"COPD, gout {row}." for row in range(90)]})
        texts["digest"] = [f"{row:064d}" for row in range(90)]
        texts.to_parquet(folder / "notes" / "texts.parquet")
        (here / "small.yaml").write_text(f"{SMALL}note_encoder: {here / 'encoder'}\n")
        options = ["--protocol", here / "small.yaml", "--tasks", "ihm", "--out", here / "out", "--device", "cpu"]
        return ["run", "--data", folder, "--models", "mt", *options]

    return Case(name, words, says)


def stored(name: str, line: str, spoil: Callable[[Path], None], says: str) -> Case:
    """A command on stored runs of which something is bad."""

    def words(here: Path) -> list[object]:
        for model in ("flexcare", "mt"):
            write_run(here / "out", model, 40, {"ihm": {"auroc": 0.9, "auprc": 0.5}})
        spoil(next((here / "out" / "runs").glob("mt-*")))
        return [*line.split(" "), "--out", here / "out"]

    return Case(name, words, says)


def rewrite(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes(change((folder / path).read_bytes())) and None


def removed(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def manifest(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def samples(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "samples" / "ihm.parquet"
        change(pd.read_parquet(file)).to_parquet(file, index=False)

    return spoil


def values(value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        stored = np.load(folder / "series" / "values.npy", mmap_mode="r+")
        stored[:] = value
        stored.flush()

    return spoil


class Evil:
    """Unpickling it would leave a file."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["EVIL"],)


def pickled(folder: Path) -> None:
    np.save(folder / "series" / "values.npy", np.array([Evil()], dtype=object), allow_pickle=True)


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def other_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"else": torch.zeros(2)}, folder / "model.safetensors")


def raw_folder(here: Path) -> list[object]:
    (here / "iv" / "hosp").mkdir(parents=True)
    return ["run", "--data", here / "iv", "--out", here / "out"]


def occupied(here: Path) -> list[object]:
    (here / "file").write_text("precious")
    return ["run", "--out", here / "file" / "out"]


def toy(*rest: object) -> Callable[[Path], list[object]]:
    return lambda here: ["run", "--data", write_data(here / "data"), "--out", here / "out", *rest]


CUT = rewrite("samples/ihm.parquet", lambda content: content[: len(content) // 2])
RUN = "run --out HERE/out"
TREE_TAG = "models: !!python/object/apply:os.mkdir [%s]"

CASES = [
    # Command lines.
    typed("unknown verb", "rum", "No such command 'rum'"),
    typed("unknown option", f"{RUN} --modles all", "No such option"),
    typed("misspelt model", f"{RUN} --models flexcar", "did you mean 'flexcare'"),
    typed("no model", f"{RUN} --models ,", "models: none is named"),
    typed("misspelt task", f"{RUN} --tasks imh", "did you mean 'ihm'"),
    typed("seed that is a word", f"{RUN} --seeds one", "one"),
    typed("negative seed", f"{RUN} --seeds -1", "-1"),
    typed("broken seed", f"{RUN} --seeds 1.5", "1.5"),
    typed("seed given twice", f"{RUN} --seeds 4,4", "repeat a seed"),
    typed("unknown device", f"{RUN} --device tpu", "device: .*'tpu'"),
    typed("no workers", f"{RUN} --workers 0", "workers: .*0"),
    typed("workers in words", f"{RUN} --workers two", "'--workers': .*integer"),
    typed("no labels", f"{RUN} --label-fraction 0", "label_fraction"),
    typed("too many labels", f"{RUN} --label-fraction 1.1", "label_fraction"),
    typed("negative interval", f"{RUN} --save-every -1", "save_every"),
    typed("no patience", f"{RUN} --stall-after 0", "stall_after"),
    typed("interval without number", f"{RUN} --save-every nan", "save_every"),
    typed("unknown protocol", f"{RUN} --protocol papr", "did you mean 'paper'"),
    typed("protocol file that is not there", f"{RUN} --protocol HERE/no.yaml", "cannot read .*no.yaml"),
    typed("config file that is not there", f"{RUN} --config HERE/no.yaml", "cannot read .*no.yaml"),
    typed("data that are not there", f"{RUN} --data HERE/no", "data folder .* does not exist"),
    Case("folder without a name", lambda here: ["run", "--out", ""], "out: .*at least 1 character"),
    Case("data without a name", lambda here: ["run", "--data", "", "--out", here / "out"], "data: .*at least 1 char"),
    typed("share of a GPU without Ray", f"{RUN} --gpu-share 0.5", "goes with executor: ray"),
    typed("empty data folder", f"{RUN} --data HERE", "no prepared data set"),
    Case("raw files as data", raw_folder, "raw MIMIC-IV: run `bench prepare"),
    Case("results below a file", occupied, "cannot write to .*: Not a directory"),
    typed("results where nothing can be written", "run --out /proc/out", "cannot write to /proc/out"),
    Case("task that the data lack", toy("--tasks", "drg"), "'drg' is not possible on toy cohort: there are no notes"),
    Case("pretrained model for known tasks", toy("--models", "flexcare-pretrained", "--tasks", "ihm"), "for tasks tha"),
    typed("table without runs", "table --out HERE", "there are no runs yet in .*/here;"),
    typed("report without runs", "report HERE/page.html --out HERE", "there are no runs yet in .*/here;"),
    typed("report in place of a folder", "report HERE --out HERE", "is a folder; name a file"),
    typed("report below a file", "report /dev/null/page.html", "cannot write to /dev/null: Not a directory"),
    typed("figures without runs", "figures --out HERE", "there are no runs yet in .*/here;"),
    typed("analysis without runs", "analyse --out HERE", "there are no runs yet in .*/here;"),
    typed("comparison without runs", "compare flexcare mmf --out HERE", "there are no runs yet in .*/here;"),
    typed("unknown analysis", "analyse calibratoin --out HERE", "did you mean 'calibration'"),
    typed("costs of tasks", "list tasks --cost", "--cost goes with models; found with tasks"),
    typed("two lists at once", "list models --cost --options", "name one of them"),
    typed("unknown list", "list modles", "did you mean 'models'"),
    typed("no patients", "simulate --patients 0 HERE/raw", "0"),
    typed("patients in words", "simulate --patients many HERE/raw", "'--patients': .*integer"),
    typed("share above one", "simulate --missing-image 2 HERE/raw", "2"),
    typed("raw folder that is not there", "prepare --mimic-iv HERE/no HERE/data", "HERE/no|no"),
    typed("raw folder without files", "prepare --mimic-iv HERE HERE/data", "hosp|icu"),
    typed("unknown profile", "prepare --mimic-iv HERE --profile fx HERE/data", "fx"),
    typed("unknown rule", "prepare --mimic-iv HERE --rule agee=anchor HERE/data", "did you mean 'age'"),
    typed("rule without setting", "prepare --mimic-iv HERE --rule age HERE/data", "age"),
    typed("unknown setting of a rule", "prepare --mimic-iv HERE --rule age=old HERE/data", "old"),
    typed("check of no data", "data check HERE", "no prepared data set"),
    typed("report of no data", "data report HERE --out HERE/report", "no prepared data set"),
    # Configuration files.
    config("cut YAML", "models: [flexcare", "not valid YAML"),
    config("list in place of a mapping", "- models", "holds a list"),
    config("text in place of a mapping", "models", "holds a str"),
    config("no text at all", b"\xff\xfe\x00\x01", "cannot read"),
    config("key given twice", "models: [mt]\nmodels: [mmf]", "given twice"),
    config("key that is no text", "1: 2", "is read as a int"),
    config("misspelt key", "modles: [mt]", "did you mean 'models'"),
    config("parameters of SLURM elsewhere", "slurm: {mem_gb: 3}", "go with executor: slurm"),
    config("number in place of names", "models: 3", "models"),
    config("code in a tag", TREE_TAG, "could not determine a constructor"),
    config("number in quotes", "protocol: {base: quick, training: {batch_size: '8'}}", "batch_size"),
    config("truth value for a number", "protocol: {base: quick, training: {batch_size: true}}", "batch_size"),
    config("rate that is no number", "protocol: {base: quick, training: {learning_rate: .nan}}", "learning_rate"),
    config("infinite rate", "protocol: {base: quick, training: {learning_rate: .inf}}", "learning_rate"),
    config("negative rate", "protocol: {base: quick, training: {learning_rate: -1.0}}", "learning_rate"),
    config("no epochs", "protocol: {base: quick, training: {epochs: {multitask: 0}}}", "epochs.multitask"),
    config("width that heads do not divide", "protocol: {base: quick, dimensions: {width: 9}}", "not a multiple"),
    config("film that patches do not divide", "protocol: {base: quick, dimensions: {film: 65}}", "not a multiple"),
    config("weight of an unknown task", "protocol: {base: quick, training: {task_weights: {imh: 1.0}}}", "'imh'"),
    config("unknown option of a model", "protocol: {base: quick, models: {flexcare: {expert: 3}}}", "'experts'"),
    config("value out of an option's range", "protocol: {base: quick, models: {flexcare: {experts: 0}}}", "experts"),
    config("option of an unknown model", "protocol: {base: quick, models: {flexcar: {experts: 3}}}", "'flexcare'"),
    config("base that is no name", "protocol: {base: 3}", "base of a protocol is 3"),
    config("base upon itself", "protocol: mine.yaml\nbase: mine.yaml", "base|protocol"),
    config("tiny cohort", "protocol: {base: quick, cohort: {patients: 3}}", "cohort.patients"),
    # Note encoders.
    encoder("encoder without configuration", removed("config.json"), "lacks config.json"),
    encoder("encoder without vocabulary", removed("vocab.txt"), "lacks vocabulary"),
    encoder("encoder without weights", removed("model.safetensors"), "lacks weights"),
    encoder("encoder's configuration cut", rewrite("config.json", lambda text: text[:20]), "not JSON"),
    encoder("encoder's configuration a list", rewrite("config.json", lambda _: b"[1]"), "config.json"),
    encoder(
        "encoder of another kind",
        rewrite("config.json", lambda text: text.replace(b'"model_type": "bert"', b'"model_type": "gpt2"')),
        "model_type 'gpt2'",
    ),
    encoder(
        "encoder's width in words",
        rewrite("config.json", lambda text: text.replace(b'"hidden_size": 8', b'"hidden_size": "w"')),
        "hidden_size",
    ),
    encoder("encoder's weights cut", rewrite("model.safetensors", lambda raw: raw[:-50]), "cannot be loaded"),
    encoder("encoder's weights empty", rewrite("model.safetensors", lambda _: b""), "cannot be loaded"),
    encoder("encoder's weights of another model", other_weights, "not in the weights"),
    encoder("encoder's weights with code", pickled_weights, "cannot be loaded"),
    # Data sets.
    data("empty manifest", rewrite("manifest.json", lambda _: b""), "cannot read .*manifest.json", 2),
    data("cut manifest", rewrite("manifest.json", lambda text: text[:-30]), "cannot read .*manifest.json", 2),
    data("manifest of another format", manifest(format=99), "format 99", 2),
    data("manifest with words for numbers", manifest(tasks={"ihm": {"samples": "many"}}), "damaged", 2),
    data("manifest without tasks", manifest(tasks={}), "not possible", 2),
    data("no samples file", removed("samples/ihm.parquet"), "samples/ihm.parquet"),
    data("samples file cut", CUT, "samples/ihm.parquet"),
    data("samples file empty", rewrite("samples/ihm.parquet", lambda _: b""), "samples/ihm.parquet"),
    data("samples without a column", samples(lambda table: table.drop(columns="hours")), "hours"),
    data("no samples left", samples(lambda table: table[:0]), "has no test sample"),
    data("no validation sample", samples(lambda table: table[table.split != "val"]), "has no val sample"),
    data("no label known", samples(lambda table: table.assign(y0=np.nan)), "no training sample has a known label"),
    data("labels out of range", samples(lambda table: table.assign(y0=table.y0 * 7)), "label is 7"),
    data("infinite labels", samples(lambda table: table.assign(y0=table.y0 * np.inf)), "label is inf"),
    data("rows beyond the store", samples(lambda table: table.assign(series=10**6)), "1000000 of a store"),
    data("no series", removed("series/values.npy"), "not a complete store"),
    data("series cut", rewrite("series/values.npy", lambda raw: raw[:5000]), "not a complete store"),
    data("offsets of another store", rewrite("series/offsets.npy", lambda raw: raw[:-80]), "not a complete store"),
    data("series with code", pickled, "not a complete store"),
    data("series that are not numbers", values(np.nan), "values that are not finite"),
    data("series that are infinite", values(np.inf), "values that are not finite"),
    data("no films", removed("films/pixels.npy"), "films/pixels.npy"),
    data("no key", removed("private/key.bin"), "private/key.bin"),
    # Stored runs.
    stored("run record cut", "table", rewrite("run.json", lambda text: text[:40]), "cannot read .*run.json"),
    stored("run record of another format", "table", rewrite("run.json", lambda _: b'{"format": 9}'), "not of format 1"),
    stored("run record without metrics", "table", rewrite("run.json", lambda _: b'{"format": 1}'), "is damaged"),
    stored("run without predictions", "table", lambda folder: None, "predictions.parquet"),
    stored("group that is not there", "table --group ffff", lambda folder: None, "no group of runs starts with 'ffff'"),
    stored("model without runs", "compare mt m3care", lambda folder: None, "m3care"),
]


@pytest.fixture
def bench(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    def call(words: list[object]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_told_in_a_message(case: Case, bench, tmp_path: Path, monkeypatch) -> None:
    here, evil = tmp_path / "here", tmp_path / "evil"
    here.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVIL", str(evil))
    words = case.words(here)
    if case.name == "code in a tag":
        (here / "mine.yaml").write_text(TREE_TAG % evil)
    before = {path for path in here.rglob("*") if path.is_file()}
    code, out, err = bench(words)
    told = err if case.code == 2 else out
    assert code == case.code, out + err
    assert "Traceback" not in out + err
    assert re.search(case.says, told), told
    if case.code == 2:
        assert "rror" in err and err.count("rror: ") <= 1, "one message"
    assert not evil.exists(), "code of the file was executed"
    left = {path for path in here.rglob("*") if path.is_file()} - before
    known = ("run.json", "plans", "tables", ".tokens-", ".partial-")
    assert all(any(part in str(path) for part in known) for path in left), f"half-written: {left}"
    assert not [path for path in here.rglob("*") if ".unfinished" in path.name]


@pytest.mark.parametrize("what", ["one class only", "a split without positives"])
def test_labels_that_define_no_metric_are_no_error(what: str, bench, tmp_path: Path) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(y0=table.y0.where((table.split != "val") & (what != "one class only"), 0.0))

    code, out, err = bench(data(what, samples(change), "").words(tmp_path))
    assert code == 0, out + err
    (record,) = (tmp_path / "out" / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["info"]["selected_by"] == "validation loss"


def test_a_full_disk_is_told(bench, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out")

    words = data("full disk", lambda folder: None, "").words(tmp_path)
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    code, out, err = bench(words)
    assert code == 2 and "No space left on device" in err and "Traceback" not in out + err


def test_lack_of_memory_is_told_and_the_grid_goes_on(bench, tmp_path: Path, monkeypatch) -> None:
    from benchmark.training.portions import Portions

    def small(self, model, *rest):
        if type(model).__name__ == "FlexCare":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(self, model, *rest)

    whole = Portions._sum
    monkeypatch.setattr(Portions, "_sum", small)
    words = data("memory", lambda folder: None, "").words(tmp_path)
    words[words.index("mmf")] = "flexcare-st,mmf"
    code, out, err = bench(words)
    assert code == 1 and "Traceback" not in out + err
    assert "out of memory on cpu with a batch of 16 samples, one sample at a time; lower the dimensions" in out
    assert "1 run finished" in out or "1 finished" in out or "MMF" in out
