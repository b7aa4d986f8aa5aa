"""What holds for every baseline as a registered model."""

from __future__ import annotations

import pytest
import torch
from random_batches import BINARY, PATTERNS, SMALL, make_batch

from baselines import ENTRIES
from models.contract import Dimensions, count_parameters

PAPER = [entry for entry in ENTRIES if entry.name in ("medfuse", "mt", "m3care", "mmf", "multimodn")]
trained = pytest.mark.parametrize("entry", [e for e in ENTRIES if not e.fits], ids=lambda entry: entry.name)


def test_table_order_and_titles_of_the_papers_baselines():
    assert [(entry.name, entry.title) for entry in PAPER] == [
        ("medfuse", "MedFuse"),
        ("mt", "MT"),
        ("m3care", "M3Care"),
        ("mmf", "MMF"),
        ("multimodn", "MultiModN"),
    ]


@pytest.mark.parametrize("entry", PAPER, ids=lambda entry: entry.name)
def test_one_head_only(entry):
    with pytest.raises(ValueError, match="given 2 heads, allowed is 1"):
        entry.build(SMALL, [BINARY, BINARY], entry.config())


@pytest.mark.parametrize(
    ("name", "layers", "other"),
    [  # at D = 128: 198,272 a transformer layer, 132,096 an LSTM layer, 256 a layer norm, 16,512 a square linear map
        ("medfuse", 8, 3 * 132_096 + 2 * (128 + 16_512) + 256 + 129),
        ("mt", 4, 128 + 3 * 128 + 256 + 129),
        # three similarities and imputations, class tokens and types, threshold, 384 -> 256 -> 1
        ("m3care", 8, 3 * (5 * 16_512 + 2 * 128 + 1 + 2 * 129) + 6 * 128 + 1 + 385 * 256 + 257),
        ("mmf", 12, 3 * 128 + 4 * 128 + 256 + 129),
        ("multimodn", 12, 3 * (128 + 257 * 128 + 2 * 16_512) + 128 + 2 * 16_512 + 129),
    ],
)
def test_parameter_count_at_the_papers_dimensions(name, layers, other):
    (entry,) = (entry for entry in ENTRIES if entry.name == name)
    model = entry.build(Dimensions(), [BINARY], entry.config())
    assert count_parameters(model) == 362_880 + layers * 198_272 + other


@trained
def test_bfloat16_autocast_changes_little(entry):
    torch.manual_seed(0)
    model = entry.build(SMALL, [BINARY], entry.config())
    batch, _ = make_batch(PATTERNS, dtype=torch.float32)
    exact = model.eval()(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch).logits
        trained = model.train()(batch)
        (trained.logits.sum() + sum(readout.logits.sum() for readout in trained.readouts)).backward()
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.05)
