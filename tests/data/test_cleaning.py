"""Units, texts, outliers, specimens and ties, row by row."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pytest

from benchmark.data import cleaning
from benchmark.data.channels import EYE, INDEX, MOTOR, TOTAL, VERBAL, category_texts, items

ITEMS = cleaning.item_frame(items())


def judged(itemid: int, valuenum: float | None, text: str | None = None, inside=True, arterial=None):
    """Value and verdict of one row."""
    rows = pl.LazyFrame(
        {"itemid": [itemid], "value": [text], "valuenum": [valuenum], "inside": [inside], "arterial": [arterial]},
        schema={
            "itemid": pl.Int64,
            "value": pl.String,
            "valuenum": pl.Float64,
            "inside": pl.Boolean,
            "arterial": pl.Boolean,
        },
    ).join(ITEMS.lazy(), on="itemid")
    row = cleaning.measure(rows).collect().row(0, named=True)
    return row["value"], cleaning.VERDICTS[row["verdict"]]


@pytest.mark.parametrize(
    ("itemid", "valuenum", "expected"),
    [
        (220045, 80, 80),
        (223761, 98.6, 37.0),  # Fahrenheit, always
        (223761, 70, 26.0),  # 21.1 degrees, clamped; never taken for Celsius
        (223762, 37.2, 37.2),
        (223762, 98.6, 37.0),  # Fahrenheit charted as Celsius
        (226707, 67, 170.18),
        (226730, 170, 170),
        (226531, 180, 81.64656),
        (226512, 39.4, 39.4),
        (223835, 40, 0.4),
        (223835, 20, 0.21),
        (223835, 0.2, 0.21),
        (223835, 1, 1.0),
        (223835, 100, 1.0),
        (220277, 0.97, 97),
        (220277, 1, 100),
        (220277, 120, 100),  # between valid and outlier bound: clamped
        (220052, 5, 14),
    ],
)
def test_values(itemid: int, valuenum: float, expected: float):
    value, verdict = judged(itemid, valuenum)
    assert verdict == cleaning.KEPT and value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("itemid", "valuenum", "verdict"),
    [
        (220045, None, cleaning.NO_VALUE),
        (220045, float("nan"), cleaning.NO_VALUE),
        (220045, 391, cleaning.OUTLIER),
        (220045, -1, cleaning.OUTLIER),
        (223835, 10, cleaning.IMPLAUSIBLE),  # an oxygen flow
        (223835, 0.1, cleaning.IMPLAUSIBLE),
        (223835, 101, cleaning.IMPLAUSIBLE),
        (220277, 0, cleaning.IMPLAUSIBLE),
        (220277, 151, cleaning.OUTLIER),
        (50820, 6.0, cleaning.OUTLIER),
    ],
)
def test_values_that_are_dropped(itemid: int, valuenum: float | None, verdict: str):
    assert judged(itemid, valuenum)[1] == verdict


def test_texts():
    assert judged(220739, 1.0, "None") == (category_texts(INDEX[EYE])["none"], cleaning.KEPT)
    assert judged(220739, None, " 1 No Response ") == (category_texts(INDEX[EYE])["none"], cleaning.KEPT)
    assert judged(223900, 1.0, "No Response-ETT")[0] == category_texts(INDEX[VERBAL])["no response-ett"]
    assert judged(223901, 9.0, "Waves")[1] == cleaning.UNKNOWN_TEXT
    assert judged(223901, 6.0, None)[1] == cleaning.NO_VALUE and judged(223901, 6.0, " ")[1] == cleaning.NO_VALUE
    assert judged(223951, None, "Normal <3 Seconds") == (0, cleaning.KEPT)
    assert judged(224308, None, "Abnormal >3 Seconds") == (1, cleaning.KEPT)
    assert judged(224308, 0.0, "0.0")[1] == cleaning.UNKNOWN_TEXT


def test_pressure_pairs_and_windows():
    assert judged(220179, None, "120/80") == (120, cleaning.KEPT) and judged(220180, None, "120 / 80")[0] == 80
    assert judged(220179, 118.0, "120/80")[0] == 118
    assert judged(220045, 80.0, inside=False)[1] == cleaning.OUTSIDE


def test_laboratory_saturation_needs_an_arterial_specimen():
    assert judged(50817, 97, arterial=True) == (97, cleaning.KEPT)
    assert judged(50817, 97, arterial=False)[1] == judged(50817, 97)[1] == cleaning.NOT_ARTERIAL
    assert judged(50820, 7.3)[1] == cleaning.KEPT  # other blood gas values keep every specimen


START = datetime(2150, 1, 1, 12)
STAYS = pl.LazyFrame(
    {
        "subject_id": [1, 1],
        "stay_id": [10, 11],
        "intime": [START, START + timedelta(days=9)],
        "outtime": [START + timedelta(hours=5), START + timedelta(days=10)],
    }
)


def lab(hours: float, itemid: int, value: str, valuenum: float | None, specimen: int | None, subject: int = 1) -> dict:
    time = START + timedelta(hours=hours)
    return {
        "subject_id": subject,
        "specimen_id": specimen,
        "itemid": itemid,
        "charttime": time,
        "storetime": time,
        "value": value,
        "valuenum": valuenum,
    }


def test_labs_join_by_patient_time_and_specimen():
    labs = pl.LazyFrame(
        [
            lab(1, 50817, "97", 97, 5),
            lab(1, 52033, "ART.", None, 5),
            lab(2, 50817, "60", 60, 6),
            lab(2, 52033, "VEN.", None, 6),
            lab(2.5, 50817, "95", 95, 7),
            lab(0, 50931, "___", 150, 8),
            lab(5, 50931, "151", 151, 9),
            lab(5.01, 50931, "152", 152, 9),
            lab(-0.01, 50931, "153", 153, 9),
            lab(24 * 9.5, 50931, "154", 154, 9),
            lab(1, 50931, "155", 155, 9, subject=2),
            lab(1, 51478, "156", 156, 9),
        ]
    )
    wanted = cleaning.wanted_labs(labs, STAYS, ITEMS)
    rows = cleaning.lab_rows(wanted, STAYS, ITEMS).collect()
    kept = rows.filter(pl.col("verdict") == 0).select("stay_id", "hour", "value").sort("stay_id", "hour").rows()
    assert kept == [(10, 0.0, 150.0), (10, 1.0, 97.0), (10, 5.0, 151.0), (11, 12.0, 154.0)]
    assert (rows["verdict"] == cleaning.VERDICTS.index(cleaning.NOT_ARTERIAL)).sum() == 2


def ties(*rows: tuple[int | None, int, float]) -> list[float]:
    """Value that wins among (store time, itemid, value) rows of one minute, for both orders of the rows."""
    priority = dict(ITEMS.select("itemid", "priority").rows())
    frame = pl.DataFrame(
        [
            {"stay_id": 1, "hour": 2.0, "channel": 8, "value": v, "stored": s, "priority": priority[i], "itemid": i}
            for s, i, v in rows
        ],
        schema_overrides={"stored": pl.Int64, "value": pl.Float64},
    )
    winners = []
    for order in (frame, frame.reverse()):
        kept, repeated = cleaning.one_per_minute(order)
        assert len(kept) == 1 and repeated["rows"].to_list() == [len(rows) - 1]
        winners += kept["value"].to_list()
    return winners


def test_ties_of_one_minute():
    assert ties((5, 220179, 1), (6, 220179, 2)) == [2, 2]  # stored last
    assert ties((None, 220050, 1), (6, 220179, 2)) == [2, 2]  # unknown store time is the earliest
    assert ties((6, 220179, 1), (6, 220050, 2)) == [2, 2]  # arterial line before cuff
    assert ties((None, 220179, 1), (None, 220050, 2)) == [2, 2]
    assert ties((6, 227243, 1), (6, 224167, 2)) == [2, 2]  # lowest item
    assert ties((6, 220179, 120), (6, 220179, 98)) == [98, 98]


def test_coma_total_where_all_parts_share_a_time():
    eye, motor, verbal = (category_texts(INDEX[name]) for name in (EYE, MOTOR, VERBAL))
    rows = [
        (1, 2.0, INDEX[EYE], eye["to speech"]),
        (1, 2.0, INDEX[MOTOR], motor["localizes pain"]),
        (1, 2.0, INDEX[VERBAL], verbal["no response-ett"]),
        (1, 3.0, INDEX[EYE], eye["none"]),
        (1, 3.0, INDEX[MOTOR], motor["no response"]),
        (2, 3.0, INDEX[VERBAL], verbal["no response"]),
    ]
    schema = {"stay_id": pl.Int64, "hour": pl.Float64, "channel": pl.Int16, "value": pl.Float64}
    totals = cleaning.coma_totals(pl.DataFrame(rows, schema=schema, orient="row"))
    assert totals.rows() == [(1, 2.0, INDEX[TOTAL], category_texts(INDEX[TOTAL])["9"])]
    assert dict(totals.schema) == schema
