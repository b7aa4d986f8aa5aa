"""Statistics over observed training hours only."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark.data.channels import CHANNELS, CONTINUOUS, CONTINUOUS_COLUMNS, INDEX, VALUES
from benchmark.data.discretiser import StayEvents, discretise
from benchmark.data.standardiser import USUAL_SPREAD, Standardiser, StandardiserFit
from benchmark.errors import UserError

HR, PH = INDEX["Heart Rate"], INDEX["pH"]
AT = {CHANNELS[index].name: position for position, index in enumerate(CONTINUOUS)}


def stays(*lengths: int, hour: list[float], value: list[float], channel: int = HR) -> StayEvents:
    start = np.cumsum([0, *lengths])
    return StayEvents(start, np.array(hour), np.full(len(hour), channel), np.array(value))


def fitted() -> Standardiser:
    fit = StandardiserFit()
    # Two values in one hour count once (the later), repeated hours count not at all.
    fit.add(stays(3, 1, hour=[0.2, 0.8, 3.5, 0.5], value=[500.0, 60.0, 90.0, 120.0]), np.array([6.0, 2.0]))
    fit.add(stays(0, hour=[], value=[]), np.array([2.0]))
    return fit.finish()


def test_mean_and_population_std_over_observed_hours():
    result, at = fitted(), AT["Heart Rate"]
    assert result.count[at] == 3
    assert result.mean[at] == pytest.approx(90) and result.std[at] == pytest.approx(np.std([60, 90, 120]))


def test_unobserved_channel_keeps_its_normal_value():
    result, at = fitted(), AT["pH"]
    assert (result.count[at], result.mean[at], result.std[at], result.fitted[at]) == (0, 7.4, 0.1, False)


@pytest.mark.parametrize("values", [[183.0], [183.0] * 1000, [183.01, 183.0]])
def test_a_channel_seen_too_little_does_not_throw_others_to_the_limit(values):
    height = INDEX["Height"]
    fit = StandardiserFit()
    for value in values:
        fit.add(stays(1, hour=[0.5], value=[value], channel=height), np.array([1.0]))
    result, at = fit.finish(), AT["Height"]
    assert (result.count[at], result.mean[at], result.std[at]) == (len(values), 170, 10)
    assert not result.fitted.any() and result.not_fitted == list(USUAL_SPREAD)
    array = discretise(np.array([1.5]), np.array([height]), np.array([150.0]), 2)
    assert result.apply(array)[:, CONTINUOUS_COLUMNS[at]].tolist() == [0, -2]


def test_clinical_values_of_channels_without_statistics_stay_moderate():
    low = [40, 0.21, 60, 45, 150, 50, 88, 8, 80, 34.5, 45, 7.1]
    high = [100, 1, 350, 150, 200, 120, 100, 40, 190, 40, 150, 7.6]
    result = StandardiserFit().finish()
    for values in (low, high):
        assert np.abs((np.array(values) - result.mean) / result.std).max() < 5


def test_apply_scales_continuous_columns_only_and_clips():
    array = discretise(np.array([0.5, 1.5]), np.array([HR, PH]), np.array([90.0, 1e6]), 3)
    out = fitted().apply(array)
    assert out[0, 50] == 0 and out[1, 58] == 10 and out[0, 58] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(out[:, VALUES:], array[:, VALUES:])
    np.testing.assert_array_equal(out[:, 4:49], array[:, 4:49])


def test_fixed_statistics_of_mimic3_limit_nothing(tmp_path):
    path = tmp_path / "standardiser.json"
    Standardiser.of_mimic3().save(path, [], series="abc")
    scale = Standardiser.load(path)
    array = discretise(np.array([0.5, 0.5]), np.array([INDEX["Height"], HR]), np.array([40.0, 85.538539]), 1)
    row = scale.apply(array)[0]
    assert row[51] == pytest.approx((40 - 169.803502) / 6.222632) and row[50] == pytest.approx(0, abs=1e-6)
    assert row[58] == pytest.approx((7.4 - 7.207268) / 1.656827, rel=1e-5)
    assert scale.not_fitted == [] and json.loads(path.read_text())["training_stays"] == 0
    array[:, 50] = 1e9
    assert np.isfinite(scale.apply(array).astype(np.float16)).all()


def test_round_trip_and_what_the_file_says(tmp_path):
    path = tmp_path / "standardiser.json"
    fitted().save(path, [3, 1], series="abc")
    again = Standardiser.load(path)
    for name in ("mean", "std", "count", "fitted"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fitted(), name))
    content = json.loads(path.read_text())
    assert "population" in content["std"] and (content["training_stays"], content["series_fingerprint"]) == (2, "abc")
    channel = content["channels"][AT["pH"]]
    assert channel["channel"] == "pH" and channel["fitted"] is False
    content["channels"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected"):
        Standardiser.load(path)
