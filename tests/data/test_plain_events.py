"""The events of random raw rows and of the public demo, computed a second time row by row in plain Python."""

from __future__ import annotations

import csv
import gzip
import math
import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_events import CHANNEL_OF, CHART, LABS, LEVELS, SPECIMEN, plain_events, plain_number

from benchmark.data import cleaning
from benchmark.data.channels import CHANNELS, items
from benchmark.data.measures import CODE, KEPT
from benchmark.data.rules import Rules
from benchmark.data.tally import Tally

NOON = datetime(2150, 1, 1, 12)
STAYS = [
    # subject, admission, stay, begin, end
    (1, 100, 10, NOON, NOON + timedelta(hours=5)),
    (1, 101, 11, NOON + timedelta(hours=4), NOON + timedelta(hours=8)),  # of another admission, and overlapping
    (2, 200, 20, NOON + timedelta(hours=1), NOON + timedelta(hours=6)),
]
DEMO = Path(os.environ.get("MIMIC_IV_DEMO", Path(__file__).parents[3] / "shared" / "data" / "mimic-iv-demo"))


def pipeline_events(
    chart: list[dict], labs: list[dict], stays: list[tuple], rules: Rules
) -> tuple[dict[tuple, float | str], int, int]:
    """The same by the pipeline, with the number of judged rows and of counted rows."""
    table = pl.DataFrame(stays, schema=list(cleaning.STAY_COLUMNS), orient="row")
    chart_items, lab_items = (
        cleaning.item_frame(item for item in items(rules) if name in item.table) for name in ("chart", "lab")
    )
    charted = pl.LazyFrame(chart, schema=SCHEMA).select(cleaning.CHART_COLUMNS)
    drawn = cleaning.wanted_labs(
        pl.LazyFrame(labs, schema=SCHEMA).select(cleaning.LAB_COLUMNS),
        table.select("subject_id").unique(),
        lab_items,
        rules,
    )
    judged = pl.concat(
        [
            cleaning.chart_rows(charted, table, chart_items, rules).collect(),
            cleaning.lab_rows(drawn, table, lab_items, rules).collect(),
        ]
    )
    kept, repeated = cleaning.one_per_minute(judged.filter(pl.col("verdict") == CODE[KEPT]), rules)
    counts = Tally()
    counts.add(judged)
    counts.add_repeated(repeated)
    events = {}
    for stay, hour, index, value in pl.concat([kept, cleaning.coma_totals(kept, rules)]).rows():
        channel = CHANNELS[index]
        events[stay, hour, channel.name] = value if channel.continuous else channel.categories[int(value)].text
    counted = sum(sum(verdicts.values()) for verdicts in counts.report(items(rules))["rows"].values())
    return events, len(judged), counted


SCHEMA = {
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

NUMBERS = ["98", "101", "7.4", "0.4", "40", "0", "1", "5", "79", "78.9", "65.5", "1e2", "300.0", "6.9", ".5", "-4"]
TEXTS = [None, "___", "ERROR", "120/80", ">500", "7,4", *(text for texts in LEVELS.values() for text in texts)]
# Coma scale parts and specimens more often, since several have to meet.
CHART_ITEMS = [item for ranks in CHART.values() for rank in ranks for item in rank] + [1] + [220739, 223900, 223901] * 5
LAB_ITEMS = [item for ranks in LABS.values() for rank in ranks for item in rank] + [1] + [SPECIMEN, 50817] * 3


def raw_row(random: Random, lab: bool) -> dict:
    subject, admission, stay, *_ = random.choice(STAYS)
    item = random.choice(LAB_ITEMS if lab else CHART_ITEMS)
    level = LEVELS.get(CHANNEL_OF.get(item, ""))
    text = random.choice([*level] * 3 + ["Waves", None] if level else NUMBERS * 2 + TEXTS)
    number = plain_number(text)
    if not level and random.random() < 0.2:
        number = random.choice([None, 55.0, math.nan])
    if item == SPECIMEN:
        text, number = random.choice(["ART.", "ART.", "VEN."]), None
    stored, fault = random.choice([None, 1, 2]), random.randrange(10)
    return {
        "subject_id": 3 - subject if fault == 0 else subject,
        "hadm_id": random.choice([None, 999, 101]) if fault == 1 else admission,
        "stay_id": None if lab else random.choice([None, 99, 11]) if fault == 2 else stay,
        "specimen_id": random.choice([None, *range(8)]) if lab else None,
        "itemid": item,
        "charttime": NOON + timedelta(hours=random.choice([-3, -0.25, 0, 1, 1, 4, 4.5, 5, 6, 9])),
        "storetime": None if stored is None else NOON + timedelta(hours=stored),
        "value": text,
        "valuenum": number,
        "valueuom": random.choice([None, "mmHg", "°F"]),
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1500), st.integers(0, 300), st.integers(0), st.sampled_from(["fix", "ref"]))
@example(1500, 300, 1, "fix")
@example(1500, 300, 1, "ref")
def test_pipeline_agrees_with_plain_python(charted: int, drawn: int, seed: int, profile: str):
    random = Random(seed)
    chart = [raw_row(random, lab=False) for _ in range(charted)]
    labs = [raw_row(random, lab=True) for _ in range(drawn)]
    compare(chart, labs, STAYS, profile)


def compare(chart: list[dict], labs: list[dict], stays: list[tuple], profile: str) -> int:
    """Number of events, after both ways were found to agree."""
    expected = plain_events(chart, labs, stays, ref=profile == "ref")
    found, judged, counted = pipeline_events(chart, labs, stays, Rules.of_profile(profile))
    different = {key: (expected.get(key), found.get(key)) for key in expected | found}
    assert {key: pair for key, pair in different.items() if not alike(*pair)} == {}
    assert judged == counted
    return len(expected)


@pytest.mark.skipif(not DEMO.is_dir(), reason="the public demo of MIMIC-IV is not here")
@pytest.mark.parametrize("profile", ["fix", "ref"])
def test_demo_of_mimic_iv(profile: str):
    def rows(table: str) -> Iterator[dict]:
        with gzip.open(DEMO / f"{table}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                item = int(row.get("itemid") or 0)
                if item in CHANNEL_OF or item in (SPECIMEN, 0):
                    yield {name: typed(name, row.get(name) or None) for name in [*SCHEMA, "intime", "outtime"]}

    stays = [tuple(row[name] for name in cleaning.STAY_COLUMNS) for row in rows("icu/icustays")]
    only = Counter(stay[1] for stay in stays)
    stays = [stay for stay in stays if only[stay[1]] == 1]
    assert compare(list(rows("icu/chartevents")), list(rows("hosp/labevents")), stays, profile) > 50_000


def typed(name: str, text: str | None) -> int | float | str | datetime | None:
    if text is None or SCHEMA.get(name) == pl.String:
        return text
    if name.endswith("time"):
        return datetime.fromisoformat(text)
    return float(text) if name == "valuenum" else int(text)


def alike(one: float | str | None, other: float | str | None) -> bool:
    """Equal but for rounding."""
    if isinstance(one, float | int) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return one == other
