"""What the files' own item dictionaries say about the items that are read."""

from __future__ import annotations

import polars as pl

from benchmark.data.channels import items
from benchmark.data.raw import RawMimic, collect
from benchmark.data.rules import Rules

DICTIONARIES = {"icu/chartevents": "icu/d_items", "hosp/labevents": "hosp/d_labitems"}
"""The table that names the items of each table of events."""


def check_dictionaries(raw: RawMimic, rules: Rules = Rules()) -> dict[str, list[str]]:
    """Compares the channel table with the files' own item dictionaries.

    Returns:
        "missing": items that the dictionary lacks; "renamed": items with another label there; "unlisted": blood glucose
        and pH items of the laboratory that no channel reads, for a person to consider.
    """
    found: dict[str, list[str]] = {"missing": [], "renamed": [], "unlisted": []}
    for table, dictionary in DICTIONARIES.items():
        if not raw.has(dictionary):
            continue
        labels = dict(collect(raw.scan(dictionary, ["itemid", "label"]), dictionary).rows())
        for item in items(rules):
            if item.table == table and item.itemid not in labels:
                found["missing"].append(f"{item.itemid} {item.label}")
            elif item.table == table and str(labels[item.itemid]).strip().lower() != item.label.lower():
                found["renamed"].append(f"{item.itemid} {item.label}: {labels[item.itemid]}")
    if raw.has("hosp/d_labitems"):
        known = [item.itemid for item in items(rules)]
        label = pl.col("label").str.strip_chars().str.to_lowercase()
        blood = pl.col("fluid").str.strip_chars().str.to_lowercase() == "blood"
        alike = raw.scan("hosp/d_labitems", ["itemid", "label"], optional=["fluid"]).filter(
            (label.str.contains("glucose") | (label == "ph")) & blood & ~pl.col("itemid").is_in(known)
        )
        found["unlisted"] = [f"{item} {name}" for item, name, _ in sorted(collect(alike, "hosp/d_labitems").rows())]
    return found
