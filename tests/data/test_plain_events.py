"""The events of random raw rows, computed a second time row by row without any code of the pipeline."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from random import Random

import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmark.data import cleaning
from benchmark.data.channels import CHANNELS, items
from benchmark.data.measures import CODE, KEPT
from benchmark.data.rules import Rules
from benchmark.data.tally import Tally

NOON = datetime(2150, 1, 1, 12)
STAYS = [
    # subject, admission, stay, begin, end in hours after noon
    (1, 100, 10, 0, 5),
    (1, 101, 11, 4, 8),  # of another admission, and overlapping
    (2, 200, 20, 1, 6),
]

CHART = {
    "Diastolic blood pressure": [[220051], [225310], [], [220180], [224643, 227242]],
    "Fraction inspired oxygen": [[223835]],
    "Glascow coma scale eye opening": [[220739]],
    "Glascow coma scale motor response": [[223901]],
    "Glascow coma scale verbal response": [[223900]],
    "Glucose": [[220621, 225664, 226537]],
    "Heart Rate": [[220045]],
    "Height": [[226730], [226707]],
    "Mean blood pressure": [[220052], [225312], [224322], [220181]],
    "Oxygen saturation": [[220277], [220227]],
    "Respiratory rate": [[220210], [224690], [224422, 224689]],
    "Systolic blood pressure": [[220050], [225309], [], [220179], [224167, 227243]],
    "Temperature": [[223761, 223762, 226329]],
    "Weight": [[226512], [224639], [226531]],
    "pH": [[220274, 223830]],
    "Capillary refill rate": [[223951, 224308]],
}
LABS = {
    "Glucose": [[], [50809, 50931], [51478]],
    "Oxygen saturation": [[], [], [50817]],
    "pH": [[], [50820], [50831, 51094, 51491]],
}
CHANNEL_OF = {item: name for table in (CHART, LABS) for name, ranks in table.items() for rank in ranks for item in rank}
RANK_OF = {
    item: i for table in (CHART, LABS) for ranks in table.values() for i, rank in enumerate(ranks) for item in rank
}
ONLY_FIX, ONLY_REF = {227242, 226329, 223951, 224308}, {51478, 50831, 51094, 51491}
SPECIMEN = 52033

LEVELS = {
    "Glascow coma scale eye opening": ["None", "To Pain", "To Speech", "Spontaneously"],
    "Glascow coma scale motor response": [
        "No response", "Abnormal extension", "Abnormal Flexion", "Flex-withdraws", "Localizes Pain", "Obeys Commands"
    ],
    "Glascow coma scale verbal response": [
        "No Response", "Incomprehensible sounds", "Inappropriate Words", "Confused", "Oriented"
    ],
}  # fmt: skip
LEVELS["Capillary refill rate"] = ["Normal <3 Seconds", "Abnormal >3 Seconds"]
LIMITS = {
    "Diastolic blood pressure": (0, 0, 375, 375),
    "Fraction inspired oxygen": (0.2, 0.21, 1, 1.1),
    "Glucose": (0, 33, 2000, 2200),
    "Heart Rate": (0, 0, 350, 390),
    "Height": (0, 0, 240, 275),
    "Mean blood pressure": (0, 14, 330, 375),
    "Oxygen saturation": (0, 0, 100, 150),
    "Respiratory rate": (0, 0, 300, 330),
    "Systolic blood pressure": (0, 0, 375, 375),
    "Temperature": (14.2, 26, 45, 47),
    "Weight": (0, 0, 250, 250),
    "pH": (6.3, 6.3, 8.4, 10),
}


def plain_number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def plain_fix(row: dict, arterial: set[int]) -> float | str | None:
    """Value of a row under the recommended rules."""
    name, item, x = CHANNEL_OF[row["itemid"]], row["itemid"], row["valuenum"]
    if name in LEVELS:
        text = (row["value"] or "").strip()
        if name == "Capillary refill rate":
            return {level: f"{i}.0" for i, level in enumerate(LEVELS[name])}.get(text)
        return text if text in LEVELS[name] else None
    if x is None and "blood pressure" in name and "Mean" not in name and "/" in (row["value"] or ""):
        pair = [plain_number(part) for part in row["value"].split("/")]
        x = pair["Dia" in name] if None not in pair else None
    if x is None or not math.isfinite(x) or (item == 50817 and row["specimen_id"] not in arterial):
        return None
    if item == 223835:
        if 20 <= x <= 100:
            x = x / 100
        elif not 0.2 <= x <= 1:
            return None
    if name == "Oxygen saturation" and 0 < x <= 1:
        x = x * 100
    if item == 223761 or (item == 223762 and x >= 79):
        x = (x - 32) * 5 / 9
    x = x * 2.54 if item == 226707 else x * 0.453592 if item == 226531 else x
    lowest, low, high, highest = LIMITS[name]
    if x < lowest or x > highest or (name == "Oxygen saturation" and x == 0):
        return None
    return min(max(x, low), high)


def plain_ref(row: dict) -> float | str | None:
    """Value of a row as the published pipeline reads it."""
    name, text = CHANNEL_OF[row["itemid"]], row["value"]
    if text is None:
        return None
    if name in LEVELS:
        return text if text in LEVELS[name] else None
    if name in ("Glucose", "pH", "Oxygen saturation"):
        x = float(text) if re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) else None
    elif name in ("Systolic blood pressure", "Diastolic blood pressure") and "/" in text:
        pair = re.fullmatch(r"(\d+)/(\d+)", text)
        x = float(pair[1 if name[0] == "S" else 2]) if pair else None
    else:
        x = plain_number(text)
    if x is None:
        return None
    if name == "Fraction inspired oxygen":
        return x / 100
    if name == "Oxygen saturation" and x <= 1:
        return x * 100
    if name == "Temperature" and x >= 79:
        return (x - 32) * 5 / 9
    return x * 0.453592 if row["itemid"] == 226531 else x


def plain_stays(row: dict, lab: bool, ref: bool) -> list[int]:
    """Stays that a row belongs to."""
    time, found = row["charttime"], []
    home = {(subject, admission): stay for subject, admission, stay, *_ in STAYS}.get(
        (row["subject_id"], row["hadm_id"])
    )
    for subject, _, stay, begin, end in STAYS:
        within = NOON + timedelta(hours=begin) <= time <= NOON + timedelta(hours=end)
        if not ref:
            own = row["subject_id"] == subject if lab else row["stay_id"] == stay
            found += [stay] if own and within else []
        elif home is not None and (lab or row["stay_id"] in (None, home)) and subject == row["subject_id"]:
            after = time >= NOON + timedelta(hours=begin)
            found += [stay] if after and (stay == home or within) else []
    return found


def plain_events(chart: list[dict], labs: list[dict], ref: bool) -> dict[tuple[int, float, str], float | str]:
    """Events by stay, hour and channel."""
    kinds: dict[int, list[str]] = {}
    for row in labs:
        if row["itemid"] == SPECIMEN and row["specimen_id"] is not None:
            kinds.setdefault(row["specimen_id"], []).append(row["value"])
    arterial = {specimen for specimen, names in kinds.items() if all(name == "ART." for name in names)}
    begins = {stay: NOON + timedelta(hours=begin) for _, _, stay, begin, _ in STAYS}
    rivals: dict[tuple[int, float, str], list[tuple]] = {}
    for row, lab in [(row, False) for row in chart] + [(row, True) for row in labs]:
        item = row["itemid"]
        if item not in CHANNEL_OF or item in (ONLY_FIX if ref else ONLY_REF):
            continue
        value = plain_ref(row) if ref else plain_fix(row, arterial)
        if value is None:
            continue
        name = CHANNEL_OF[item]
        stored = row["storetime"].timestamp() if row["storetime"] else -math.inf
        as_text = name in LEVELS or name in ("Heart Rate", "Mean blood pressure", "Respiratory rate")
        rank = ((row["value"],) if as_text else (value,)) if ref else (stored, -RANK_OF[item], -item)
        for stay in plain_stays(row, lab, ref):
            hour = (row["charttime"] - begins[stay]).total_seconds() / 3600
            rivals.setdefault((stay, hour, name), []).append((rank, value))
    events = {}
    for key, found in rivals.items():
        best = max(rank for rank, _ in found)
        values = [value for rank, value in found if rank == best]
        # Equal in all that decides: the lower value, of texts the one with the lower column.
        events[key] = min(values, key=lambda value, name=key[2]: column_of(name, value))
    return events if ref else events | plain_totals(events)


def column_of(name: str, value: float | str) -> float:
    if isinstance(value, float | int):
        return value
    texts = [category.text for channel in CHANNELS if channel.name == name for category in channel.categories]
    return texts.index(value)


def plain_totals(events: dict) -> dict:
    totals = {}
    for stay, hour, _ in events:
        parts = [events.get((stay, hour, name)) for name in LEVELS if name != "Capillary refill rate"]
        if None not in parts:
            scores = [LEVELS[name].index(text) + 1 for name, text in zip(LEVELS, parts, strict=False)]
            totals[stay, hour, "Glascow coma scale total"] = str(sum(scores))
    return totals


def pipeline_events(chart: list[dict], labs: list[dict], rules: Rules) -> tuple[dict, int, int]:
    """The same by the pipeline, with the number of judged rows and of counted rows."""
    stays = pl.DataFrame(STAYS, schema=["subject_id", "hadm_id", "stay_id", "begin", "end"], orient="row").with_columns(
        intime=NOON + pl.duration(hours="begin"), outtime=NOON + pl.duration(hours="end")
    )
    frames = []
    for rows, table, columns in ((chart, "chart", cleaning.CHART_COLUMNS), (labs, "lab", cleaning.LAB_COLUMNS)):
        read = cleaning.item_frame(item for item in items(rules) if table in item.table)
        raw = pl.LazyFrame(rows, schema=SCHEMA).select(columns)
        if table == "chart":
            frames.append(cleaning.chart_rows(raw, stays, read, rules).collect())
        else:
            frames.append(
                cleaning.lab_rows(cleaning.wanted_labs(raw, stays, read, rules), stays, read, rules).collect()
            )
    judged = pl.concat(frames)
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
    text = random.choice(level * 3 + ["Waves", None] if level else NUMBERS * 2 + TEXTS)
    number = plain_number(text)
    if not level and random.random() < 0.2:
        number = random.choice([None, 55.0, math.nan])
    if item == SPECIMEN:
        text, number = random.choice(["ART.", "ART.", "VEN."]), None
    stored, fault = random.choice([None, 1, 2]), random.randrange(10)
    return {
        "subject_id": 3 - subject if fault == 0 and lab else subject,
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
    expected = plain_events(chart, labs, ref=profile == "ref")
    found, judged, counted = pipeline_events(chart, labs, Rules.of_profile(profile))
    different = {key: (expected.get(key), found.get(key)) for key in expected | found}
    assert {key: pair for key, pair in different.items() if not alike(*pair)} == {}
    assert judged == counted


def alike(one: float | str | None, other: float | str | None) -> bool:
    """Equal but for rounding."""
    if isinstance(one, float | int) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return one == other
