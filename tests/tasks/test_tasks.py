"""Task records and label rules."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.rules import Rules
from benchmark.tasks import TASKS, dec, dia, drg, ihm, los, phe, rea
from benchmark.tasks.draw import draw_hour, first_hour, last_hour, shuffled_hours

NAN = float("nan")
SURVIVES = {"died_in_hospital": False, "death_hour": NAN}


def test_records_are_in_the_order_of_the_paper():
    assert list(TASKS) == ["ihm", "los", "dec", "phe", "rea", "dia", "drg"]
    assert [name for name, task in TASKS.items() if not task.in_table3] == ["drg"]
    assert {task.kind: task.metrics[:2] for task in TASKS.values()} == {
        "binary": ("auroc", "auprc"),
        "multiclass": ("macro_f1", "micro_f1"),
        "multilabel": ("macro_auroc", "micro_auroc"),
    }
    assert [len(task.classes or ()) for task in TASKS.values()] == [1, 10, 1, 25, 1, 14, 0]


def test_remaining_length_of_stay_buckets():
    hours = np.array([0.0, 23.999, 24.0, 191.999, 192.0, 335.999, 336.0, -1e-9])
    assert los.bucket(hours).tolist() == [0, 0, 1, 7, 8, 8, 9, 0]


def test_length_that_is_a_whole_number_by_rounding_alone():
    stays = pd.DataFrame({"stay_id": [1], "los_hours": [5.0 - 1e-9], "first_event": [0.0]}).assign(**SURVIVES)
    assert los.samples(stays)[["hour", "y0"]].values.tolist() == [[5.0, 0.0]]


@settings(deadline=None)
@given(
    stay=st.integers(30_000_000, 39_999_999),
    length=st.floats(0.1, 2000),
    event=st.floats(0, 2000),
    task=st.sampled_from(["los", "dec"]),
)
def test_drawn_hours_lie_after_the_first_event_and_within_the_stay(stay, length, event, task):
    hour = draw_hour(task, stay, int(first_hour(event)), int(last_hour(length)))
    candidates = [t for t in range(5, math.floor(length + 1e-6) + 1) if t > event]
    assert (hour in candidates) if candidates else (hour is None)


@settings(deadline=None, max_examples=40)
@given(spans=st.lists(st.tuples(st.integers(1, 12), st.integers(5, 9), st.integers(-4, 30)), max_size=12))
def test_shuffled_hours_are_those_of_a_shuffled_table(spans):
    stays = pd.DataFrame(spans, columns=["subject_id", "first_hour", "length"], dtype="int64")
    stays = stays.assign(stay_id=[(7 * i) % 13 for i in range(len(stays))], last_hour=stays.first_hour + stays.length)
    listed = sorted(
        (str(row.subject_id), row.stay_id, hour)
        for row in stays.itertuples()
        for hour in range(row.first_hour, row.last_hour + 1)
    )
    table = pd.DataFrame(listed, columns=["subject", "stay", "hour"]).sample(frac=1, random_state=42)
    expected = table.drop_duplicates("stay").set_index("stay").hour.to_dict()
    drawn = dict(zip(stays.stay_id, shuffled_hours(stays), strict=True))
    assert {stay: hour for stay, hour in drawn.items() if not np.isnan(hour)} == expected


def test_death_after_discharge_ends_the_hours_but_is_no_death_in_hospital():
    stays = pd.DataFrame({"stay_id": [1], "los_hours": [50.0], "first_event": [0.0], "death_hour": [5.5]})
    table = dec.samples(stays.assign(died_in_hospital=False))
    assert table[["hour", "y0", "first_hour", "last_hour", "los_hours"]].values.tolist() == [[5.0, 0.0, 5, 5, 50.0]]
    assert table.death_hour.isna().all()


def test_draws_are_even_and_independent_between_tasks():
    hours = [[draw_hour(task, stay, 5, 14) for stay in range(30_000_000, 30_010_000)] for task in ("los", "dec")]
    for drawn in hours:
        assert np.bincount(drawn, minlength=15)[5:].min() > 900
    assert abs(np.corrcoef(hours)[0, 1]) < 0.03


def test_mortality_window_forgives_rounding_alone():
    lengths = [48.0 - 1e-9, 48.0 - 9e-7, 48.0 - 1e-5]
    stays = pd.DataFrame({"stay_id": [1, 2, 3], "los_hours": lengths, "first_event": 0.0, "died_in_hospital": True})
    assert ihm.samples(stays).stay_id.tolist() == [1, 2]


def test_decompensation_horizon_is_exclusive():
    stays = pd.DataFrame({"stay_id": [1, 1], "los_hours": [5.0, 5.0], "first_event": [0.0, 0.0]})
    table = dec.samples(stays.assign(death_hour=[29.0, 28.999], died_in_hospital=True))
    assert table.y0.tolist() == [0.0, 1.0]


def test_phenotypes_need_coded_diagnoses_and_events():
    stays = pd.DataFrame(
        {"stay_id": [1, 2, 3], "hadm_id": [10, 20, 30], "los_hours": [9.0, 9.0, 9.0], "first_event": [0.1, 0.1, NAN]}
    )
    diagnoses = pd.DataFrame({"hadm_id": [10, 30], "icd_code": ["I10", "I10"], "icd_version": [10, 10]})
    table = phe.samples(stays, diagnoses)
    assert table.stay_id.tolist() == [1]
    assert np.flatnonzero(table.iloc[0, 2:].to_numpy(float)).tolist() == [13]


def test_readmission_drops_deaths_in_the_unit():
    flags = ["ward_death", "readmitted", "late_death", "dropped"]
    rows = [[False] * 4, [True, False, False, False], [False, True, False, False], [False, False, True, False]]
    stays = pd.DataFrame([*rows, [False, True, False, True]], columns=flags)
    stays = stays.assign(stay_id=range(5), los_hours=9.0, first_event=0.1)
    table = rea.samples(stays)
    assert table[["stay_id", "y0"]].values.tolist() == [[0, 0], [1, 1], [2, 1], [3, 1]]
    assert table[list(rea.COMPONENTS)].values.tolist() == [row[:3] for row in rows]


@pytest.mark.parametrize(("value", "label"), [(1.0, 1.0), (0.0, 0.0), (-1.0, NAN), (NAN, NAN)])
def test_uncertain_and_unmentioned_findings_are_masked(value, label):
    findings = pd.DataFrame([dict.fromkeys(TASKS["dia"].classes, 1.0) | {"study_id": 1, "Pneumonia": value}])
    assert dia.samples(findings).y11.tolist() == pytest.approx([label], nan_ok=True)


@pytest.mark.parametrize(
    ("given", "policy", "label"),
    [
        ({"Edema": 1.0}, "zeros", 0.0),
        ({"Edema": -1.0}, "zeros", 0.0),  # an uncertain label is a label
        ({"Edema": 1.0, "Pneumonia": -1.0}, "zeros", NAN),
        ({}, "zeros", None),
        ({}, "mask", None),
        ({"Edema": -1.0}, "mask", None),
        ({"Edema": 1.0}, "mask", NAN),
    ],
)
def test_policies_for_unmentioned_findings(given, policy, label):
    findings = pd.DataFrame([dict.fromkeys(TASKS["dia"].classes, NAN) | {"study_id": 1} | given])
    table = dia.samples(findings, Rules(findings=policy))
    assert table.y11.tolist() == ([] if label is None else [pytest.approx(label, nan_ok=True)])
    kept = dia.samples(findings, Rules(findings=policy, unlabelled="keep"))
    assert kept.y11.tolist() == [pytest.approx(NAN if label is None else label, nan_ok=True)]


def test_billing_classes_and_codes_of_all_partitions():
    rules = Rules(drg_classes="all_partitions")
    assert drg.classes(["871", "064"], [True, False], rules) == ("064", "871")
    rows = pd.DataFrame({"hadm_id": [1, 1], "drg_code": ["39", "871"]})
    assert [drg.codes(rows, chosen).code.tolist() for chosen in (Rules(), rules)] == [["039"], ["871"]]


def test_billing_classes_come_from_training_alone():
    codes = ["871", "064", "039", "064"]
    classes = drg.classes(codes, [True, False, True, False])
    assert classes == ("039", "871")
    assert drg.labels(codes, classes).tolist() == pytest.approx([1, NAN, 0, NAN], nan_ok=True)
