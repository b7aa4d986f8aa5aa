"""Task records and label rules."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.tasks import TASKS, dec, dia, drg, ihm, los, phe, rea
from benchmark.tasks.draw import draw_hour, first_hour, last_hour

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


def test_billing_classes_come_from_training_alone():
    codes = ["871", "064", "039", "064"]
    classes = drg.classes(codes, [True, False, True, False])
    assert classes == ("039", "871")
    assert drg.labels(codes, classes).tolist() == pytest.approx([1, NAN, 0, NAN], nan_ok=True)
