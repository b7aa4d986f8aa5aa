"""What a protocol says about notes decides which embeddings its runs read."""

from __future__ import annotations

import json

import pytest
from tiny_encoder import make_checkpoint

from benchmark.config import resolve
from benchmark.runs.launch import find_encoder


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
