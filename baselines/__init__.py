"""Published models under the shared embedding layers, one file a paper."""

from __future__ import annotations

from baselines import m3care, medfuse, mmf, mt, multimodn

ENTRIES = (medfuse.ENTRY, mt.ENTRY, m3care.ENTRY, mmf.ENTRY, multimodn.ENTRY)
"""Models of this package, in the order of the tables' columns."""
