"""Training on a share of the labels."""

from __future__ import annotations

import numpy as np
from prepared_data import write_prepared

from benchmark.data.dataset import PreparedData


def test_a_smaller_share_lies_within_a_larger_one_and_evaluation_stays_whole(tmp_path):
    task = PreparedData.open(write_prepared(tmp_path)).task("ihm")
    whole = task.partitions["train"]
    half, tenth = (task.with_label_fraction(share).partitions["train"] for share in (0.5, 0.1))
    assert (len(half), len(tenth)) == (round(0.5 * len(whole)), max(1, round(0.1 * len(whole))))
    assert set(tenth.sample) < set(half.sample) < set(whole.sample)
    rows = np.searchsorted(whole.sample, half.sample)
    np.testing.assert_array_equal(half.labels, whole.labels[rows])
    np.testing.assert_array_equal(half.series, whole.series[rows])
    assert task.with_label_fraction(0.1).partitions["test"] is task.partitions["test"]
    assert task.with_label_fraction(1.0) is task
