"""Counts over judged rows, batch by batch: what was kept, what was left out and why, and what to look at."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import polars as pl

from benchmark.data.channels import CHANNELS, Item
from benchmark.data.measures import CODE, EARLY, KEPT, REPEATED, UNKNOWN_TEXT, VERDICTS

MOST_TEXTS = 10_000
"""Distinct texts (and units) that are told apart; further ones are counted together."""

SHOWN = 10
"""Most frequent texts of an item that the report shows."""

OTHERS = "(others)"

_Texts = Counter[tuple[int, str]]


class Tally:
    """Counts of judged rows; memory does not grow with their number."""

    def __init__(self) -> None:
        self._verdicts: Counter[tuple[int, int]] = Counter()
        self._repeated: Counter[int] = Counter()
        self._texts: _Texts = Counter()
        self._units: _Texts = Counter()
        self._earliest: dict[int, float] = {}

    def add(self, rows: pl.DataFrame) -> None:
        """Takes in a batch of rows of `chart_rows` or `lab_rows`, all of them, whatever their verdict."""
        counts = rows.group_by("channel", "verdict").len()
        self._verdicts.update({(channel, verdict): number for channel, verdict, number in counts.rows()})
        _add_texts(self._texts, rows.filter(pl.col("verdict") == CODE[UNKNOWN_TEXT]), "text")
        _add_texts(self._units, rows.filter(pl.col("unit").is_not_null()), "unit")
        early = rows.filter(pl.col("verdict") == CODE[EARLY]).group_by("stay_id").agg(pl.col("hour").min())
        for stay, hour in early.rows():
            self._earliest[stay] = min(hour, self._earliest.get(stay, hour))

    def add_repeated(self, repeated: pl.DataFrame) -> None:
        """Takes in the numbers of superseded rows from `one_per_minute`."""
        self._repeated.update(dict(repeated.rows()))

    def earliest(self) -> dict[int, float]:
        """Hour of the first good value before the stay by stay_id, negative; only of stays that have one.

        Only `events=published` sees such values.
        """
        return dict(self._earliest)

    def report(self, items: tuple[Item, ...]) -> dict[str, Any]:
        """All counts as plain data.

        Args:
            items: those that were read.

        Returns:
            "rows": number of rows by channel and verdict, which add up to the rows taken in; "unknown_texts" and
            "other_units": numbers of rows by item and text, the most frequent texts of each item.
        """
        rows: dict[str, dict[str, int]] = {channel.name: {} for channel in CHANNELS}
        for (channel, verdict), number in sorted(self._verdicts.items()):
            rows[CHANNELS[channel].name][VERDICTS[verdict]] = number
        for channel, number in sorted(self._repeated.items()):
            rows[CHANNELS[channel].name][REPEATED] = number
            rows[CHANNELS[channel].name][KEPT] -= number
        labels = {item.itemid: f"{item.itemid} {item.label}" for item in items}
        return {
            "rows": rows,
            "unknown_texts": _by_item(self._texts, labels),
            "other_units": _by_item(self._units, labels),
        }


def _add_texts(texts: _Texts, rows: pl.DataFrame, column: str) -> None:
    for item, text, number in rows.group_by("itemid", column).len().sort("itemid", column).rows():
        known = (item, text) in texts or len(texts) < MOST_TEXTS
        texts[item, text if known else OTHERS] += number


def _by_item(texts: _Texts, labels: dict[int, str]) -> dict[str, dict[str, int]]:
    """By item the most frequent texts with their numbers, and the rest together."""
    found: dict[int, dict[str, int]] = defaultdict(dict)
    # What was counted together comes last, whatever its number.
    ordered = sorted(texts.items(), key=lambda entry: (entry[0][0], entry[0][1] == OTHERS, -entry[1], entry[0][1]))
    for (item, text), number in ordered:
        shown = found[item]
        key = text if len(shown) < SHOWN else OTHERS
        shown[key] = shown.get(key, 0) + number
    return {labels[item]: numbers for item, numbers in found.items()}
