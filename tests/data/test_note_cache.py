"""The cache of token embeddings: every text once, calls that are killed, damage, texts that come later."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_encoder import WORDS, make_checkpoint

from benchmark.data import note_cache
from benchmark.data.note_cache import ensure_embeddings
from benchmark.data.note_encoder import encode, load_model
from benchmark.data.stores import RaggedStore
from benchmark.errors import UserError

TEXTS = [
    ("pmh", "COPD, Gout"),
    ("pmh", "history of chest pains"),
    ("bhc", "chest pain . " * 20),
    ("pmh", "COPD, Gout"),
    ("bhc", "COPD, Gout"),
    ("pmh", "pain"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("encoder") / "tiny-bert")


def data_dir(root: Path, rows=TEXTS) -> Path:
    """A data set of nothing but texts; rewritten if it is there."""
    (root / "notes").mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows, columns=["section", "text"])
    frame.insert(0, "note", np.arange(len(rows)))
    frame["digest"] = [hashlib.sha256(text.encode()).hexdigest() for text in frame["text"]]
    frame.to_parquet(root / "notes" / "texts.parquet")
    return root


def run(root: Path, checkpoint: Path, sections=("pmh", "bhc"), max_tokens=12, **options) -> RaggedStore:
    info = ensure_embeddings(root, str(checkpoint), set(sections), max_tokens, "cpu", **options)
    assert (info.name, info.width) == ("tiny-bert", 8)
    return RaggedStore.open(root / "notes" / "embeddings" / info.key)


def final(root: Path) -> Path:
    """The one folder of embeddings; nothing else may be left."""
    (folder,) = (root / "notes" / "embeddings").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "encoder.json", "offsets.npy", "rows.parquet", "values.npy",
    ]  # fmt: skip
    return folder


def alone(checkpoint: Path, text: str, max_tokens: int) -> np.ndarray:
    """Embeddings of one text, by hand."""
    import torch
    from transformers import BertModel

    words = [word for token in text.replace(",", " ,").split() for word in token.replace("pains", "pain ##s").split()]
    ids = [2, *[WORDS.index(word) for word in words][: max_tokens - 2], 3]
    model = BertModel.from_pretrained(checkpoint, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0].numpy()


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Number of texts in each batch that was encoded; one text a chunk."""
    monkeypatch.setattr(note_cache, "_CHUNK_TOKENS", 8)
    batches: list[int] = []
    original = note_cache.encode
    monkeypatch.setattr(note_cache, "encode", lambda ids, *rest: batches.append(len(ids)) or original(ids, *rest))
    return batches


def test_every_row_has_the_embeddings_of_its_text(checkpoint, tmp_path) -> None:
    store = run(data_dir(tmp_path), checkpoint)
    assert store.lengths.tolist() == [5, 7, 12, 5, 5, 3] and store.values.dtype == np.float16
    for row, (_, text) in enumerate(TEXTS):
        np.testing.assert_allclose(store[row], alone(checkpoint, text, 12), atol=4e-3)
    about = json.loads((final(tmp_path) / "encoder.json").read_text())
    assert about["counts"] == {
        "bhc": {"texts": 2, "truncated": 1, "tokens": 17},
        "pmh": {"texts": 4, "truncated": 0, "tokens": 20},
    }


def test_without_special_tokens_there_are_two_less_and_another_folder(checkpoint, tmp_path) -> None:
    root = data_dir(tmp_path, [*TEXTS, ("pmh", "\u200b")])
    store = run(root, checkpoint, special_tokens=False)
    assert store.lengths.tolist() == [3, 5, 12, 3, 3, 1, 0]
    assert run(root, checkpoint).lengths.tolist() == [5, 7, 12, 5, 5, 3, 2]
    assert len(list((root / "notes" / "embeddings").iterdir())) == 2


