"""Events of raw rows, row by row in plain Python: what the pipeline's expressions have to agree with.

Only the order of the category columns is taken from the pipeline.
"""

from __future__ import annotations

import math
import re

from benchmark.data.channels import CHANNELS

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

EYE, MOTOR, VERBAL, REFILL = (
    *(f"Glascow coma scale {part}" for part in ("eye opening", "motor response", "verbal response")),
    "Capillary refill rate",
)
LEVELS = {
    EYE: {"None": 1, "To Pain": 2, "To Speech": 3, "Spontaneously": 4},
    MOTOR: {
        "No response": 1,
        "Abnormal extension": 2,
        "Abnormal Flexion": 3,
        "Flex-withdraws": 4,
        "Localizes Pain": 5,
        "Obeys Commands": 6,
    },
    VERBAL: {
        "No Response": 1,
        "No Response-ETT": 1,
        "Incomprehensible sounds": 2,
        "Inappropriate Words": 3,
        "Confused": 4,
        "Oriented": 5,
    },
    REFILL: {"Normal <3 Seconds": "0.0", "Abnormal >3 Seconds": "1.0"},
}
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
        known = text if text in LEVELS[name] else None
        return LEVELS[name].get(text) if name == REFILL else known
    if x is not None and not math.isfinite(x):
        x = None
    if x is None and "blood pressure" in name and "Mean" not in name and "/" in (row["value"] or ""):
        pair = [plain_number(part) for part in row["value"].split("/")]
        x = pair["Dia" in name] if None not in pair else None
    if x is None or (item == 50817 and (row["subject_id"], row["specimen_id"]) not in arterial):
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


def plain_stays(row: dict, lab: bool, ref: bool, stays: list[tuple]) -> list[int]:
    """Those stays of the row's patient that it belongs to."""
    time, found = row["charttime"], []
    home = next((stay for _, admission, stay, *_ in stays if admission == row["hadm_id"]), None)
    for _, _, stay, begin, end in stays:
        within = begin <= time <= end
        if not ref:
            found += [stay] if within and (lab or row["stay_id"] == stay) else []
        elif home is not None and (lab or row["stay_id"] in (None, home)):
            found += [stay] if time >= begin and (stay == home or within) else []
    return found


def plain_events(chart: list[dict], labs: list[dict], stays: list[tuple], ref: bool) -> dict[tuple, float | str]:
    """Events by stay, hour and channel."""
    of_patient: dict[int, list[tuple]] = {}
    for stay in stays:
        of_patient.setdefault(stay[0], []).append(stay)
    kinds: dict[tuple[int, int], list[str]] = {}
    for row in labs:
        if row["itemid"] == SPECIMEN and row["specimen_id"] is not None:
            kinds.setdefault((row["subject_id"], row["specimen_id"]), []).append(row["value"])
    arterial = {specimen for specimen, names in kinds.items() if all(name == "ART." for name in names)}
    begins = {stay: begin for _, _, stay, begin, _ in stays}
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
        for stay in plain_stays(row, lab, ref, of_patient.get(row["subject_id"], [])):
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
    for stay, hour in {(stay, hour) for stay, hour, _ in events}:
        parts = {name: events.get((stay, hour, name)) for name in (EYE, MOTOR, VERBAL)}
        if None not in parts.values():
            scores = [LEVELS[name][text] for name, text in parts.items()]
            totals[stay, hour, "Glascow coma scale total"] = str(sum(scores))
    return totals
