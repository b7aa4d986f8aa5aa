"""The frozen note encoder, run on a tiny random BERT checkpoint through the real loading path."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time

import numpy as np
import pandas as pd
import pytest

from benchmark.data import encoder_source, note_encoder
from benchmark.data.note_encoder import BUILTIN, ensure_embeddings, resolve
from benchmark.data.stores import RaggedStore, RaggedWriter
from benchmark.errors import UserError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "pain",
    "chest",
    "COPD",
    "Gout",
    "history",
    "of",
    "##s",
    ",",
    ".",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint with weights, configuration and nothing but a cased word list, as BioBERT has it."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


@pytest.fixture
def checkpoint(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny-bert")


TEXTS = [
    ("pmh", "COPD, Gout"),
    ("pmh", "history of chest pains"),
    ("bhc", "chest pain . " * 20),
    ("pmh", "COPD, Gout"),
    ("bhc", "COPD, Gout"),
    ("pmh", "pain"),
]


def data_dir(root, rows=TEXTS):
    (root / "notes").mkdir(parents=True)
    frame = pd.DataFrame(rows, columns=["section", "text"])
    frame.insert(0, "note", np.arange(len(rows)))
    frame["digest"] = [hashlib.sha256(text.encode()).hexdigest() for text in frame["text"]]
    frame.to_parquet(root / "notes" / "texts.parquet")
    return root


def run(root, checkpoint, sections=("pmh", "bhc"), max_tokens=12, **options) -> RaggedStore:
    info = ensure_embeddings(root, str(checkpoint), set(sections), max_tokens, "cpu", **options)
    assert (info.name, info.width) == ("tiny-bert", 8)
    return RaggedStore.open(root / "notes" / "embeddings" / info.key)


def alone(checkpoint, text: str, max_tokens: int) -> np.ndarray:
    """Embeddings of one text, by hand."""
    import torch
    from transformers import BertModel

    words = [word for token in text.replace(",", " ,").split() for word in token.replace("pains", "pain ##s").split()]
    ids = [2, *[WORDS.index(word) for word in words][: max_tokens - 2], 3]
    model = BertModel.from_pretrained(checkpoint, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0].numpy()


def test_every_token_is_encoded_as_if_the_text_were_alone(checkpoint, tmp_path):
    store = run(data_dir(tmp_path / "data"), checkpoint)
    assert store.lengths.tolist() == [5, 7, 12, 5, 5, 3] and store.values.dtype == np.float16
    for row, (_, text) in enumerate(TEXTS):
        np.testing.assert_allclose(store[row], alone(checkpoint, text, 12), atol=4e-3)


def test_batches_do_not_change_embeddings(checkpoint, tmp_path, monkeypatch):
    together = run(data_dir(tmp_path / "a"), checkpoint)
    monkeypatch.setattr(note_encoder, "_BATCH_TOKENS", {"cpu": 1})
    apart = run(data_dir(tmp_path / "b"), checkpoint)
    np.testing.assert_allclose(together.values, apart.values, atol=4e-3)


def test_equal_texts_are_encoded_once_and_sections_added_later(checkpoint, tmp_path, monkeypatch):
    encoded = []
    original = note_encoder._encode
    monkeypatch.setattr(note_encoder, "_encode", lambda ids, *rest: encoded.append(len(ids)) or original(ids, *rest))
    root = data_dir(tmp_path / "data")
    first = run(root, checkpoint, ["pmh"])
    assert first.lengths.tolist() == [5, 7, 0, 5, 0, 3] and sum(encoded) == 3
    second = run(root, checkpoint, ["bhc"])
    assert second.lengths.tolist() == [5, 7, 12, 5, 5, 3] and sum(encoded) == 4
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(second[0], second[4])
    run(root, checkpoint, ["pmh", "bhc"])
    assert sum(encoded) == 4
    (folder,) = (root / "notes" / "embeddings").iterdir()
    assert json.loads((folder / "encoder.json").read_text())["sections"] == ["bhc", "pmh"]


def test_an_interrupted_run_goes_on_where_it_stopped(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(note_encoder, "_CHUNK_TOKENS", 8)  # one text a chunk
    encoded = []
    original = note_encoder._encode

    def encode(ids, *rest):
        if len(encoded) == 2:
            encoded.append(0)
            raise KeyboardInterrupt
        encoded.append(len(ids))
        return original(ids, *rest)

    monkeypatch.setattr(note_encoder, "_encode", encode)
    root = data_dir(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        run(root, checkpoint)
    assert not [path for path in (root / "notes" / "embeddings").iterdir() if not path.name.startswith(".")]
    calls = []
    resumed = run(root, checkpoint, progress=lambda *call: calls.append(call))
    assert encoded == [1, 1, 0, 1, 1] and calls[-1] == ("note embeddings", 4, 4)
    assert len(list((root / "notes" / "embeddings").iterdir())) == 1  # chunks are gone
    np.testing.assert_array_equal(resumed.values, run(data_dir(tmp_path / "fresh"), checkpoint).values)


def test_a_run_killed_while_it_writes_leaves_no_half_chunk(checkpoint, tmp_path, monkeypatch):
    """A chunk counts as done only after its values are on disk."""
    monkeypatch.setattr(note_encoder, "_CHUNK_TOKENS", 8)
    root, close, calls = data_dir(tmp_path / "data"), RaggedWriter.close, []

    def stop(writer):
        calls.append(writer)
        if len(calls) == 4:  # the empty store and two chunks are through
            raise KeyboardInterrupt
        close(writer)

    monkeypatch.setattr(RaggedWriter, "close", stop)
    with pytest.raises(KeyboardInterrupt):
        run(root, checkpoint)
    (partial,) = (root / "notes" / "embeddings").iterdir()
    assert len(list((partial / "done").iterdir())) == 2
    np.testing.assert_array_equal(run(root, checkpoint).values, run(data_dir(tmp_path / "b"), checkpoint).values)
    (final,) = (root / "notes" / "embeddings").iterdir()
    assert sorted(path.name for path in final.iterdir()) == ["encoder.json", "offsets.npy", "values.npy"]


def test_a_full_disk_is_found_before_the_work(checkpoint, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(note_encoder.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(note_encoder, "_load_model", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(UserError, match=r"need 0\.0 GB more in .*; 0\.0 GB are free"):
        run(data_dir(tmp_path / "data"), checkpoint)


def test_key_follows_weights_tokens_and_nothing_else(checkpoint, tmp_path):
    def key(folder, max_tokens=12):
        return note_encoder.encoder_key(resolve(str(folder)), max_tokens)

    moved = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    assert key(moved) == key(checkpoint) != key(checkpoint, 13)
    (moved / "vocab.txt").write_text("\n".join([*WORDS[:-1], "!"]) + "\n")
    assert key(moved) != key(checkpoint)


def test_a_vocabulary_that_does_not_fit_is_refused(checkpoint, tmp_path):
    (checkpoint / "vocab.txt").write_text("\n".join([*WORDS[:5], *(f"unused{i}" for i in range(9))]) + "\n")
    with pytest.raises(UserError, match="unknown to its vocabulary"):
        run(data_dir(tmp_path / "data"), checkpoint)


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
        run(data_dir(tmp_path / "data"), checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(UserError, match="'gpt2'; allowed is bert"):
        resolve(str(checkpoint))


def test_token_limit_is_checked(checkpoint, tmp_path):
    with pytest.raises(UserError, match="max_tokens 33; tiny-bert allows 3 to 32"):
        run(data_dir(tmp_path / "data"), checkpoint, max_tokens=33)


@pytest.fixture
def silent_server():
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://nowhere.invalid", "silent"])
def test_an_unreachable_hub_fails_within_seconds(endpoint: str, silent_server: str, monkeypatch):
    import huggingface_hub  # noqa: F401  (its import time is not what is measured)

    monkeypatch.setenv("HF_ENDPOINT", silent_server if endpoint == "silent" else endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        resolve("nobody/no-such-encoder")
    assert time.monotonic() - start < 5


def test_offline_switch_asks_nobody(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(encoder_source, "_reachable", lambda _: pytest.fail("asked the network"))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        resolve("nobody/no-such-encoder")


def test_builtin_encoder_is_the_published_one(monkeypatch):
    source = resolve(BUILTIN)
    assert (source.kind, source.width, source.positions) == ("builtin", 384, 512)
    monkeypatch.setattr(encoder_source, "_BUILTIN_SHA256", "0" * 64)
    with pytest.raises(UserError, match="altered or damaged"):
        resolve(BUILTIN)