def test_batches_do_not_change_embeddings(checkpoint, tmp_path, monkeypatch) -> None:
    together = run(data_dir(tmp_path / "a"), checkpoint)
    monkeypatch.setattr(note_cache, "_BATCH_TOKENS", {"cpu": 1})
    apart = run(data_dir(tmp_path / "b"), checkpoint)
    np.testing.assert_allclose(together.values, apart.values, atol=4e-3)


def test_equal_texts_are_encoded_once_and_sections_added_later(checkpoint, tmp_path, encoded) -> None:
    root = data_dir(tmp_path)
    first = run(root, checkpoint, ["pmh"])
    assert first.lengths.tolist() == [5, 7, 0, 5, 0, 3] and sum(encoded) == 3
    second = run(root, checkpoint, ["bhc"])
    assert second.lengths.tolist() == [5, 7, 12, 5, 5, 3] and sum(encoded) == 4
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(second[0], second[4])
    run(root, checkpoint)
    assert sum(encoded) == 4
    assert json.loads((final(root) / "encoder.json").read_text())["sections"] == ["bhc", "pmh"]


def test_texts_that_come_later_are_added_wherever_they_stand(checkpoint, tmp_path, encoded) -> None:
    before = run(data_dir(tmp_path), checkpoint)
    del encoded[:]
    changed = [("pmh", "Gout of chest"), *TEXTS[2:], ("bhc", "history")]
    after = run(data_dir(tmp_path, changed), checkpoint)
    assert sum(encoded) == 2
    assert after.lengths.tolist() == [5, 12, 5, 5, 3, 3]
    np.testing.assert_array_equal(after[1], before[2])
    np.testing.assert_array_equal(after.values, run(data_dir(tmp_path / "fresh", changed), checkpoint).values)
    counts = json.loads((final(tmp_path) / "encoder.json").read_text())["counts"]
    assert counts["bhc"]["truncated"] == 1 and counts["pmh"]["truncated"] == 0


