"""Published models under the shared embedding layers, one file a paper, and simple references."""

from __future__ import annotations

from baselines import boosted_trees, m3care, medfuse, mmf, mt, multimodn, references

ENTRIES = (
    medfuse.ENTRY,
    mt.ENTRY,
    m3care.ENTRY,
    mmf.ENTRY,
    multimodn.ENTRY,
    *references.ENTRIES,
    boosted_trees.ENTRY,
)
"""Models of this package, in the order of the tables' columns."""
