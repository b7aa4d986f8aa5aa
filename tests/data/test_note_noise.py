"""Notes with the noise of the encoder's own dropout: which noise a text has, and what it does not depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_encoder import make_checkpoint

from benchmark.data import note_cache
from benchmark.data.dataset import embeddings_folder
from benchmark.data.note_cache import ensure_embeddings
from benchmark.data.note_encoder import encode, load_model, resolve
from benchmark.data.note_noise import TextNoise, text_keys
from benchmark.data.stores import RaggedStore
from benchmark.errors import UserError

TEXTS = [("pmh", "COPD, Gout"), ("pmh", "history of chest pains"), ("bhc", "chest pain . " * 4), ("pmh", "pain")]
IDS = [np.array([2, 7, 12, 8, 3]), np.array([2, 9, 10, 6, 5, 11, 3]), np.array([2, 5, 3])]
DIGESTS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("encoder") / "tiny-bert")


def embedded(checkpoint: Path, draw: int, chosen: list[int], encoder: str = "key") -> list[np.ndarray]:
    """Noisy embeddings of some of the three texts, as one batch."""
    model = load_model(resolve(str(checkpoint)), "cpu", dropout=True)
    keys = text_keys(encoder, draw, [DIGESTS[text] for text in chosen])
    values = encode([IDS[text] for text in chosen], model, "cpu", TextNoise(keys, 32, "cpu"))
    return np.split(values, np.cumsum([len(IDS[text]) for text in chosen])[:-1])


def test_noise_belongs_to_encoder_draw_and_text(checkpoint: Path) -> None:
    first = embedded(checkpoint, 0, [0, 1, 2])
    torch.manual_seed(1)  # the state of torch's own random numbers has no influence
    for one, again in zip(first, embedded(checkpoint, 0, [0, 1, 2]), strict=True):
        np.testing.assert_array_equal(one, again)
    for other in (embedded(checkpoint, 1, [0, 1, 2]), embedded(checkpoint, 0, [0, 1, 2], "other")):
        assert all(np.abs(one - two).max() > 0.05 for one, two in zip(first, other, strict=True))
    model = load_model(resolve(str(checkpoint)), "cpu", dropout=True)
    twice = encode([IDS[0], IDS[0]], model, "cpu", TextNoise(text_keys("key", 0, ["a", "b"]), 32, "cpu"))
    assert np.abs(twice[:5] - twice[5:]).max() > 0.05, "another text has other noise"


def test_noise_of_a_text_does_not_depend_on_its_batch(checkpoint: Path) -> None:
    together, turned = embedded(checkpoint, 3, [0, 1, 2]), embedded(checkpoint, 3, [2, 0])
    for text in range(3):
        (alone,) = embedded(checkpoint, 3, [text])
        np.testing.assert_allclose(together[text], alone, atol=4e-3)
    np.testing.assert_allclose(turned[0], together[2], atol=4e-3)
    np.testing.assert_allclose(turned[1], together[0], atol=4e-3)


@pytest.mark.parametrize("shape", [(4, 30, 64), (4, 2, 30, 30)])
def test_random_bits_are_even_and_independent(shape: tuple[int, ...]) -> None:
    noise = TextNoise(text_keys("key", 0, list("abcd")), 32, "cpu")
    ones = torch.ones(shape)
    with noise:
        first, second = (torch.nn.functional.dropout(ones, 0.1, training=True) for _ in range(2))
        assert torch.nn.functional.dropout(ones, 0.1, training=False) is ones
    assert noise.calls == 2
    for values in (first, second):
        assert values.unique().tolist() == [0.0, pytest.approx(1 / 0.9)]
        kept = (values > 0).float().flatten(1)  # (texts, elements)
        bound = 4.5 * (0.09 / kept.shape[1]) ** 0.5
        assert ((kept.mean(1) - 0.9).abs() < bound).all()
    parts = torch.cat([part.flatten(1) for part in (first, second)]).sub(1)
    parts = torch.cat([parts, parts[:, torch.arange(parts.shape[1]) - 1]])  # neighbours, too
    correlation = torch.corrcoef(parts).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / parts.shape[1] ** 0.5


def test_many_draws_are_spread_like_ordinary_dropout_around_the_clean_embedding(checkpoint: Path) -> None:
    model = load_model(resolve(str(checkpoint)), "cpu", dropout=True)
    clean = encode(IDS[1:2], load_model(resolve(str(checkpoint)), "cpu"), "cpu").astype(np.float64)
    ours = [encode(IDS[1:2], model, "cpu", TextNoise(text_keys("key", draw, ["b"]), 32, "cpu")) for draw in range(600)]
    torch.manual_seed(0)
    theirs = [encode(IDS[1:2], model, "cpu") for _ in range(600)]
    ours, theirs = (np.stack(draws).astype(np.float64) for draws in (ours, theirs))  # (draws, tokens, width)
    spread = theirs.std(0)
    error = np.sqrt(2 / 600) * spread
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error).all(), "of one distribution"
    np.testing.assert_allclose(ours.std(0), spread, rtol=0.25)
    # A network is not linear, so the mean is near the clean embedding, not at it.
    assert np.abs(ours.mean(0) - clean).mean() < 0.5 * np.abs(ours - clean).mean()


def data_dir(root: Path, rows=TEXTS) -> Path:
    """Texts; samples of one task train on all but the last, which is a test sample's."""
    for folder in ("notes", "samples"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows, columns=["section", "text"])
    frame["digest"] = [hashlib.sha256(text.encode()).hexdigest() for text in frame["text"]]
    frame.to_parquet(root / "notes" / "texts.parquet")
    samples = pd.DataFrame({"split": "train", "note": [-1, *range(len(rows))]})
    samples.loc[len(rows), "split"] = "test"
    samples.to_parquet(root / "samples" / "ihm.parquet")
    return root