KILLED = """
import os, sys
from pathlib import Path
import torch
from transformers import AutoTokenizer, BertModel, BertTokenizerFast
from benchmark.data import note_cache

def killed_at(name, count):
    calls, original = [], getattr(note_cache, name)
    def call(*args, **options):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), 9)
        return original(*args, **options)
    setattr(note_cache, name, call)
    note_cache.ensure_embeddings(Path(sys.argv[1]), sys.argv[2], {"pmh", "bhc"}, 12, "cpu")

torch.set_num_threads(1)
note_cache._CHUNK_TOKENS = 8
for name, count in [("encode", 2), ("_write", 2)]:
    child = os.fork()
    if not child:
        killed_at(name, count)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_killed_calls_go_on_where_they_were(checkpoint, tmp_path, encoded, monkeypatch) -> None:
    """Killed before the second text is encoded; then again when the third is stored, but not marked."""
    root = data_dir(tmp_path / "data")
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(checkpoint)], capture_output=True, text=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 2, done.stderr
    left = list((root / "notes" / "embeddings").iterdir())
    assert {path.name.split("-")[0] for path in left} == {".partial", ".tokens", ".lock"}
    assert len(list(left[0].parent.glob(".partial-*/done/[!.]*"))) == 2
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(note_cache, "tokenise", lambda *_, **__: pytest.fail("tokenised once more"))
        resumed = run(root, checkpoint, progress=lambda *call: calls.append(call))
    assert sum(encoded) == 2 and calls[-1] == ("note embeddings", 4, 4)
    np.testing.assert_array_equal(resumed.values, run(data_dir(tmp_path / "fresh"), checkpoint).values)
    final(root)


def test_a_kill_between_the_renames_of_an_extension_costs_nothing(checkpoint, tmp_path, encoded) -> None:
    root = data_dir(tmp_path)
    first = run(root, checkpoint).values.tobytes()
    folder = final(root)
    folder.rename(folder.with_name(f".replaced-{folder.name}"))  # and here the process ended
    del encoded[:]
    assert run(root, checkpoint).values.tobytes() == first
    assert encoded == []
    folder.with_name(f".replaced-{folder.name}").mkdir()  # another kill: before the last tidying up
    run(root, checkpoint)
    final(root)


def test_a_damaged_chunk_of_an_unfinished_store_is_encoded_again(checkpoint, tmp_path, encoded, monkeypatch) -> None:
    root, original = data_dir(tmp_path / "data"), note_cache.encode

    def stop(ids, *rest):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return original(ids, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(note_cache, "encode", stop)
        run(root, checkpoint)
    (partial,) = (root / "notes" / "embeddings").glob(".partial-*")
    store = np.load(partial / "values.npy", mmap_mode="r+")
    written = np.flatnonzero(np.asarray(store).any(1))
    store[written[0], 0] += 1  # in one of the two texts that are done
    store.flush()
    del encoded[:]
    resumed = run(root, checkpoint)
    assert sum(encoded) == 3
    np.testing.assert_array_equal(resumed.values, run(data_dir(tmp_path / "fresh"), checkpoint).values)


@pytest.mark.parametrize("damage", ["flipped byte", "cut short", "no table", "torn description"])
def test_a_damaged_store_is_found_and_mended(checkpoint, tmp_path, encoded, damage: str) -> None:
    root = data_dir(tmp_path / "data")
    whole = np.array(run(root, checkpoint).values)
    folder = final(root)
    if damage == "flipped byte":
        data = bytearray((folder / "values.npy").read_bytes())
        data[-1] ^= 1  # in the last row, whose text no other has
        (folder / "values.npy").write_bytes(data)
    elif damage == "cut short":
        os.truncate(folder / "values.npy", (folder / "values.npy").stat().st_size - 100)
    elif damage == "no table":
        (folder / "rows.parquet").unlink()
    else:
        (folder / "encoder.json").write_text("{")
    del encoded[:]
    np.testing.assert_array_equal(run(root, checkpoint).values, whole)
    assert sum(encoded) == (1 if damage == "flipped byte" else 4)
    final(root)


def test_a_copied_store_is_checked_and_taken(checkpoint, tmp_path, encoded) -> None:
    root = data_dir(tmp_path / "data")
    run(root, checkpoint)
    os.utime(final(root) / "values.npy", ns=(1, 1))
    del encoded[:]
    run(root, checkpoint)
    assert not encoded
    assert json.loads((final(root) / "encoder.json").read_text())["stamp"][1] == 1


def test_a_full_disk_is_found_before_the_work(checkpoint, tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(note_cache.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(note_cache, "load_model", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(UserError, match=r"need 0\.0 GB more in .*; 0\.0 GB are free"):
        run(data_dir(tmp_path), checkpoint)


@pytest.mark.parametrize(("limit", "special", "least"), [(33, True, 3), (2, True, 3), (0, False, 1)])
def test_token_limit_is_checked(checkpoint, tmp_path, limit: int, special: bool, least: int) -> None:
    with pytest.raises(UserError, match=f"max_tokens {limit}; tiny-bert allows {least} to 32"):
        run(data_dir(tmp_path), checkpoint, max_tokens=limit, special_tokens=special)


def test_a_gpu_is_free_again_when_all_is_encoded(tmp_path: Path, checkpoint: Path, monkeypatch) -> None:
    """The encoder runs on the CPU here; the device is a name."""
    import torch

    loaded, alive = [], []

    def load(source, device, dropout):
        loaded.append(weakref.ref(model := load_model(source, "cpu", dropout)))
        return model

    monkeypatch.setattr(note_cache, "load_model", load)
    monkeypatch.setattr(note_cache, "encode", lambda ids, model, device, noise: encode(ids, model, "cpu", noise))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(loaded[0]() is not None))
    ensure_embeddings(data_dir(tmp_path), str(checkpoint), {"pmh"}, 12, "cuda")
    assert alive == [False]
