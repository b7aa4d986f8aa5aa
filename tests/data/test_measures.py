"""Units, texts and outliers, row by row, under the rules of both profiles and single switches."""

from __future__ import annotations

import polars as pl
import pytest

from benchmark.data.channels import EYE, INDEX, MOTOR, VERBAL, category_texts, items
from benchmark.data.cleaning import item_frame
from benchmark.data.measures import (
    IMPLAUSIBLE,
    KEPT,
    NO_VALUE,
    NOT_ARTERIAL,
    OUTLIER,
    UNKNOWN_TEXT,
    VERDICTS,
    measure,
)
from benchmark.data.rules import Rules

FIX, REF = Rules(), Rules.of_profile("ref")


def row(itemid: int, number: float | None, text: str | None, unit: str | None, arterial: bool | None, rules: Rules):
    """The judged row of one raw row."""
    schema = {"value": pl.String, "valuenum": pl.Float64, "valueuom": pl.String, "arterial": pl.Boolean}
    raw = pl.LazyFrame(
        {"itemid": [itemid], "value": [text], "valuenum": [number], "valueuom": [unit], "arterial": [arterial]},
        schema={"itemid": pl.Int64} | schema,
    )
    return measure(raw.join(item_frame(items(rules)).lazy(), on="itemid"), rules).collect().row(0, named=True)


def judged(itemid, number=None, text=None, rules=FIX, arterial=None):
    """Value and verdict of one raw row."""
    found = row(itemid, number, text, None, arterial, rules)
    return found["value"], VERDICTS[found["verdict"]]


def read(itemid: int, text: str, rules: Rules = REF):
    """Value and verdict of a row whose number is missing: only its text can count."""
    return judged(itemid, None, text, rules)


EYES, MOTORS, VERBALS = (category_texts(INDEX[name]) for name in (EYE, MOTOR, VERBAL))

PROFILES = [
    # itemid, text, number, value in the profile fix, value in the profile ref (None: not kept)
    (220050, "120", 120, 120, 120),  # systolic
    (220179, "120/80", None, 120, 120),
    (220051, "64", 64, 64, 64),  # diastolic
    (220180, "120/80", None, 80, 80),
    (223835, "40", 40, 0.4, 0.4),  # inspired oxygen
    (223835, "0.4", 0.4, 0.4, 0.004),
    (223835, "6", 6, None, 0.06),
    (223835, "", 40, 0.4, None),
    (220739, "To Speech", 3, EYES["to speech"], EYES["to speech"]),
    (223901, "Flex-withdraws", 4, MOTORS["flex-withdraws"], MOTORS["flex-withdraws"]),
    (223900, "No Response-ETT", 1, VERBALS["no response-ett"], VERBALS["no response-ett"]),
    (220621, "95", 95, 95, 95),  # glucose
    (50931, "___", 150, 150, None),
    (50931, "5000", 5000, None, 5000),
    (220045, "101", 101, 101, 101),  # heart rate
    (220045, "400", 400, None, 400),
    (226707, "67", 67, 170.18, 67),  # height in inches
    (226730, "170", 170, 170, 170),
    (220052, "5", 5, 14, 5),  # mean pressure
    (220277, "0.97", 0.97, 97, 97),  # saturation
    (220277, "0", 0, None, 0),
    (220277, "120", 120, 100, 120),
    (220210, "18", 18, 18, 18),  # respiratory rate
    (223761, "98.6", 98.6, 37.0, 37.0),  # temperature in Fahrenheit
    (223761, "78", 78, 26.0, 78),  # 25.6 degrees is clamped; the published pipeline takes it for Celsius
    (223762, "37.2", 37.2, 37.2, 37.2),
    (223762, "98.6", 98.6, 37.0, 37.0),
    (226531, "180", 180, 81.64656, 81.64656),  # weight in pounds
    (224639, "82", 82, 82, 82),
    (50820, "7.31", 7.31, 7.31, 7.31),  # pH
    (50820, "6.0", 6.0, None, 6.0),
]


