"""Which rows belong to a stay, specimens, several values of one time, coma totals."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import cleaning
from benchmark.data.channels import (
    EYE,
    FIRST_COLUMN,
    INDEX,
    MOTOR,
    TOTAL,
    VALUES,
    VERBAL,
    category_texts,
    items,
)
from benchmark.data.discretiser import discretise
from benchmark.data.measures import EARLY, KEPT, NO_TIME, NOT_ARTERIAL, OUTLIER, OUTSIDE, VERDICTS
from benchmark.data.rules import Rules

FIX, REF, PUBLISHED = Rules(), Rules.of_profile("ref"), Rules(events="published")
START = datetime(2150, 1, 1, 12)
STAYS = pl.DataFrame(
    {
        "subject_id": [1, 1, 2],
        "hadm_id": [100, 101, 200],
        "stay_id": [10, 11, 20],
        "intime": [START, START + timedelta(days=9), START],
        "outtime": [START + timedelta(hours=5), START + timedelta(days=10), START + timedelta(hours=5)],
    }
)
HEART, HEIGHT, WEIGHT, GLUCOSE = 220045, 226730, 226512, 50931

_SCHEMA = {
    "subject_id": pl.Int64,
    "hadm_id": pl.Int64,
    "stay_id": pl.Int64,
    "specimen_id": pl.Int64,
    "itemid": pl.Int64,
    "charttime": pl.Datetime("us"),
    "storetime": pl.Datetime("us"),
    "value": pl.String,
    "valuenum": pl.Float64,
    "valueuom": pl.String,
}


def raw(hours: float | None, itemid: int, value: str, stored: float | None = None, **other: int | None) -> dict:
    """A raw row of patient 1; the number is the text's where it has one."""
    number = float(value) if value.replace(".", "", 1).isdigit() else None
    return dict.fromkeys(_SCHEMA) | {
        "subject_id": 1,
        "itemid": itemid,
        "charttime": None if hours is None else START + timedelta(hours=hours),
        "storetime": None if stored is None else START + timedelta(hours=stored),
        "value": value,
        "valuenum": number,
    } | other  # fmt: skip


def frame(rows: list[dict], table: str) -> pl.LazyFrame:
    columns = cleaning.CHART_COLUMNS if table == "chart" else cleaning.LAB_COLUMNS
    return pl.LazyFrame(rows, schema=_SCHEMA).select(columns)


def judge(rows: list[dict], table: str, rules: Rules) -> pl.DataFrame:
    read = cleaning.item_frame(item for item in items(rules) if table in item.table)
    if table == "chart":
        return cleaning.chart_rows(frame(rows, table), STAYS, read, rules).collect(engine="streaming")
    labs = cleaning.wanted_labs(frame(rows, table), STAYS.select("subject_id").unique(), read, rules).collect().lazy()
    return cleaning.lab_rows(labs, STAYS, read, rules).collect(engine="streaming")


def seen(rows: list[dict], table: str, rules: Rules = FIX) -> list[tuple]:
    """Stay, hour, value and verdict of each judged row, sorted."""
    found = judge(rows, table, rules).select("stay_id", "hour", "value", "verdict").rows()
    named = [(stay, hour, value, VERDICTS[verdict]) for stay, hour, value, verdict in found]
    return sorted(named, key=lambda entry: (entry[0], entry[1] is None, entry[1], entry[2]))


def test_charts_of_a_stay():
    own = {"hadm_id": 100, "stay_id": 10}
    rows = [
        raw(0, HEART, "60", **own),
        raw(5, HEART, "61", **own),
        raw(5.5, HEART, "62", **own),
        raw(-0.5, HEART, "63", **own),
        raw(-0.5, HEART, "999", **own),
        raw(1, HEART, "64", hadm_id=100, stay_id=99),  # a stay that is not in the cohort
        raw(1, HEART, "65", hadm_id=None, stay_id=10),
        raw(1, HEART, "66", hadm_id=100, stay_id=None),
        raw(2, HEART, "68", hadm_id=100, stay_id=10, subject_id=2),  # of another patient
        raw(1, 999, "67", **own),
    ]
    assert seen(rows, "chart") == [
        (10, -0.5, 63, OUTSIDE),
        (10, -0.5, 350, OUTSIDE),
        (10, 0, 60, KEPT),
        (10, 1, 65, KEPT),
        (10, 2, 68, OUTSIDE),
        (10, 5, 61, KEPT),
        (10, 5.5, 62, OUTSIDE),
    ]
    assert seen(rows, "chart", PUBLISHED) == [
        (10, -0.5, 63, EARLY),
        (10, -0.5, 350, OUTLIER),
        (10, 0, 60, KEPT),
        (10, 1, 65, OUTSIDE),  # no admission number
        (10, 1, 66, KEPT),  # the stay of the admission
        (10, 2, 68, OUTSIDE),
        (10, 5, 61, KEPT),
        (10, 5.5, 62, KEPT),
    ]


