"""What a protocol says about notes decides which embeddings its runs read."""

from __future__ import annotations

import json

import pytest
from harness_fakes import config_for, write_data
from tiny_encoder import make_checkpoint

from benchmark.config import resolve
from benchmark.data import note_cache
from benchmark.runs import launch
from benchmark.runs.launch import find_encoder, prepare_plan


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("encoder") / "tiny-bert")


def key(checkpoint, folder, **settings) -> str:
    protocol = {"base": "quick", "note_encoder": str(checkpoint), "dimensions": {"note_tokens": 16}} | settings
    file = folder / "mine.yaml"
    file.write_text(json.dumps({"protocol": protocol}))
    config = resolve({"out": str(folder)}, file)
    return find_encoder(config).key


def test_special_tokens_are_a_setting_of_the_protocol(checkpoint, tmp_path) -> None:
    with_them = key(checkpoint, tmp_path)
    assert with_them == key(checkpoint, tmp_path, note_special_tokens=True)
    assert with_them != key(checkpoint, tmp_path, note_special_tokens=False)


def test_draws_of_the_encoders_dropout_are_made_for_unfinished_jobs_that_use_them(tmp_path, monkeypatch) -> None:
    manifest = write_data(tmp_path / "data") / "manifest.json"
    content = json.loads(manifest.read_text())
    content["modalities"]["note"] = True
    content["tasks"]["drg"], content["impossible"] = content["tasks"]["ihm"], {}
    manifest.write_text(json.dumps(content))
    made = []
    monkeypatch.setattr(note_cache, "ensure_embeddings", lambda *args: made.append((sorted(args[2]), args[-1])))
    file = tmp_path / "mine.yaml"
    file.write_text("base: quick\ntraining_of: {flexcare-authors: {note_dropout: 3}, mt: {note_dropout: 1}}\n")
    settings = {"protocol": str(file), "models": "flexcare,flexcare-authors,mt", "seeds": "1,2"}
    prepare_plan(config_for(tmp_path, **settings, tasks="ihm,drg"))
    both = ["bhc", "pmh"]
    assert made == [(both, None), (both, 0), (both, 1), (both, 2)]
    del made[:]
    plan = prepare_plan(config_for(tmp_path, **settings, tasks="ihm"))
    assert made == [(["pmh"], None), (["pmh"], 0), (["pmh"], 1), (["pmh"], 2)]
    del made[:]
    finished = {job.id for job in plan.jobs if job.model == "flexcare-authors"}
    monkeypatch.setattr(launch, "is_done", lambda out, run: run in finished)
    prepare_plan(config_for(tmp_path, **settings, tasks="ihm"))
    assert made == [(["pmh"], None), (["pmh"], 0)], "mt's"