@pytest.mark.parametrize(("itemid", "text", "number", "fix", "ref"), PROFILES)
def test_profiles(itemid: int, text: str, number: float | None, fix: float | None, ref: float | None):
    for rules, expected in ((FIX, fix), (REF, ref)):
        value, verdict = judged(itemid, number, text, rules)
        assert (verdict == KEPT) == (expected is not None)
        if expected is not None:
            assert value == pytest.approx(expected, rel=1e-12)


def test_the_table_of_profiles_names_every_channel_with_items():
    channel = {item.itemid: item.channel for item in items()}
    refill = INDEX["Capillary refill rate"]
    assert {channel[entry[0]] for entry in PROFILES} == {item.channel for item in items()} - {refill}


@pytest.mark.parametrize(
    ("itemid", "number", "expected"),
    [
        (223761, 70, 26.0),  # 21.1 degrees, clamped; never taken for Celsius
        (226512, 39.4, 39.4),
        (226329, 36.4, 36.4),
        (223835, 20, 0.21),
        (223835, 0.2, 0.21),
        (223835, 1, 1.0),
        (223835, 100, 1.0),
        (220277, 1, 100),
        (50820, 9, 8.4),
    ],
)
def test_further_values_that_are_kept(itemid: int, number: float, expected: float):
    assert judged(itemid, number) == (pytest.approx(expected), KEPT)


@pytest.mark.parametrize(
    ("itemid", "number", "verdict"),
    [
        (220045, None, NO_VALUE),
        (220045, float("nan"), NO_VALUE),
        (220045, float("inf"), NO_VALUE),
        (220045, 391, OUTLIER),
        (220045, -1, OUTLIER),
        (223835, 10, IMPLAUSIBLE),  # an oxygen flow
        (223835, 0.1, IMPLAUSIBLE),
        (223835, 101, IMPLAUSIBLE),
        (220277, 0, OUTLIER),
        (220277, 151, OUTLIER),
        (50820, 6.0, OUTLIER),
    ],
)
def test_values_that_are_dropped(itemid: int, number: float | None, verdict: str):
    assert judged(itemid, number)[1] == verdict


def test_texts():
    assert judged(220739, 1.0, "None") == (EYES["none"], KEPT)
    assert judged(220739, None, " 1 No Response ") == (EYES["none"], KEPT)
    assert judged(223901, 9.0, "Waves")[1] == UNKNOWN_TEXT
    assert judged(223901, 6.0, "No Response-ETT")[1] == UNKNOWN_TEXT  # a text of another scale
    assert judged(223901, 6.0, None)[1] == judged(223901, 6.0, " ")[1] == judged(223901, 6.0, "___")[1] == NO_VALUE
    assert judged(223951, None, "Normal <3 Seconds") == (0, KEPT)
    assert judged(224308, None, "Abnormal >3 Seconds") == (1, KEPT)
    assert judged(224308, 0.0, "0.0")[1] == UNKNOWN_TEXT
    assert judged(220045, None, "___")[1] == NO_VALUE and judged(220045, None, "ERROR")[1] == UNKNOWN_TEXT
    assert judged(220179, None, "120 / 80")[0] == 120 and judged(220179, 118.0, "120/80")[0] == 118
    assert judged(220179, None, "120/")[1] == UNKNOWN_TEXT


def test_numbers_in_texts_as_the_published_pipeline_reads_them():
    assert read(220045, "1e2") == (100, KEPT) and read(220045, " 80 ") == (80, KEPT)
    assert read(220045, "fast")[1] == read(220045, "inf")[1] == read(220045, "nan")[1] == UNKNOWN_TEXT
    for lab in (50931, 50820, 50817, 220277):  # glucose, pH and saturation take plain numbers only
        assert read(lab, "7.") == (7, KEPT) and read(lab, ".5")[1] == KEPT
        for text in ("-5", "+5", "1e2", " 80", ">500", "ERROR", "7,3"):
            assert read(lab, text)[1] == UNKNOWN_TEXT
        assert read(lab, "___")[1] == read(lab, "")[1] == NO_VALUE