def run(root: Path, checkpoint: Path, draw: int | None, sections=("pmh", "bhc")) -> RaggedStore:
    info = ensure_embeddings(root, str(checkpoint), set(sections), 12, "cpu", draw=draw)
    return RaggedStore.open(embeddings_folder(root, info.key, draw))


def test_each_draw_has_a_store_of_training_texts_beside_the_clean_one(checkpoint: Path, tmp_path: Path) -> None:
    root = data_dir(tmp_path)
    first, clean, second = run(root, checkpoint, 0), run(root, checkpoint, None), run(root, checkpoint, 1)
    assert clean.lengths.tolist() == [5, 7, 12, 3]
    assert first.lengths.tolist() == second.lengths.tolist() == [5, 7, 12, 0]
    for row in range(3):
        for one, two in ((first, clean), (second, clean), (first, second)):
            assert np.abs(one[row] - two[row]).max() > 0.05
    elsewhere = data_dir(tmp_path / "without noise")
    np.testing.assert_array_equal(run(elsewhere, checkpoint, None).values, clean.values)
    (folder,) = (root / "notes" / "embeddings").iterdir()
    noisy = root / "notes" / "embeddings_with_dropout" / folder.name
    assert sorted(path.name for path in noisy.iterdir()) == ["0", "1"]
    assert json.loads((noisy / "1" / "encoder.json").read_text())["draw"] == 1


def test_noise_outlives_an_interruption_and_later_texts(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    whole = run(data_dir(tmp_path / "whole"), checkpoint, 0)
    root, original, calls = data_dir(tmp_path / "resumed"), note_cache.encode, []

    def stop(ids, *rest):
        calls.append(len(ids))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(ids, *rest)

    monkeypatch.setattr(note_cache, "_CHUNK_TOKENS", 8)
    monkeypatch.setattr(note_cache, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
        run(root, checkpoint, 0)
    np.testing.assert_allclose(run(root, checkpoint, 0).values, whole.values, atol=4e-3)
    assert len(calls) == 4, "what was done is not done again"
    changed = data_dir(root, [("pmh", "Gout of chest"), *TEXTS[1:]])
    later = run(changed, checkpoint, 0)
    assert len(calls) == 5
    np.testing.assert_allclose(later[1], whole[1], atol=4e-3)


def test_an_encoder_without_dropout_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "no-dropout")
    config = json.loads((other / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="note_dropout needs one above 0"):
        load_model(resolve(str(other)), "cpu", dropout=True)


def test_attention_that_drops_by_itself_is_found(checkpoint: Path) -> None:
    model = load_model(resolve(str(checkpoint)), "cpu", dropout=True)
    model.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match="dropped 5 times in a pass; 7 expected"):
        encode(IDS, model, "cpu", TextNoise(text_keys("key", 0, DIGESTS), 32, "cpu"))
