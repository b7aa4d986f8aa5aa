"""The effect matrix of a made-up trace."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmark.analysis.segments import effect_matrix, effects, over_seeds
from benchmark.training.trace import START

TASKS = ["ihm", "los"]
METRICS = {"ihm": "auroc", "los": "macro_f1"}

# Score of IHM and of LOS at the start, then after each of IHM, LOS, IHM, LOS.
SCORES = {
    1: [(0.5, 0.1), (0.7, 0.1), (0.6, 0.3), (0.7, 0.25), (0.65, 0.45)],
    2: [(0.5, 0.1), (0.9, 0.1), (0.6, 0.3), (0.9, 0.25), (0.65, 0.45)],
}


@pytest.fixture
def traces() -> pd.DataFrame:
    rows = []
    for seed, scores in SCORES.items():
        for segment, pair in enumerate(scores):
            epoch = (segment + 1) // 2
            trained = TASKS[(segment + 1) % 2] if segment else START
            for task, value in zip(TASKS, pair, strict=True):
                row = {"seed": seed, "segment": segment, "epoch": epoch, "trained": trained, "task": task}
                rows.append(row | {"metric": METRICS[task], "value": value})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order of rows has no meaning


def test_an_effect_is_the_mean_change_by_a_segment(traces: pd.DataFrame) -> None:
    matrix = effect_matrix(effects(traces), METRICS, TASKS)
    # IHM by IHM: seed 1 +.2 and +.1, seed 2 +.4 and +.3. By LOS: seed 1 -.1, -.05; seed 2 -.3, -.25.
    np.testing.assert_allclose(matrix.loc["ihm"], [0.25, -0.025])
    np.testing.assert_allclose(matrix.loc["los"], [-0.175, 0.2])


def test_the_first_epoch_may_be_left_out_but_changes_still_begin_at_its_end(traces: pd.DataFrame) -> None:
    found = effects(traces, first_epoch=2)
    np.testing.assert_allclose(effect_matrix(found, METRICS, TASKS), [[0.2, -0.05], [-0.15, 0.2]])
    own = found[(found["trained"] == "ihm") & (found["task"] == "ihm")].iloc[0]
    assert own["seeds"] == 2
    assert own["std"] == pytest.approx(np.std([0.1, 0.3], ddof=1))


def test_an_undefined_score_costs_the_changes_beside_it_only(traces: pd.DataFrame) -> None:
    gone = (traces["seed"] == 2) & (traces["segment"] == 4) & (traces["task"] == "ihm")
    traces.loc[gone, "value"] = np.nan
    assert effect_matrix(effects(traces), METRICS, TASKS).loc["los", "ihm"] == pytest.approx((-0.075 - 0.3) / 2)


def test_means_over_seeds(traces: pd.DataFrame) -> None:
    means = over_seeds(traces).set_index(["segment", "task"])
    assert means.loc[(1, "ihm"), "mean"] == pytest.approx(0.8)
    assert means.loc[(1, "ihm"), "std"] == pytest.approx(np.std([0.7, 0.9], ddof=1))
    assert means.loc[(1, "ihm"), "seeds"] == 2
