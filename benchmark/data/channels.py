"""The 17 clinical channels and the 76 columns of the hourly array: the only place that knows column numbers.

Channels, columns and their spelling follow the public MIMIC benchmark that the compared papers use: value columns of
the channels in byte order of their names (one column per category for categorical channels), then one observed-flag a
channel. `channels.csv` lists the MIMIC-IV items that feed each channel, how their values are converted, the units that
they are charted in and which setting of the switch `items` reads them; add a row there to read a further item.

Coma scale texts exist in two spellings, one per bedside system. MIMIC-IV holds only the newer one, so both spellings of
a level, imputed normals too, go to the newer spelling's column and the older columns stay zero; with
`levels=as_written` they do not, and an imputed normal differs from an observed one.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from types import MappingProxyType

import numpy as np

from benchmark.data.rules import Rules


@dataclass(frozen=True)
class Category:
    """One column of a categorical channel.

    Attributes:
        text: name of the column. score: clinical score of the text.
        written_as: text of the column that receives this text.
    """

    text: str
    score: int
    written_as: str


@dataclass(frozen=True)
class Channel:
    """One measured quantity.

    Attributes:
        name: spelling of the public benchmark.
        normal: value (or category text) that stands in before the first observation.
        bounds: (outlier low, valid low, valid high, outlier high): beyond the outer pair a value is dropped, between
            outer and inner it is clamped. None for categorical channels.
        categories: columns in order, empty for continuous channels.
    """

    name: str
    normal: float | str
    bounds: tuple[float, float, float, float] | None = None
    categories: tuple[Category, ...] = ()

    @property
    def continuous(self) -> bool:
        return not self.categories

    @property
    def width(self) -> int:
        return len(self.categories) or 1


Bounds = tuple[float | None, float | None, float | None, float | None]


@dataclass(frozen=True)
class Item:
    """One MIMIC item that feeds a channel.

    Attributes:
        priority: among values of one minute the lowest number wins.
        rule: how a value is converted, one of `CONVERSIONS`.
        units: units that the item is charted in, the usual one first. bounds: as those of a channel, None: no limit.
    """

    channel: int
    priority: int
    itemid: int
    table: str
    rule: str
    label: str
    units: tuple[str, ...] = ()
    bounds: Bounds = (None, None, None, None)


CONVERSIONS = (
    "number",
    "text",
    "fraction",
    "hundredth",
    "percent",
    "arterial_percent",
    "fahrenheit",
    "celsius",
    "inch",
    "pound",
    "first_of_pair",
    "second_of_pair",
)
"""Ways to convert a value to its channel's unit."""

_MORE_THAN_0 = math.ulp(0.0)


def _categories(*levels: tuple[str, int] | tuple[str, int, str]) -> tuple[Category, ...]:
    return tuple(Category(level[0], level[1], level[2] if len(level) == 3 else level[0]) for level in levels)


EYE, MOTOR, TOTAL, VERBAL = (
    f"Glascow coma scale {part}" for part in ("eye opening", "motor response", "total", "verbal response")
)

