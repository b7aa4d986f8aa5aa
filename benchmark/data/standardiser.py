"""Scaling of the 12 continuous columns with statistics of the training stays.

Only observed hourly values count, each stay once over its whole length, after cleaning. Flags and one-hot columns stay
0 and 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.data.channels import CHANNELS, CONTINUOUS, CONTINUOUS_COLUMNS, NORMAL_VALUES
from benchmark.data.discretiser import last_events
from benchmark.errors import UserError

CLIP = 10.0
"""Largest standardised value, in standard deviations."""

FLOOR = 1e-6
"""Smallest standard deviation."""


@dataclass(frozen=True)
class Standardiser:
    """Mean, population standard deviation and number of observed hours per continuous channel, each of length 12.

    A channel that no training stay observed has count 0, its normal value as mean and a standard deviation of 1.
    """

    mean: np.ndarray
    std: np.ndarray
    count: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Standardised copy of hourly arrays (..., 76), clipped to `CLIP`."""
        out = np.array(values, dtype=np.float32)
        columns = list(CONTINUOUS_COLUMNS)
        scaled = (out[..., columns].astype(np.float64) - self.mean) / self.std
        out[..., columns] = np.clip(scaled, -CLIP, CLIP)
        return out

    def save(self, path: Path, stays: Iterable[int]) -> None:
        """Writes the statistics as JSON; of the training stays only number and hash are kept."""
        stays = sorted(int(stay) for stay in stays)
        digest = hashlib.sha256(",".join(map(str, stays)).encode()).hexdigest()
        channels = [
            {
                "channel": CHANNELS[index].name,
                "column": CONTINUOUS_COLUMNS[position],
                "mean": float(self.mean[position]),
                "std": float(self.std[position]),
                "count": int(self.count[position]),
                "fitted": bool(self.count[position]),
            }
            for position, index in enumerate(CONTINUOUS)
        ]
        content = {
            "format": 1,
            "fitted_on": "observed hours of the training stays, each stay once over its whole length, after cleaning",
            "std": "population (divided by the count)",
            "std_floor": FLOOR,
            "clip": CLIP,
            "not_fitted": "mean is the channel's normal value, std is 1",
            "training_stays": len(stays),
            "training_stays_sha256": digest,
            "channels": channels,
        }
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Standardiser:
        """Reads what `save` wrote."""
        channels = json.loads(path.read_text(encoding="utf-8"))["channels"]
        expected = [CHANNELS[index].name for index in CONTINUOUS]
        if (found := [channel["channel"] for channel in channels]) != expected:
            raise UserError(f"{path}: channels {', '.join(found)}; {', '.join(expected)} expected")
        return cls(*(np.array([channel[key] for channel in channels]) for key in ("mean", "std", "count")))


class StandardiserFit:
    """Collects the observed hourly values of one stay after another."""

    def __init__(self) -> None:
        self.count = np.zeros(len(CONTINUOUS))
        self.sum = np.zeros(len(CONTINUOUS))
        self.squares = np.zeros(len(CONTINUOUS))

    def add(self, hour: np.ndarray, channel: np.ndarray, value: np.ndarray, end_hours: float) -> None:
        """Adds a stay; arguments as for `discretise`."""
        last = last_events(hour, channel, end_hours)[:, CONTINUOUS]  # (N, 12)
        if not len(value):
            return
        observed = last >= 0
        # Distances from the normal value keep the sum of squares exact enough in one pass.
        distance = np.where(observed, value[np.maximum(last, 0)] - NORMAL_VALUES[list(CONTINUOUS)], 0.0)
        self.count += observed.sum(0)
        self.sum += distance.sum(0)
        self.squares += (distance**2).sum(0)

    def finish(self) -> Standardiser:
        """The statistics of all stays added so far."""
        seen = np.maximum(self.count, 1)
        shift = self.sum / seen
        variance = np.maximum(self.squares / seen - shift**2, 0.0)
        std = np.where(self.count > 0, np.maximum(np.sqrt(variance), FLOOR), 1.0)
        return Standardiser(NORMAL_VALUES[list(CONTINUOUS)] + shift, std, self.count.astype(np.int64))
