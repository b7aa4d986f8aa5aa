"""Forward and backward pass on the meta device, which knows shapes only.

A tensor created on another device fails there, and so does any read of a value on the host, as would make a GPU wait.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from random_batches import SMALL, make_batch
from torch import nn

from baselines import ENTRIES as BASELINES
from baselines.recurrent import read_steps
from models import ENTRIES as MODELS
from models.contract import Films, Head, ModelEntry, Packed

META = torch.device("meta")


def _on_meta(packed: Packed | None) -> Packed | None:
    return None if packed is None else packed.with_values(packed.values.to(META))


@pytest.mark.parametrize(
    "entry", [entry for entry in (*BASELINES, *MODELS) if not entry.fits], ids=lambda entry: entry.name
)
@pytest.mark.parametrize("training", [True, False])
def test_a_step_stays_on_its_device_and_never_reads_a_value(
    entry: ModelEntry, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # unknown to the meta device
    head = Head(3, "multilabel", "ehr")
    batch, _ = make_batch(head=head, dtype=torch.float32)
    batch = replace(
        batch,
        ehr=_on_meta(batch.ehr),
        cxr=Films(batch.cxr.pixels.to(META), batch.cxr.rows),
        note=_on_meta(batch.note),
        present=batch.present.to(META),
        sample=batch.sample.to(META),
    )
    model: nn.Module = entry.build(SMALL, [head], entry.config()).to(META).train(training)
    output = model(batch)
    assert output.logits.shape == (batch.size, 3)
    assert output.logits.device == META
    total = output.logits.sum() + sum(output.aux.values()) + sum(r.logits.sum() for r in output.readouts)
    total.backward()


def test_an_lstm_runs_in_full_precision_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast to bfloat16, torch would run it in float16 on a GPU."""
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: asked.append((args, kwargs)) or nullcontext())
    lstm, steps = nn.LSTM(4, 4, 2).to(META), torch.zeros(3, 2, 4, dtype=torch.bfloat16, device=META)
    states, (hidden, cell) = read_steps(lstm, steps)
    assert asked == [(("meta",), {"enabled": False})]
    assert {states.dtype, hidden.dtype, cell.dtype} == {torch.float32}
