"""The frozen note encoder: where it comes from, its tokens, its embeddings."""

from __future__ import annotations

import json
import shutil
import socket

import numpy as np
import pytest
from tiny_encoder import WORDS, make_checkpoint

from benchmark.data import encoder_source
from benchmark.data.note_encoder import BUILTIN, encode, encoder_key, load_model, resolve, tokenise
from benchmark.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("encoder") / "tiny-bert")


@pytest.fixture
def checkpoint(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny-bert")


TEXTS = ["COPD, Gout", "chest pain . " * 20, "history of chest pains", "", "chest pain . chest"]


def words(*numbers: int) -> list[str]:
    return [WORDS[number] for number in numbers]


def test_tokens_with_and_without_special_ones(made) -> None:
    source = resolve(str(made))
    tokens = tokenise(source, TEXTS, 6)
    assert [words(*ids) for ids in tokens.ids[:2]] == [
        ["[CLS]", "COPD", ",", "Gout", "[SEP]"],
        ["[CLS]", "chest", "pain", ".", "chest", "[SEP]"],
    ]
    assert [len(ids) for ids in tokens.ids] == [5, 6, 6, 2, 6]
    assert tokens.cut.tolist() == [False, True, True, False, False]
    plain = tokenise(source, TEXTS, 6, special_tokens=False)
    assert [words(*ids) for ids in plain.ids] == [
        ["COPD", ",", "Gout"],
        ["chest", "pain", ".", "chest", "pain", "."],
        ["history", "of", "chest", "pain", "##s"],
        [],
        ["chest", "pain", ".", "chest"],
    ]
    assert plain.cut.tolist() == [False, True, False, False, False]


def test_every_token_is_encoded_as_if_the_text_were_alone(made) -> None:
    import torch
    from transformers import BertModel

    source = resolve(str(made))
    ids = [ids for ids in tokenise(source, TEXTS, 12, special_tokens=False).ids if len(ids)]
    parts = np.split(encode(ids, load_model(source, "cpu"), "cpu"), np.cumsum([len(own) for own in ids])[:-1])
    model = BertModel.from_pretrained(made, add_pooling_layer=False).eval()
    for own, part in zip(ids, parts, strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([own.tolist()])).last_hidden_state[0].numpy()
        assert part.dtype == np.float16
        np.testing.assert_allclose(part, alone, atol=4e-3)


def test_key_follows_weights_and_tokens_and_nothing_else(checkpoint, tmp_path) -> None:
    def key(folder, *settings):
        return encoder_key(resolve(str(folder)), *settings)

    moved = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    assert key(moved, 12) == key(checkpoint, 12, True)
    assert len({key(checkpoint, 12), key(checkpoint, 13), key(checkpoint, 12, False)}) == 3
    (moved / "vocab.txt").write_text("\n".join([*WORDS[:-1], "!"]) + "\n")
    assert key(moved, 12) != key(checkpoint, 12)


def test_a_vocabulary_that_does_not_fit_is_refused(checkpoint) -> None:
    (checkpoint / "vocab.txt").write_text("\n".join([*WORDS[:5], *(f"unused{i}" for i in range(9))]) + "\n")
    for special_tokens in (True, False):
        with pytest.raises(UserError, match=r"\d+ of \d+ tokens are unknown to its vocabulary"):
            tokenise(resolve(str(checkpoint)), TEXTS, 12, special_tokens)


def test_incomplete_folders_are_named(checkpoint, tmp_path):
    (checkpoint / "vocab.txt").unlink()
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks weights .*, vocabulary"):
        resolve(str(checkpoint))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"lacks config\.json"):
        resolve(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no such folder"):
        resolve(str(tmp_path / "nothing"))


def test_other_architectures_and_missing_parameters_are_refused(checkpoint, tmp_path):
    from safetensors.numpy import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not in the weights"):
        load_model(resolve(str(checkpoint)), "cpu")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(UserError, match="'gpt2'; allowed is bert"):
        resolve(str(checkpoint))


def test_an_encoder_that_is_not_cached_is_told_and_no_network_asked(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UserError, match="`hf download nobody/no-such-encoder`"):
            resolve("nobody/no-such-encoder")
        with pytest.raises(BlockingIOError):  # nobody has knocked
            server.accept()


def test_builtin_encoder_is_the_published_one(monkeypatch):
    source = resolve(BUILTIN)
    assert (source.kind, source.width, source.positions) == ("builtin", 384, 512)
    monkeypatch.setattr(encoder_source, "_BUILTIN_SHA256", "0" * 64)
    with pytest.raises(UserError, match="altered or damaged"):
        resolve(BUILTIN)