def test_hours_are_rounded_like_those_of_films():
    seconds = list(range(0, 5 * 3600, 7))
    rows = [raw(second / 3600, HEART, "60", hadm_id=100, stay_id=10) for second in seconds]
    assert [hour for _, hour, *_ in seen(rows, "chart")] == [second / 3600 for second in seconds]


def test_published_events_of_one_stay_may_lie_in_another_of_the_same_patient():
    rows = [
        raw(1, HEART, "60", hadm_id=101, stay_id=11),
        raw(9 * 24, HEART, "61", hadm_id=101, stay_id=11),
        raw(2, HEART, "62", hadm_id=101, stay_id=10),  # stay and admission do not belong together
    ]
    assert seen(rows, "chart") == [(10, 2, 62, KEPT), (11, -215, 60, OUTSIDE), (11, 0, 61, KEPT)]
    assert seen(rows, "chart", PUBLISHED) == [
        (10, 1, 60, KEPT),
        (10, 2, 62, OUTSIDE),
        (11, -215, 60, EARLY),
        (11, 0, 61, KEPT),
    ]


def test_rows_that_name_a_stay():
    rows = [
        raw(1, HEART, "60", hadm_id=100, stay_id=10),
        raw(2, HEART, "61", hadm_id=101),
        raw(3, HEART, "62", hadm_id=999),
        raw(4, 999, "63", hadm_id=100, stay_id=10),
    ]
    for rules, expected in ((FIX, {1: 10, 2: None, 3: None}), (PUBLISHED, {1: 10, 2: 11, 3: None})):
        read = cleaning.item_frame(item for item in items(rules) if "chart" in item.table)
        found = cleaning.wanted_chart(frame(rows, "chart"), STAYS, read, rules).collect()
        hours = ((time - START) / timedelta(hours=1) for time in found["charttime"])
        assert dict(zip(hours, found["own"], strict=True)) == expected
        assert found.drop("own").columns == list(cleaning.CHART_COLUMNS)


def test_rows_without_a_time_are_counted():
    rows = [raw(None, HEART, "60", hadm_id=100, stay_id=10)]
    assert [verdict for *_, verdict in seen(rows, "chart")] == [NO_TIME]
    assert [verdict for *_, verdict in seen(rows, "chart", REF)] == [NO_TIME]


def test_labs_without_a_time_are_counted_once_whoever_they_name():
    """Of a patient of two stays."""
    rows = [raw(None, GLUCOSE, "60", hadm_id=100), raw(None, GLUCOSE, "61", hadm_id=None), raw(1, GLUCOSE, "62")]
    found = sorted((value, verdict) for _, _, value, verdict in seen(rows, "lab"))
    assert found == [(60, NO_TIME), (61, NO_TIME), (62, KEPT)]
    published = seen(rows, "lab", PUBLISHED)
    assert [(value, verdict) for _, _, value, verdict in published if verdict == NO_TIME] == [(60, NO_TIME)]


def test_labs_of_a_stay():
    rows = [
        raw(0, GLUCOSE, "150", hadm_id=None),
        raw(5, GLUCOSE, "151", hadm_id=100),
        raw(5.01, GLUCOSE, "152", hadm_id=100),
        raw(-0.5, GLUCOSE, "153", hadm_id=100),
        raw(24 * 9.5, GLUCOSE, "154", hadm_id=100),
        raw(1, GLUCOSE, "155", subject_id=3, hadm_id=100),
        raw(1, GLUCOSE, "156", subject_id=2, hadm_id=999),
        raw(2, 51478, "157", hadm_id=100),
    ]
    assert seen(rows, "lab") == [(10, 0, 150, KEPT), (10, 5, 151, KEPT), (11, 12, 154, KEPT), (20, 1, 156, KEPT)]
    published = [
        (10, -0.5, 153, EARLY),
        (10, 5, 151, KEPT),
        (10, 5.01, 152, KEPT),
        (10, 228, 154, KEPT),
        (11, 12, 154, KEPT),  # drawn in this stay, though of the other admission
    ]
    assert seen(rows, "lab", PUBLISHED) == published
    assert seen(rows, "lab", REF) == sorted([*published, (10, 2, 157, KEPT)])


