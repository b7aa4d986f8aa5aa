"""What the made raw tables repeat: which items are charted when, and the texts and numbers they show.

A pattern has slots. A slot of the chart is one row of a four-hour round of nursing; one of the laboratory is one row of
a set of panels drawn together. Some slots belong to an item that feeds a channel, the others draw from a long list of
items of falling frequency.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from benchmark.data.channels import items

CHART_HOURS = 4
CHART_ROWS = 206
"""Slots of a round; 34 of them (16.5 %, as in the demo) belong to items that feed a channel."""

LAB_ROWS = 60
"""Slots of the panels; 3.5 of them on average are items that are read (the demo: 4.8 %)."""

POOL = 64
"""Different values of an item."""

CHOICES = 36
"""Items that take turns in a slot."""

OTHER = -1

SPECIMEN = 52033

_HOURLY = (220045, 220210, 220277, 220179, 220180, 220181)
_MONITORED = (220050, 220051, 220052)
_SOMETIMES = (
    223835, 225664, 223951, 224308, 224690, 224689, 220621, 223830, 225309, 225310, 225312, 224639, 223762, 226531,
    226707, 226730, 220274, 220227,
)  # fmt: skip
_WORDS = {
    220739: ("Spontaneously", "To Speech", "To Pain", "None"),
    223901: ("Obeys Commands", "Localizes Pain", "Flex-withdraws", "Abnormal Flexion", "No response"),
    223900: ("Oriented", "Confused", "Inappropriate Words", "Incomprehensible sounds", "No Response-ETT"),
    223951: ("Normal <3 Seconds", "Abnormal >3 Seconds"),
    224308: ("Normal <3 Seconds", "Abnormal >3 Seconds"),
    SPECIMEN: ("ART.", "ART.", "ART.", "VEN.", "MIX."),
}
_NUMBERS = {
    220045: (85, 15), 220210: (19, 4), 220277: (97, 2), 220179: (120, 18), 220180: (62, 12), 220181: (78, 12),
    220050: (120, 20), 220051: (60, 11), 220052: (79, 12), 223761: (98.4, 1), 223762: (36.9, 0.6), 223835: (45, 10),
    226707: (67, 4), 226730: (170, 9), 224639: (82, 20), 226531: (180, 40), 220274: (7.36, 0.07), 223830: (7.38, 0.06),
    50820: (7.38, 0.06), 50817: (95, 4), 50809: (130, 35), 50931: (130, 40), 225664: (140, 40), 220621: (135, 40),
    224690: (19, 4), 224689: (18, 4), 225309: (118, 18), 225310: (60, 11), 225312: (78, 12), 220227: (95, 3),
}  # fmt: skip
_TEXTS = (
    "WNL", "Clear", "Diminished", "1", "Yes", "No", "Done", "Not applicable", "SR (Sinus Rhythm)", "Easily Palpable",
    "Soft", "Present", "Awake/Alert", "Independent", "Side rails up, bed locked",
    "Lifts against gravity, no resistance", "Turned to left side, two pillows", "All Limbs",
    'Patient says "better", family informed', "Oral care given", "Alarms on and checked", "Standard precautions in use",
    "Skin intact", "Nasal cannula", "None", "Regular", "Warm and dry",
    "Family informed",
)  # fmt: skip
_UNITS = ("", "", "", "bpm", "mmHg", "mEq/L", "%", "insp/min", "cmH2O", "mL/min", "°F", "L/min")
_COMMENTS = (
    "", "", "", "", "", "", "", "", "", "", "", "NORMAL.  ", "Result checked and telephoned to the ward.",
    "IF FASTING, 70-100 NORMAL, >125 PROVISIONAL DIABETES.", "___", "Hemolysis,\nmild",
)  # fmt: skip


_FIRST_TAIL = 500_000
_TAIL = {
    "icu/chartevents": range(_FIRST_TAIL, _FIRST_TAIL + 1300),
    "hosp/labevents": range(_FIRST_TAIL, _FIRST_TAIL + 900),
}
"""Items that feed no channel, most frequent first; MIMIC has no such numbers."""


@dataclass(frozen=True)
class Pattern:
    """Slots and items of a table.

    Attributes:
        minute: of each slot after the begin of the round. choices: (slots, `CHOICES`) positions in the list of items,
            `OTHER` for one drawn from the long tail of the list. specimen: number within the set, of each slot.
        itemid: of each item. tail: cumulated frequencies of the items of the tail, which end the list.
        text, number: `POOL` values of each item. unit, low, high: by item. comment: a pool.
    """

    minute: np.ndarray
    choices: np.ndarray
    specimen: np.ndarray
    itemid: np.ndarray
    tail: np.ndarray
    text: pl.Series
    number: pl.Series
    unit: pl.Series
    low: pl.Series
    high: pl.Series
    comment: pl.Series

    def draw(self, slot: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Item of each row from its slot."""
        item = self.choices[slot, rng.integers(0, CHOICES, len(slot))]
        free = np.flatnonzero(item == OTHER)
        item[free] = len(self.itemid) - len(self.tail) + np.searchsorted(self.tail, rng.random(len(free)))
        return item

    def value(self, item: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Position in the pools of values."""
        return item * POOL + rng.integers(0, POOL, len(item))


def chart_pattern(rng: np.random.Generator) -> Pattern:
    """Hourly vital signs, and rounds with coma scale and temperature among many other items."""
    slots = [(60 * hour + 1, (item,)) for hour in range(CHART_HOURS) for item in _HOURLY]
    slots += [(60 * hour + 1, _MONITORED) for hour in range(CHART_HOURS)]
    slots += [(2, (item,)) for item in (220739, 223901, 223900, 223761)]
    slots += [(3, _SOMETIMES), (3, _SOMETIMES)]
    others = np.sort(rng.choice([0, 4, 61, 120, 182, 200], CHART_ROWS - len(slots)))
    slots += [(int(minute), (OTHER,)) for minute in others]
    return _pattern("icu/chartevents", slots, [0] * CHART_ROWS, rng)


def lab_pattern(rng: np.random.Generator) -> Pattern:
    """A chemistry panel with glucose, a blood count, and a blood gas with one row that names the specimen."""
    other = (0, (OTHER,))
    slots = [*[other] * 15, (0, (50931,)), *[other] * 24]
    gas = (7, (OTHER,))
    slots += [gas, (7, (50820,)), (7, (50809, 50817, OTHER, OTHER)), *[gas] * 8, (7, (SPECIMEN,)), *[gas] * 8]
    return _pattern("hosp/labevents", slots, [0] * 20 + [1] * 20 + [2] * 20, rng)


def _pattern(
    table: str, slots: list[tuple[int, tuple[int, ...]]], specimen: list[int], rng: np.random.Generator
) -> Pattern:
    """Slots are minute and item numbers that take turns."""
    own, tail = _listed(table), _TAIL[table]
    known = {item: index for index, item in enumerate(own)} | {OTHER: OTHER}
    choices = np.array([[known[turn[i % len(turn)]] for i in range(CHOICES)] for _, turn in slots])
    frequency = 1 / (np.arange(len(tail)) + 20.0)
    itemid = np.array([*own, *tail])
    values = [_values(int(item), rng) for item in itemid]
    low = rng.integers(1, 60, len(itemid))
    units = {item.itemid: item.units[0] if item.units else "" for item in items()}
    return Pattern(
        minute=np.array([minute for minute, _ in slots]),
        choices=choices,
        specimen=np.array(specimen),
        itemid=itemid,
        tail=np.cumsum(frequency) / frequency.sum(),
        text=_pool(text for texts, _ in values for text in texts),
        number=_pool(number for _, numbers in values for number in numbers),
        unit=_pool(units.get(item, _UNITS[item % len(_UNITS)]) for item in itemid.tolist()),
        low=_pool(f"{number}" if number % 5 else "" for number in low.tolist()),
        high=_pool(f"{number * 3}" if number % 5 else "" for number in low.tolist()),
        comment=_pool(_COMMENTS),
    )


def _pool(texts: Iterable[str]) -> pl.Series:
    """Texts with null for blanks, which are then written as nothing rather than as two quotes."""
    return pl.Series([text or None for text in texts], dtype=pl.String)


def _listed(table: str) -> list[int]:
    own = [item.itemid for item in items() if item.table == table]
    return [*own, SPECIMEN] if table == "hosp/labevents" else own


def _values(item: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Pools of texts and of numbers of an item; about half of the items of the tail are texts without a number."""
    if item in _WORDS or (item >= _FIRST_TAIL and item % 2):
        words = _WORDS.get(item) or [_TEXTS[i] for i in rng.integers(0, len(_TEXTS), 5)]
        chosen = [words[i] for i in rng.integers(0, len(words), POOL)]
        return chosen, [""] * POOL
    mean, spread = _NUMBERS.get(item, (float(rng.integers(2, 150)), 8.0))
    numbers = np.abs(rng.normal(mean, spread, POOL)).round(1 if mean < 60 else 0)
    if mean < 10:
        numbers = np.abs(rng.normal(mean, spread, POOL)).round(2)
    texts = [f"{number:g}" for number in numbers.tolist()]
    return ["___" if item % 7 == 0 and i % 9 == 0 else text for i, text in enumerate(texts)], texts


def dictionaries() -> dict[str, pl.DataFrame]:
    """The item dictionaries."""
    names = {item.itemid: item.label for item in items()} | {SPECIMEN: "Specimen Type"}
    found = {}
    for table, name in (("icu/chartevents", "icu/d_items"), ("hosp/labevents", "hosp/d_labitems")):
        numbers = [*_listed(table), *_TAIL[table]]
        labels = [names.get(item, f"Other item {item}") for item in numbers]
        found[name] = pl.DataFrame({"itemid": numbers, "label": labels, "fluid": "Blood", "category": "Any"})
    return found
