"""Counts over batches of judged rows."""

from __future__ import annotations

import json

import polars as pl

from benchmark.data import tally
from benchmark.data.channels import INDEX, items
from benchmark.data.measures import CODE, EARLY, KEPT, OUTLIER, REPEATED, UNKNOWN_TEXT

HEART, MOTOR = (220045, INDEX["Heart Rate"]), (223901, INDEX["Glascow coma scale motor response"])


def judged(*rows: tuple) -> pl.DataFrame:
    """Rows of (item and channel, verdict, text, unit, stay, hour)."""
    schema = {"itemid": pl.Int32, "channel": pl.Int16, "verdict": pl.UInt8, "text": pl.String, "unit": pl.String}
    return pl.DataFrame(
        [(*item, CODE[verdict], text, unit, stay, hour) for item, verdict, text, unit, stay, hour in rows],
        schema=schema | {"stay_id": pl.Int64, "hour": pl.Float64},
        orient="row",
    )


def test_batches_add_up():
    counts = tally.Tally()
    counts.add(judged((HEART, KEPT, None, "m", 1, 2.0), (HEART, KEPT, None, None, 1, 3.0)))
    counts.add(judged((HEART, OUTLIER, None, "m", 1, 2.0), (HEART, EARLY, None, None, 1, -2.0)))
    counts.add(judged((MOTOR, UNKNOWN_TEXT, "Waves", None, 2, 1.0), (HEART, EARLY, None, None, 1, -3.0)))
    counts.add(judged((HEART, EARLY, None, None, 1, -1.0), (MOTOR, UNKNOWN_TEXT, "Waves", None, 2, 1.0)))
    counts.add(judged())
    counts.add_repeated(pl.DataFrame({"channel": [HEART[1]], "rows": [1]}))
    assert counts.earliest() == {1: -3.0}
    report = counts.report(items())
    assert report["rows"]["Heart Rate"] == {KEPT: 1, OUTLIER: 1, EARLY: 3, REPEATED: 1}
    assert report["unknown_texts"] == {"223901 GCS - Motor Response": {"Waves": 2}}
    assert report["other_units"] == {"220045 Heart Rate": {"m": 2}}
    assert sum(sum(verdicts.values()) for verdicts in report["rows"].values()) == 8
    json.dumps(report)


def test_texts_stay_few(monkeypatch):
    monkeypatch.setattr(tally, "MOST_TEXTS", 20)
    counts = tally.Tally()
    for batch in range(3):
        texts = [f"text {batch} {number:02}" for number in range(15)] + ["often"] * 5
        counts.add(judged(*((MOTOR, UNKNOWN_TEXT, text, None, 1, 1.0) for text in texts)))
    found = counts.report(items())["unknown_texts"]["223901 GCS - Motor Response"]
    assert len(found) == tally.SHOWN + 1 and sum(found.values()) == 60
    assert found["often"] == 15 and found[tally.OTHERS] > 0
