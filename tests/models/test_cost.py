"""Measured work of models against formulas."""

from __future__ import annotations

import pytest
import torch

from baselines import ENTRIES as BASELINES
from models import ENTRIES, ragged
from models.contract import Dimensions, Head
from models.cost import Inputs, cost

BY_NAME = {entry.name: entry for entry in (*ENTRIES, *BASELINES)}
HEADS = (Head(3, "multilabel", "ehr"),)
DIMS = Dimensions()


def lengths(inputs: Inputs) -> list[int]:
    every = {"ehr": inputs.hours, "cxr": (DIMS.film // DIMS.patch) ** 2, "note": inputs.note_tokens}
    return [every[name] for name in inputs.owned]


def embeddings(inputs: Inputs) -> int:
    """One product a token; a film's three equal channels are folded into one."""
    features = {"ehr": 76, "cxr": 256, "note": 768}
    return sum(2 * features[name] * DIMS.width * n for name, n in zip(inputs.owned, lengths(inputs), strict=True))


def flexcare(inputs: Inputs) -> int:
    """Streams and readers, the last layer for the eight readers alone; all ten experts for all seven tokens."""
    d, layers, specials = DIMS.width, DIMS.layers, 8
    n = lengths(inputs)
    reading = 5 * sum(n) + specials**2  # pairs: five readers see each sequence, and the readers among themselves
    inner = 24 * d * d * (sum(n) + specials) + 4 * d * (sum(k * k for k in n) + reading)
    last = 4 * d * d * sum(n) + 24 * d * d * specials + 4 * d * reading
    experts = 7 * (10 * 4 * d * d + 10 * 2 * d + 10 * 2 * d) + 10 * 2 * d
    fusion = 7 * (2 * d * d + 2 * d + 2 * d) + 2 * d * d
    return embeddings(inputs) + (layers - 1) * inner + last + experts + fusion + 2 * (2 * d) * HEADS[0].classes


def transformer(inputs: Inputs) -> int:
    """MT: one sequence with a class token; all but the last layer in full, the last one for the class token alone."""
    d, layers, n = DIMS.width, DIMS.layers, 1 + sum(lengths(inputs))
    inner = 24 * d * d * n + 4 * d * n * n
    last = 4 * d * d * n + 20 * d * d + 4 * d * n
    return embeddings(inputs) + (layers - 1) * inner + last + 2 * d * HEADS[0].classes


def tower(tokens: int) -> int:
    """A transformer over one modality that is read at its class token."""
    d, layers, n = DIMS.width, DIMS.layers, 1 + tokens
    return (layers - 1) * (24 * d * d * n + 4 * d * n * n) + 4 * d * d * n + 20 * d * d + 4 * d * n


def medfuse(inputs: Inputs) -> int:
    """Two LSTM layers over the series, a tower and a projection for film and note, an LSTM over the present vectors."""
    d, step = DIMS.width, 16 * DIMS.width**2
    found = zip(inputs.owned, lengths(inputs), strict=True)
    own = sum(2 * step * n if name == "ehr" else tower(n) + 2 * d * d for name, n in found)
    return embeddings(inputs) + own + step * len(inputs.owned) + 2 * d * HEADS[0].classes


def mmf(inputs: Inputs) -> int:
    """A tower a modality, over four bottleneck tokens more."""
    return embeddings(inputs) + sum(tower(n + 4) for n in lengths(inputs)) + 2 * DIMS.width * HEADS[0].classes


CASES = [Inputs(), Inputs(512, 512), Inputs(owned=("ehr",)), Inputs(70, 20, ("ehr", "note"))]


FORMULAS = {"flexcare": flexcare, "mt": transformer, "medfuse": medfuse, "mmf": mmf}


@pytest.mark.parametrize(("name", "formula"), FORMULAS.items(), ids=FORMULAS)
@pytest.mark.parametrize("inputs", CASES, ids=str)
def test_measured_work_equals_the_formula(name, formula, inputs):
    assert cost(BY_NAME[name], DIMS, HEADS, [inputs]).flops[0] == pytest.approx(formula(inputs), rel=1e-9)


def test_the_formula_is_that_of_the_paper_s_network_less_what_is_exactly_saved():
    """633.4 million at 48/196/128 for streams, readers and a pruned last layer, with films in three channels and two
    experts a token."""
    folded = 2 * (768 - 256) * DIMS.width * 196
    all_experts = 7 * 8 * 4 * DIMS.width**2
    assert (flexcare(Inputs()) + folded - all_experts) / 1e6 == pytest.approx(633.4, rel=2e-3)


@pytest.mark.parametrize("entry", [entry for entry in BY_NAME.values() if not entry.fits], ids=lambda e: e.name)
def test_every_model_is_measured_and_absent_modalities_cost_nothing(entry):
    state, caches = torch.get_rng_state(), dict(ragged.GROUP_OVERHEAD)
    whole, series = cost(entry, DIMS, HEADS, [Inputs(), Inputs(owned=("ehr",))]).flops
    assert series < whole or entry.reads == ("ehr",)
    if "ehr" in entry.reads:
        assert series > embeddings(Inputs(owned=("ehr",)))
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(ragged.GROUP_OVERHEAD) == caches
