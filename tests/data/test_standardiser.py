"""Statistics over observed training hours only."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark.data.channels import CHANNELS, CONTINUOUS, INDEX, VALUES
from benchmark.data.discretiser import discretise
from benchmark.data.standardiser import Standardiser, StandardiserFit
from benchmark.errors import UserError

HR, PH = INDEX["Heart Rate"], INDEX["pH"]
AT = {CHANNELS[index].name: position for position, index in enumerate(CONTINUOUS)}


def fitted() -> Standardiser:
    fit = StandardiserFit()
    # Two values in one hour count once (the later), repeated hours count not at all.
    fit.add(np.array([0.2, 0.8, 3.5]), np.array([HR, HR, HR]), np.array([500.0, 60.0, 90.0]), 6.0)
    fit.add(np.array([0.5]), np.array([HR]), np.array([120.0]), 2.0)
    fit.add(np.array([]), np.array([], dtype=int), np.array([]), 2.0)
    return fit.finish()


def test_mean_and_population_std_over_observed_hours():
    result, at = fitted(), AT["Heart Rate"]
    assert result.count[at] == 3
    assert result.mean[at] == pytest.approx(90) and result.std[at] == pytest.approx(np.std([60, 90, 120]))


def test_unobserved_channel_keeps_its_normal_value():
    result, at = fitted(), AT["pH"]
    assert (result.count[at], result.mean[at], result.std[at]) == (0, 7.4, 1)


def test_apply_scales_continuous_columns_only_and_clips():
    array = discretise(np.array([0.5, 1.5]), np.array([HR, PH]), np.array([90.0, 1e6]), 3)
    out = fitted().apply(array)
    assert out[0, 50] == 0 and out[1, 58] == 10 and out[0, 58] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(out[:, VALUES:], array[:, VALUES:])
    np.testing.assert_array_equal(out[:, 4:49], array[:, 4:49])


def test_constant_channel_does_not_divide_by_zero():
    fit = StandardiserFit()
    fit.add(np.array([0.5, 1.5]), np.array([HR, HR]), np.array([86.0, 86.0]), 2.0)
    assert fit.finish().std[AT["Heart Rate"]] == 1e-6


def test_round_trip_and_what_the_file_says(tmp_path):
    path = tmp_path / "standardiser.json"
    fitted().save(path, [3, 1])
    again = Standardiser.load(path)
    for name in ("mean", "std", "count"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fitted(), name))
    content = json.loads(path.read_text())
    assert "population" in content["std"] and content["training_stays"] == 2
    channel = content["channels"][AT["pH"]]
    assert channel["channel"] == "pH" and channel["fitted"] is False
    content["channels"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected"):
        Standardiser.load(path)