def test_labs_when_stored():
    rows = [
        raw(1, GLUCOSE, "1.5", stored=2, hadm_id=100),
        raw(2, GLUCOSE, "2.5", stored=1, hadm_id=100),  # stored before it was drawn
        raw(3, GLUCOSE, "3.5", hadm_id=100),
        raw(4, GLUCOSE, "4.5", stored=6, hadm_id=100),
        raw(-1, GLUCOSE, "5.5", stored=0.5, hadm_id=100),
    ]
    stored = Rules(lab_time="stored", outliers="kept")
    found = seen(rows, "lab", stored)
    assert [entry[1:] for entry in found if entry[3] == KEPT] == [(0.5, 5.5, KEPT), (2, 1.5, KEPT), (2, 2.5, KEPT)]
    assert [entry[2:] for entry in found if entry[3] != KEPT] == [(3.5, NO_TIME)]
    published = seen(rows, "lab", Rules(lab_time="stored", outliers="kept", events="published"))
    assert [(hour, value) for _, hour, value, verdict in published if verdict == KEPT] == [
        (0.5, 5.5), (2, 1.5), (2, 2.5), (6, 4.5)
    ]  # fmt: skip


def test_specimens():
    rows = [
        raw(1, 50817, "97", specimen_id=5),
        raw(1, 52033, "ART.", specimen_id=5),
        raw(2, 50817, "60", specimen_id=6),
        raw(2, 52033, "VEN.", specimen_id=6),
        raw(2.5, 50817, "95", specimen_id=7),
        raw(3, 50817, "94"),
        raw(3, 52033, "ART."),
    ]
    assert [verdict for *_, verdict in seen(rows, "lab")] == [KEPT, NOT_ARTERIAL, NOT_ARTERIAL, NOT_ARTERIAL]
    assert [verdict for *_, verdict in seen(rows, "lab", Rules(saturation="any_specimen"))] == [KEPT] * 4


def sizes(rules: Rules, *rows: dict) -> list[tuple[float, float]]:
    """Hours and values after one value a minute was chosen."""
    kept = judge(list(rows), "chart", rules).filter(pl.col("verdict") == VERDICTS.index(KEPT))
    return cleaning.one_per_minute(kept, rules)[0].select("hour", "value").rows()


def test_body_size_of_the_day_before():
    own = {"hadm_id": 100, "stay_id": 10}
    early = [raw(-25, WEIGHT, "70", **own), raw(-24, WEIGHT, "71", **own), raw(-1, WEIGHT, "72", stored=-1, **own)]
    late = [raw(-2, WEIGHT, "73", stored=3, **own)]
    at_0 = [raw(0, WEIGHT, "74", **own)]
    others = [raw(-1, HEART, "80", **own), raw(-1, WEIGHT, "75", hadm_id=101, stay_id=11)]
    rules = Rules(body_size="day_before")
    for chosen in (rules, Rules.of_profile("ref", ["body_size=day_before"])):
        assert sizes(chosen, *early[:1]) == []
        assert sizes(chosen, *early[:2]) == [(0, 71)]
        assert sizes(chosen, *early, *late, *others) == [(0, 72)]  # the latest
        assert sizes(chosen, *early, *late, *at_0) == [(0, 74)]  # in the stay
    assert sizes(FIX, *early, *late) == []
    assert seen(others, "chart", rules) == [(10, -1, 80, OUTSIDE), (11, -217, 75, OUTSIDE)]


def ties(rules: Rules, *rows: tuple[int | None, int, float, str | None]) -> list[float]:
    """Value that wins among (store time, itemid, value, text) rows of one minute, for both orders of the rows."""
    item = {item.itemid: item for item in items(rules)}
    schema = {"stay_id": pl.Int64, "hour": pl.Float64, "channel": pl.Int16, "value": pl.Float64, "stored": pl.Int64}
    table = pl.DataFrame(
        [
            {"stay_id": 1, "hour": 2.0, "channel": item[i].channel, "value": v, "stored": s, "text": text}
            | {"priority": item[i].priority, "itemid": i}
            for s, i, v, text in rows
        ],
        schema=schema | {"text": pl.String, "priority": pl.Int16, "itemid": pl.Int32},
    )
    winners = []
    for order in (table, table.reverse()):
        kept, repeated = cleaning.one_per_minute(order, rules)
        assert len(kept) == 1 and repeated["rows"].to_list() == [len(rows) - 1]
        winners += kept["value"].to_list()
    return winners


def test_the_value_stored_last_wins():
    assert ties(FIX, (5, 220179, 1, None), (6, 220179, 2, None)) == [2, 2]
    assert ties(FIX, (None, 220050, 1, None), (6, 220179, 2, None)) == [2, 2]  # unknown store time is the earliest
    assert ties(FIX, (6, 220179, 1, None), (6, 220050, 2, None)) == [2, 2]  # arterial line before cuff
    assert ties(FIX, (None, 220179, 1, None), (None, 220050, 2, None)) == [2, 2]
    assert ties(FIX, (6, 227243, 1, None), (6, 224167, 2, None)) == [2, 2]  # lowest item
    assert ties(FIX, (6, 220179, 120, None), (6, 220179, 98, None)) == [98, 98]


