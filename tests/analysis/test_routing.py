"""Use of experts: counts from gates, shares that sum to k, distances that are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmark.analysis.routing import distances, expert_use, frequencies, mean_over_seeds
from benchmark.errors import UserError
from benchmark.training import Restored
from models.contract import Output
from models.mask import COMBINATIONS, complete_combinations

K, EXPERTS, SIZE = 2, 5, 300


class Router(nn.Module):
    """Sends the tokens of combination c to experts c % 5 and (c + 1) % 5, with gates 0.75 and 0.25."""

    def forward(self, present: torch.Tensor) -> Output:
        complete = complete_combinations(present)
        gates = torch.zeros(len(present), len(COMBINATIONS), EXPERTS)
        for c in range(len(COMBINATIONS)):
            gates[:, c, c % EXPERTS], gates[:, c, (c + 1) % EXPERTS] = 0.75, 0.25
        diagnostics = {"gates": gates * complete.unsqueeze(-1), "complete": complete}
        return Output(torch.zeros(len(present), 1), diagnostics=diagnostics)


class Source:
    def __init__(self, present: np.ndarray) -> None:
        self.present = torch.from_numpy(present)

    def __len__(self) -> int:
        return len(self.present)

    def batch(self, chosen: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(inputs=self.present[chosen])


@pytest.fixture(scope="module")
def use() -> pd.DataFrame:
    everything = np.ones((SIZE, 3), bool)
    alone = np.tile([True, False, False], (20, 1))
    return expert_use(Restored(Router(), {"ihm": Source(everything), "phe": Source(alone)}, False, 16))


def test_tokens_are_those_of_complete_combinations(use: pd.DataFrame) -> None:
    tokens = use.drop_duplicates(["task", "combination"]).set_index(["task", "combination"])["tokens"]
    assert (tokens["ihm"] == SIZE).all()  # more than one evaluation batch
    assert list(tokens["ihm"].index) == ["ehr", "cxr", "note", "ehr+cxr", "ehr+note", "cxr+note", "ehr+cxr+note"]
    assert tokens["phe"].to_dict() == dict.fromkeys(tokens["ihm"].index, 0) | {"ehr": 20}


@pytest.mark.parametrize("by", ["task", "combination"])
def test_rows_sum_to_k_and_gate_weighted_ones_to_1(use: pd.DataFrame, by: str) -> None:
    np.testing.assert_allclose(frequencies(use, by).sum(axis=1), K, rtol=1e-12)
    np.testing.assert_allclose(frequencies(use, by, weighted=True).sum(axis=1), 1, rtol=1e-6)


def test_shares_are_of_the_routed_tokens(use: pd.DataFrame) -> None:
    by_task = frequencies(use, "task")
    assert by_task.loc["phe"].tolist() == [1, 1, 0, 0, 0]
    # Over the seven combinations, experts 1 to 5 are chosen 3, 4, 3, 2 and 2 times.
    np.testing.assert_allclose(by_task.loc["ihm"], np.array([3, 4, 3, 2, 2]) / 7)
    weighted = frequencies(use, "combination", weighted=True)
    assert weighted.loc["cxr"].tolist() == [0, 0.75, 0.25, 0, 0]


def test_groups_without_tokens_have_no_row(use: pd.DataFrame) -> None:
    assert list(frequencies(use[use["task"] == "phe"], "combination").index) == ["ehr"]


def test_known_distances() -> None:
    shares = pd.DataFrame([[2, 0, 0], [0, 1, 1], [1, 1, 0], [4, 0, 0]], index=list("abcd"))
    found = distances(shares)
    assert found.loc["a", "b"] == pytest.approx(1)  # disjoint
    assert found.loc["a", "d"] == pytest.approx(0, abs=1e-8)  # equal but for a factor
    # M = (3/4, 1/4, 0): KL(a|M) = log2(4/3), KL(c|M) = log2(2/3) / 2 + log2(2) / 2
    divergence = np.log2(4 / 3) / 2 + (np.log2(2 / 3) / 2 + 0.5) / 2
    assert found.loc["a", "c"] == pytest.approx(np.sqrt(divergence))
    np.testing.assert_allclose(found, found.T)
    mean = mean_over_seeds({1: found, 2: found * 0})
    np.testing.assert_allclose(mean, found / 2)


def test_a_model_without_experts_is_refused() -> None:
    class Plain(nn.Module):
        def forward(self, present: torch.Tensor) -> Output:
            return Output(torch.zeros(len(present), 1))

    with pytest.raises(UserError, match="no experts"):
        expert_use(Restored(Plain(), {"ihm": Source(np.ones((3, 3), bool))}, False, 16))