def test_each_switch_alone():
    assert judged(226707, 67, rules=Rules(height="unconverted")) == (67, KEPT)
    assert judged(223835, 0.4, rules=Rules(oxygen_fraction="always_divided"))[1] == OUTLIER
    assert judged(223835, 40, rules=Rules(oxygen_fraction="always_divided")) == (0.4, KEPT)
    above_79 = Rules(temperature="above_79", outliers="kept")
    assert [judged(item, 78.9, rules=above_79)[0] for item in (223761, 223762)] == [78.9, 78.9]
    assert (
        judged(223761, 79, rules=above_79)[0] == judged(223762, 79, rules=above_79)[0] == pytest.approx(26.11, abs=0.01)
    )
    assert judged(50931, 150, "140", Rules(values="text")) == (140, KEPT)
    assert judged(50931, 150, "140") == (150, KEPT)
    assert judged(223835, 10, rules=Rules(outliers="kept"))[1] == IMPLAUSIBLE  # no figure to keep


STRICT = {
    # itemid: (highest dropped, lowest kept, highest kept, lowest dropped)
    220045: (0, 1, 299, 300),
    220050: (0, 1, 399, 400),
    220051: (0, 1, 299, 300),
    220052: (0, 1, 299, 300),
    220210: (0, 1, 69, 70),
    223762: (10, 10.1, 49.9, None),
    223761: (70, 70.1, 119.9, 120),
    220277: (0, 1.5, 100, 100.1),
    50931: (0, 1, 10000, 10000.1),
    226730: (120, 120.1, 229.9, 230),
    226512: (20, 20.1, 349, 350),
    50820: (6.2, 6.3, 8.4, 8.5),
}


@pytest.mark.parametrize("itemid", list(STRICT))
def test_clinical_bounds(itemid: int):
    too_low, low, high, too_high = STRICT[itemid]
    rules = Rules(outliers="strict")
    for number, verdict in ((too_low, OUTLIER), (low, KEPT), (high, KEPT), (too_high, OUTLIER)):
        if number is not None:
            assert judged(itemid, number, rules=rules)[1] == verdict
    if itemid != 223761:
        assert judged(itemid, high, rules=rules)[0] == high  # nothing is clamped


def test_laboratory_saturation_needs_an_arterial_specimen():
    assert judged(50817, 97, arterial=True) == (97, KEPT)
    assert judged(50817, 97, arterial=False)[1] == judged(50817, 97)[1] == NOT_ARTERIAL
    assert judged(50817, 97, rules=Rules(saturation="any_specimen")) == (97, KEPT)
    assert judged(50820, 7.3)[1] == KEPT  # other blood gas values keep every specimen


def test_levels_as_written_have_their_own_columns():
    rules = Rules(levels="as_written")
    assert (
        judged(220739, None, "4 Spontaneously", rules)[0] == 3 and judged(220739, None, "Spontaneously", rules)[0] == 6
    )
    assert judged(220739, None, "4 Spontaneously")[0] == judged(220739, None, "Spontaneously")[0] == 6


@pytest.mark.parametrize(
    ("itemid", "unit", "shown"),
    [
        (223762, "°C", None),
        (223762, " c ", None),
        (223762, "°F", "°F"),
        (223762, None, None),
        (223762, "", None),
        (220045, "BPM", None),
        (220045, "m", "m"),  # part of the unit
        (220739, "points", "points"),
        (226531, "kg", "kg"),
    ],
)
def test_units_that_contradict_the_item_are_shown_and_change_nothing(itemid: int, unit: str | None, shown: str | None):
    with_unit, without = (row(itemid, 37.0, "37", u, None, FIX) for u in (unit, None))
    assert with_unit["unit"] == shown
    assert {**with_unit, "unit": 0, "valueuom": 0} == {**without, "unit": 0, "valueuom": 0}


def test_texts_are_carried_where_they_are_needed():
    assert row(220045, 80, "80", "bpm", None, FIX)["text"] is None
    assert row(220045, None, "ERROR", "bpm", None, FIX)["text"] == "ERROR"
    assert row(220045, 80, "80", "bpm", None, REF)["text"] == "80"
    assert row(220050, 80, "80", "mmHg", None, REF)["text"] is None  # ranked by number