def test_the_largest_wins():
    largest = Rules(same_time="largest")
    assert ties(largest, (5, 220179, 120, None), (6, 220050, 98, None)) == [120, 120]
    assert ties(largest, (5, HEART, 101, "101"), (6, HEART, 98, "98")) == [98, 98]  # as texts
    assert ties(largest, (5, HEART, 101, "101"), (6, HEART, 98, None)) == [101, 101]
    assert ties(largest, (5, HEART, 98, "98"), (6, HEART, 98, "98.0"), (7, HEART, 97, "97.99")) == [98, 98]


CHARTED = st.tuples(
    st.sampled_from([HEART, 220179, 220050, 220739, WEIGHT]),
    st.sampled_from([-3.0, -0.1, 0.0, 1.0]),
    st.sampled_from([None, 0.0, 1.0]),
    st.sampled_from(["98", "101", "3", "To Speech", "None"]),
)


@given(st.lists(CHARTED, max_size=12), st.randoms(use_true_random=False), st.sampled_from(["stored_last", "largest"]))
def test_the_order_of_rows_never_matters(charted, random, same_time):
    rules = Rules(same_time=same_time, body_size="day_before", events="published")
    rows = [raw(hour, item, text, stored, hadm_id=100, stay_id=10) for item, hour, stored, text in charted]
    shuffled = random.sample(rows, len(rows))
    results = []
    for order in (rows, shuffled):
        kept = judge(order, "chart", rules).filter(pl.col("verdict") == VERDICTS.index(KEPT))
        events, repeated = cleaning.one_per_minute(kept, rules)
        assert len(events) + repeated["rows"].sum() == len(kept)
        assert events.select("stay_id", "hour", "channel").is_duplicated().sum() == 0
        results.append(events.rows())
    assert results[0] == results[1] == sorted(results[0])


COMA = [
    (1, 2.0, EYE, "to speech"),
    (1, 2.0, MOTOR, "localizes pain"),
    (1, 2.0, VERBAL, "no response-ett"),
    (1, 3.0, EYE, "none"),
    (1, 3.0, MOTOR, "no response"),
    (2, 3.0, VERBAL, "no response"),
]


@pytest.mark.parametrize("levels", ["merged", "as_written"])
def test_coma_total_where_all_parts_share_a_time(levels: str):
    rules = Rules(levels=levels)
    rows = [(stay, hour, INDEX[part], category_texts(INDEX[part], rules)[text]) for stay, hour, part, text in COMA]
    schema = {"stay_id": pl.Int64, "hour": pl.Float64, "channel": pl.Int16, "value": pl.Float64}
    events = pl.DataFrame(rows, schema=schema, orient="row")
    totals = cleaning.coma_totals(events, rules)
    assert totals.rows() == [(1, 2.0, INDEX[TOTAL], category_texts(INDEX[TOTAL])["9"])]
    assert dict(totals.schema) == schema
    assert len(cleaning.coma_totals(events, REF)) == 0


def test_worked_example_from_raw_rows_to_hourly_rows():
    own = {"hadm_id": 100, "stay_id": 10}
    charted = [(0.0, "80"), (0.4, "90"), (1.0, "100"), (3.7, "70"), (5.3, "60"), (6.0, "50")]
    rows = [raw(hour, HEART, text, **own) for hour, text in charted]
    rows += [raw(1.2, 220621, "150", **own), raw(3.7, 220739, "To Speech", **own)]
    kept = judge(rows, "chart", REF).filter(pl.col("verdict") == VERDICTS.index(KEPT))  # later rows are kept
    events, _ = cleaning.one_per_minute(kept, REF)
    hourly = discretise(*(events[name].to_numpy() for name in ("hour", "channel", "value")), 5.3)
    assert hourly.shape == (6, 76)
    expected = {"Heart Rate": [100, 100, 100, 70, 70, 60], "Glucose": [128, 150, 150, 150, 150, 150]}
    observed = {"Heart Rate": [1, 0, 0, 1, 0, 1], "Glucose": [0, 1, 0, 0, 0, 0], EYE: [0, 0, 0, 1, 0, 0]}
    for name, values in expected.items():
        assert hourly[:, FIRST_COLUMN[INDEX[name]]].tolist() == values
    for name, flags in observed.items():
        assert hourly[:, VALUES + INDEX[name]].tolist() == flags
    assert (hourly[:, FIRST_COLUMN[INDEX["Temperature"]]] == np.float32(36.6)).all()
    speech = FIRST_COLUMN[INDEX[EYE]] + category_texts(INDEX[EYE], REF)["to speech"]
    assert hourly[:, speech].tolist() == [0, 0, 0, 1, 1, 1]
