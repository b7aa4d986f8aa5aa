"""Which hour of a stay a prediction is made at, for the tasks that predict at one random hour.

The draw hashes task and stay number, so that it neither depends on the order of rows nor on which other stays exist.
"""

from __future__ import annotations

import hashlib
import math

SEED = 42
FIRST_HOUR = 5
"""Earliest hour of a prediction: the first whole hour after the fourth."""


def last_hour(hours: float) -> int:
    """Last whole hour within `hours`; a length that misses a whole number by rounding alone reaches it.

    >>> last_hour(71.9999999999), last_hour(71.9), last_hour(72.0)
    (72, 71, 72)
    """
    return math.floor(hours + 1e-6)


def first_hour(first_event: float) -> int:
    """First whole hour after the fourth that is strictly later than the stay's first event.

    >>> first_hour(0.2), first_hour(5.0), first_hour(7.4)
    (5, 6, 8)
    """
    return max(FIRST_HOUR, math.floor(first_event) + 1)


def draw_hour(task: str, stay_id: int, first: int, last: int) -> int | None:
    """One of the hours first..last, each as likely; None if there is none.

    >>> draw_hour("los", 30000001, 5, 29), draw_hour("dec", 30000001, 5, 29), draw_hour("los", 30000001, 5, 4)
    (24, 27, None)
    """
    if last < first:
        return None
    digest = hashlib.sha256(f"{SEED}:{task}:{stay_id}".encode()).digest()
    return first + int.from_bytes(digest[:8], "big") % (last - first + 1)
