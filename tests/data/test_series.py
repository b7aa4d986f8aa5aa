"""From events to stores: what the arrays hold, and that they equal the readable way, one stay after another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.data.channels import CHANNELS, EYE, FIRST_COLUMN, INDEX, TOTAL, VALUES, normal_values
from benchmark.data.discretiser import discretise
from benchmark.data.events import Events, extract_events
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules
from benchmark.data.series import write_series
from benchmark.data.stores import RaggedStore

HR, GLUCOSE = INDEX["Heart Rate"], INDEX["Glucose"]
NO_CUTS = pd.DataFrame({"stay_id": [], "hour": []})
DEMO = Path(os.environ.get("MIMIC_IV_DEMO", Path(__file__).parents[3] / "shared" / "data" / "mimic-iv-demo"))

FILES = ("series/values.npy", "series/offsets.npy", "series/tails.npy", "standardiser.json")


def stored(folder: Path, *buckets: list[tuple[int, float, int, float]]) -> Events:
    """Events of stay, hour, channel and value as they lie on disk."""
    folder.mkdir()
    for number, rows in enumerate(buckets):
        frame = pd.DataFrame(rows, columns=["stay_id", "hour", "channel", "value"])
        types = {"stay_id": "int64", "hour": "float64", "channel": "int16", "value": "float64"}
        frame.astype(types).to_parquet(folder / f"events-{number:05d}.parquet", index=False)
    (folder / "events.json").write_text(json.dumps({"key": "", "buckets": len(buckets), "report": {}}))
    return Events.open(folder)


@pytest.fixture
def events(tmp_path) -> Events:
    heart = [(10, hour, HR, value) for hour, value in ((0.0, 70.0), (0.5, 80.0), (2.3, 90.0))]
    return stored(tmp_path / "events", [*heart[:2], (10, 1.0, INDEX[EYE], 4.0), heart[2]])


@pytest.fixture
def stays() -> pd.DataFrame:
    return pd.DataFrame({"stay_id": [10, 20], "los_hours": [3.5, 2.0]})


def test_stores(events, stays, tmp_path):
    cuts = pd.DataFrame({"stay_id": [10, 10, 20, 10], "hour": [2.3, 2.3001, 1.5, 2.0]})
    index = write_series(events, stays, {10}, cuts, tmp_path / "out")
    store = RaggedStore.open(tmp_path / "out" / "series")
    assert index.stay_row == {10: 0, 20: 1} and index.rows == {10: 4, 20: 2} and store.lengths.tolist() == [4, 2]
    assert store.values.dtype == np.float16 and store.width == 76
    heart = (np.array([80, 80, 90, 90]) - 85) / 5  # 80 and 90 are the observed hours
    np.testing.assert_allclose(store[0][:, FIRST_COLUMN[HR]], heart, atol=1e-3)
    assert store[0][:, VALUES + HR].tolist() == [1, 0, 1, 0]
    assert store[0][:, FIRST_COLUMN[INDEX[EYE]] + 4].tolist() == [1, 1, 1, 1]  # "None" from the first hour on
    assert index.standardiser.count[[0, 3]].tolist() == [0, 2]
    assert (store[1][:, VALUES:] == 0).all()

    tails = np.load(tmp_path / "out" / "series" / "tails.npy")
    assert tails[:, VALUES + HR].tolist() == [0, 1, 0, 0]  # strictly before the cut
    assert tails[:, FIRST_COLUMN[HR]].tolist() == pytest.approx([-1, 1, 0.2, -1], abs=1e-3)
    np.testing.assert_array_equal(tails[3], store[0][1])
    assert index.observed["Heart Rate"] == pytest.approx(2 / 6)


def test_the_event_at_a_cut_counts_where_the_rules_say_so(events, stays, tmp_path):
    cuts = pd.DataFrame({"stay_id": [10], "hour": [2.3]})
    write_series(events, stays, {10}, cuts, tmp_path / "out", Rules(film_cut="at"))
    tails = np.load(tmp_path / "out" / "series" / "tails.npy")
    assert tails[0, VALUES + HR] == 1 and tails[0, FIRST_COLUMN[HR]] == 1


def test_training_stays_alone_decide_the_scale(events, stays, tmp_path):
    write_series(events, stays, {20}, NO_CUTS, tmp_path / "a")
    heart = json.loads((tmp_path / "a" / "standardiser.json").read_text())["channels"][3]
    assert (heart["channel"], heart["mean"], heart["std"], heart["fitted"]) == ("Heart Rate", 86.0, 20.0, False)


def test_fixed_statistics_depend_on_no_stay(events, stays, tmp_path):
    index = write_series(events, stays, {10}, NO_CUTS, tmp_path / "a", Rules(statistics="mimic3"))
    content = json.loads((tmp_path / "a" / "standardiser.json").read_text())
    assert content["training_stays"] == 0 and "MIMIC-III" in content["fitted_on"]
    store = RaggedStore.open(tmp_path / "a" / "series")
    expected = (np.array([80, 80, 90, 90]) - 85.538539) / 57.116930
    np.testing.assert_allclose(store[0][:, FIRST_COLUMN[HR]], expected, atol=1e-3)
    assert index.standardiser.not_fitted == []


def test_imputed_normals_follow_the_rules(events, stays, tmp_path):
    first = FIRST_COLUMN[INDEX[EYE]]
    for rules, column in ((Rules(), 6), (Rules(levels="as_written"), 3)):  # "Spontaneously", "4 Spontaneously"
        out = tmp_path / rules.levels
        write_series(events, stays, {10}, NO_CUTS, out, rules)
        assert RaggedStore.open(out / "series")[1][0, first : first + 8].argmax() == column


def test_second_run_is_identical_and_order_of_stays_is_kept(events, stays, tmp_path):
    for name in ("a", "b"):
        write_series(events, stays, {10}, NO_CUTS, tmp_path / name)
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    index = write_series(events, stays[::-1], {10}, NO_CUTS, tmp_path / "c")
    assert index.stay_row == {20: 0, 10: 1}
    turned, straight = (RaggedStore.open(tmp_path / name / "series") for name in ("c", "a"))
    for row in (0, 1):
        np.testing.assert_array_equal(turned[1 - row], straight[row])


@pytest.mark.parametrize(("stay", "hour"), [(77, 1.0), (10, 0.0)])
def test_impossible_cuts_are_refused(events, stays, tmp_path, stay, hour):
    cuts = pd.DataFrame({"stay_id": [10, stay], "hour": [1.0, hour]})
    with pytest.raises(ValueError, match=f"cut 1: stay {stay}"):
        write_series(events, stays, {10}, cuts, tmp_path / "out")
    assert not (tmp_path / "out" / "series").exists()


@pytest.mark.parametrize(
    ("columns", "fault"),
    [({"stay_id": [10, 10]}, "unique"), ({"los_hours": [3.5, np.nan]}, "stay 20 has no length")],
)
def test_impossible_stays_are_refused(events, stays, tmp_path, columns, fault):
    with pytest.raises(ValueError, match=fault):
        write_series(events, stays.assign(**columns), {10}, NO_CUTS, tmp_path / "out")


@pytest.mark.parametrize("rules", [Rules(), Rules(film_cut="at", levels="as_written", statistics="mimic3")])
def test_equals_one_stay_after_another(tmp_path, rules):
    rng = np.random.default_rng(5)
    ids = rng.permutation(60) + 1
    stays = pd.DataFrame({"stay_id": ids, "los_hours": rng.choice([0.0, 0.4, 3.0, 7.5, 20.25], 60)})
    width = np.array([channel.width if not channel.continuous else 300 for channel in CHANNELS])
    rows = {}
    for stay in range(5, 70):  # some stays have no events, some events belong to no stay
        cells = {(round(rng.uniform(0, 22) * 4) / 4, int(rng.integers(17))) for _ in range(rng.integers(1, 90))}
        rows[stay] = [(stay, *cell, float(rng.integers(width[cell[1]]))) for cell in sorted(cells)]
    order = rng.permutation(list(rows)).tolist()
    parts = [sorted(order[:40]), [], sorted(order[40:])]
    events = stored(tmp_path / "events", *([row for stay in part for row in rows[stay]] for part in parts))
    known = stays[stays.los_hours > 0].stay_id.to_numpy()
    cuts = pd.DataFrame({"stay_id": rng.choice(known, 80), "hour": rng.integers(1, 80, 80) / 4})
    index = write_series(events, stays, set(ids[::2].tolist()), cuts, tmp_path / "out", rules)

    store, tails = RaggedStore.open(tmp_path / "out" / "series"), np.load(tmp_path / "out" / "series" / "tails.npy")
    none, normal, scale = np.zeros((0, 3)), normal_values(rules), index.standardiser
    of_stay = {stay: np.array([row[1:] for row in rows[stay]]) if stay in rows else none for stay in ids.tolist()}

    def series(stay: int, end: float, before: float = np.inf) -> np.ndarray:
        own = of_stay[stay][of_stay[stay][:, 0] < before]
        return discretise(own[:, 0], own[:, 1].astype(int), own[:, 2], end, normal)

    for row, stay in enumerate(stays.itertuples()):
        expected = scale.apply(series(stay.stay_id, stay.los_hours)).astype(np.float16)
        np.testing.assert_array_equal(store[row], expected)
    for row, cut in enumerate(cuts.itertuples()):
        before = np.inf if rules.film_cut == "at" else cut.hour
        expected = scale.apply(series(cut.stay_id, cut.hour, before)[-1]).astype(np.float16)
        np.testing.assert_array_equal(tails[row], expected)
    if rules.statistics == "training":
        hourly = [series(stay.stay_id, stay.los_hours) for stay in stays[::2].itertuples()]
        seen = np.concatenate([rows[rows[:, VALUES + HR] == 1, FIRST_COLUMN[HR]] for rows in hourly])
        assert (scale.count[3], scale.mean[3]) == (len(seen), pytest.approx(seen.mean(dtype=np.float64)))
        assert scale.std[3] == pytest.approx(seen.std(dtype=np.float64))


@pytest.mark.skipif(not DEMO.is_dir(), reason="the public MIMIC-IV demo is not here")
def test_demo_of_mimic_iv(tmp_path):
    raw = RawMimic(DEMO)
    columns = ["subject_id", "hadm_id", "stay_id", "intime", "outtime", "los"]
    stays = raw.scan("icu/icustays", columns).collect().to_pandas()
    stays["los_hours"] = stays["los"] * 24
    events = extract_events(raw, stays, tmp_path / "events")
    assert events.report["dictionary"]["missing"] == events.report["dictionary"]["renamed"] == []
    assert not any("unknown text" in counts for counts in events.report["rows"].values())
    index = write_series(events, stays, set(stays["stay_id"]), NO_CUTS, tmp_path / "out")
    # Published shares of observed hours of the older MIMIC-III are 0.9, 0.9, 0.9, 0.3, 0.1, 0.06 and 0.3.
    low = {"Heart Rate": 0.9, "Respiratory rate": 0.9, "Systolic blood pressure": 0.85, "Temperature": 0.2, "pH": 0.03}
    for name, share in (low | {"Fraction inspired oxygen": 0.05, EYE: 0.2, TOTAL: 0.2}).items():
        assert share < index.observed[name] < share + 0.15, name
    scale = index.standardiser
    assert 36.5 < scale.mean[9] < 37.5 and 0.3 < scale.std[9] < 1.2