CHANNELS: tuple[Channel, ...] = (
    Channel("Capillary refill rate", "0.0", categories=_categories(("0.0", 0), ("1.0", 1))),
    Channel("Diastolic blood pressure", 59.0, (0, 0, 375, 375)),
    Channel("Fraction inspired oxygen", 0.21, (0.2, 0.21, 1, 1.1)),
    Channel(
        EYE,
        "4 Spontaneously",
        categories=_categories(
            ("To Pain", 2),
            ("3 To speech", 3, "To Speech"),
            ("1 No Response", 1, "None"),
            ("4 Spontaneously", 4, "Spontaneously"),
            ("None", 1),
            ("To Speech", 3),
            ("Spontaneously", 4),
            ("2 To pain", 2, "To Pain"),
        ),
    ),
    Channel(
        MOTOR,
        "6 Obeys Commands",
        categories=_categories(
            ("1 No Response", 1, "No response"),
            ("3 Abnorm flexion", 3, "Abnormal Flexion"),
            ("Abnormal extension", 2),
            ("No response", 1),
            ("4 Flex-withdraws", 4, "Flex-withdraws"),
            ("Localizes Pain", 5),
            ("Flex-withdraws", 4),
            ("Obeys Commands", 6),
            ("Abnormal Flexion", 3),
            ("6 Obeys Commands", 6, "Obeys Commands"),
            ("5 Localizes Pain", 5, "Localizes Pain"),
            ("2 Abnorm extensn", 2, "Abnormal extension"),
        ),
    ),
    Channel(
        TOTAL,
        "15",
        categories=_categories(*((str(sum_), sum_) for sum_ in (11, 10, 13, 12, 15, 14, 3, 5, 4, 7, 6, 9, 8))),
    ),
    Channel(
        VERBAL,
        "5 Oriented",
        categories=_categories(
            ("1 No Response", 1, "No Response"),
            ("No Response", 1),
            ("Confused", 4),
            ("Inappropriate Words", 3),
            ("Oriented", 5),
            ("No Response-ETT", 1),
            ("5 Oriented", 5, "Oriented"),
            ("Incomprehensible sounds", 2),
            ("1.0 ET/Trach", 1, "No Response-ETT"),
            ("4 Confused", 4, "Confused"),
            ("2 Incomp sounds", 2, "Incomprehensible sounds"),
            ("3 Inapprop words", 3, "Inappropriate Words"),
        ),
    ),
    Channel("Glucose", 128.0, (0, 33, 2000, 2200)),
    Channel("Heart Rate", 86.0, (0, 0, 350, 390)),
    Channel("Height", 170.0, (0, 0, 240, 275)),
    Channel("Mean blood pressure", 77.0, (0, 14, 330, 375)),
    Channel("Oxygen saturation", 98.0, (_MORE_THAN_0, 0, 100, 150)),
    Channel("Respiratory rate", 19.0, (0, 0, 300, 330)),
    Channel("Systolic blood pressure", 118.0, (0, 0, 375, 375)),
    Channel("Temperature", 36.6, (14.2, 26, 45, 47)),
    Channel("Weight", 81.0, (0, 0, 250, 250)),
    Channel("pH", 7.4, (6.3, 6.3, 8.4, 10)),
)
"""All channels in column order."""

INDEX: Mapping[str, int] = MappingProxyType({channel.name: index for index, channel in enumerate(CHANNELS)})
"""Number of a channel by its name."""

FIRST_COLUMN = tuple(sum(channel.width for channel in CHANNELS[:index]) for index in range(len(CHANNELS)))
"""First value column of each channel."""

VALUES = sum(channel.width for channel in CHANNELS)
"""Number of value columns (59)."""

WIDTH = VALUES + len(CHANNELS)
"""Columns of the hourly array (76): values, then one observed-flag a channel."""

CONTINUOUS = tuple(index for index, channel in enumerate(CHANNELS) if channel.continuous)
"""Numbers of the 12 continuous channels."""

CONTINUOUS_COLUMNS = tuple(FIRST_COLUMN[index] for index in CONTINUOUS)
"""Their columns, the only ones that are standardised."""


def category_texts(channel: int, rules: Rules = Rules()) -> dict[str, int]:
    """Accepted texts of a categorical channel, in lower case, with the category number that each is written as.

    With `levels=as_written` each spelling keeps its own column.

    >>> category_texts(INDEX[EYE])["2 to pain"], category_texts(INDEX[EYE])["none"]
    (0, 4)
    """
    categories = CHANNELS[channel].categories
    columns = [category.text for category in categories]
    merged = rules.levels == "merged"
    return {
        category.text.lower(): columns.index(category.written_as if merged else category.text)
        for category in categories
    }


def category_scores(channel: int) -> list[int]:
    """Clinical score of each category number of a categorical channel."""
    return [category.score for category in CHANNELS[channel].categories]


@cache
def normal_values(rules: Rules = Rules()) -> np.ndarray:
    """Per channel the value that stands in before the first observation; category number for categorical channels."""
    normal = [
        float(channel.normal) if channel.continuous else category_texts(index, rules)[str(channel.normal).lower()]
        for index, channel in enumerate(CHANNELS)
    ]
    values = np.array(normal, dtype=np.float64)
    values.flags.writeable = False
    return values


NORMAL_VALUES = normal_values()
"""`normal_values` of the default rules."""


def column_names() -> list[str]:
    """Names of the 76 columns, e.g. "Heart Rate", "Glascow coma scale eye opening=None", "observed: pH".

    >>> names = column_names()
    >>> len(names), names[50], names[10], names[75]
    (76, 'Heart Rate', 'Glascow coma scale eye opening=Spontaneously', 'observed: pH')
    """
    values = [
        name
        for channel in CHANNELS
        for name in ([f"{channel.name}={c.text}" for c in channel.categories] or [channel.name])
    ]
    return values + [f"observed: {channel.name}" for channel in CHANNELS]


def _between(low: float, high: float) -> Bounds:
    """Limits that drop `low`, `high` and what lies beyond, and clamp nothing."""
    return math.nextafter(low, math.inf), None, None, math.nextafter(high, -math.inf)


_CLINICAL: Mapping[str, Bounds] = MappingProxyType(
    {
        "Diastolic blood pressure": _between(0, 300),
        "Fraction inspired oxygen": (0.2, None, None, 1),
        "Glucose": (_MORE_THAN_0, None, None, 10000),
        "Heart Rate": _between(0, 300),
        "Height": _between(120, 230),
        "Mean blood pressure": _between(0, 300),
        "Oxygen saturation": (_MORE_THAN_0, None, None, 100),
        "Respiratory rate": _between(0, 70),
        "Systolic blood pressure": _between(0, 400),
        "Temperature": _between(10, 50),
        "Weight": _between(20, 350),
        "pH": (6.3, None, None, 8.4),
    }
)

_CLINICAL_FAHRENHEIT = _between((70 - 32) * 5 / 9, (120 - 32) * 5 / 9)
"""Of values that were charted in Fahrenheit, in Celsius."""


def _item(row: Mapping[str, str], rules: Rules) -> Item:
    """A row of `channels.csv` with the conversion and bounds that the rules give it."""
    units = tuple(unit for unit in row["units"].split("|") if unit)
    item = Item(
        INDEX[row["channel"]],
        int(row["priority"]),
        int(row["itemid"]),
        row["table"],
        _conversion(row["rule"], rules),
        row["label"],
        units,
    )
    channel = CHANNELS[item.channel]
    if not channel.bounds or rules.outliers == "kept":
        return item
    if rules.outliers == "bounds":
        return replace(item, bounds=channel.bounds)
    return replace(item, bounds=_CLINICAL_FAHRENHEIT if item.rule == "fahrenheit" else _CLINICAL[channel.name])


def _conversion(rule: str, rules: Rules) -> str:
    if rules.temperature == "above_79" and rule == "fahrenheit":
        return "celsius"
    if rules.height == "unconverted" and rule == "inch":
        return "number"
    if rules.oxygen_fraction == "always_divided" and rule == "fraction":
        return "hundredth"
    if rules.saturation == "any_specimen" and rule == "arterial_percent":
        return "percent"
    return rule


@cache
def items(rules: Rules = Rules()) -> tuple[Item, ...]:
    """The items of `channels.csv` that the rules read, with their conversions and bounds."""
    text = resources.files("benchmark.data").joinpath("channels.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(_item(row, rules) for row in rows if row["read"] in ("both", rules.items))
