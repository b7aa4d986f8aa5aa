"""Scaling of the 12 continuous columns with statistics of the training stays, or with fixed figures.

Of training stays only observed hourly values count, each stay once over its whole length, after cleaning. Flags and
one-hot columns stay 0 and 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmark.data.channels import CHANNELS, CONTINUOUS, CONTINUOUS_COLUMNS, NORMAL_VALUES
from benchmark.data.discretiser import StayEvents, last_events_of_stays
from benchmark.errors import UserError

CLIP = 10.0
"""Largest standardised value, in standard deviations."""

USUAL_SPREAD = MappingProxyType(
    {
        "Diastolic blood pressure": 15.0,
        "Fraction inspired oxygen": 0.2,
        "Glucose": 50.0,
        "Heart Rate": 20.0,
        "Height": 10.0,
        "Mean blood pressure": 15.0,
        "Oxygen saturation": 5.0,
        "Respiratory rate": 6.0,
        "Systolic blood pressure": 20.0,
        "Temperature": 1.0,
        "Weight": 25.0,
        "pH": 0.1,
    }
)
"""Round spreads of adults in intensive care, in each channel's unit. They stand in for a standard deviation that cannot
be learned, so that the values of other patients come out a few units from 0."""

LEAST_SPREAD = 0.01
"""A standard deviation below this share of the usual spread is that of a constant."""

_SPREADS = np.array([USUAL_SPREAD[CHANNELS[index].name] for index in CONTINUOUS])


MIMIC3 = MappingProxyType(
    {
        "Diastolic blood pressure": (61.737467, 221.896479),
        "Fraction inspired oxygen": (0.294199, 0.171493),
        "Glucose": (140.386997, 1766.741213),
        "Heart Rate": (85.538539, 57.116930),
        "Height": (169.803502, 6.222632),
        "Mean blood pressure": (79.596408, 148.530135),
        "Oxygen saturation": (104.981084, 5135.238733),
        "Respiratory rate": (19.867925, 7.321329),
        "Systolic blood pressure": (122.397567, 141.398856),
        "Temperature": (36.943991, 5.277915),
        "Weight": (83.762090, 27.233083),
        "pH": (7.207268, 1.656827),
    }
)
"""Means and standard deviations that the public MIMIC-III benchmark ships: of MIMIC-III, imputed hours and outliers
included. The published pipeline scales MIMIC-IV with them and limits nothing."""

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Standardiser:
    """Statistics per continuous channel, each of length 12.

    Attributes:
        mean, std: mean and population standard deviation, or, where `fitted` is False, the channel's normal value and
            its usual spread.
        count: observed hours. fitted: whether there are at least two of them and they differ.
        clip: largest absolute standardised value. origin: what the statistics are of.
    """

    mean: np.ndarray
    std: np.ndarray
    count: np.ndarray
    fitted: np.ndarray
    clip: float = CLIP
    origin: str = "observed hours of the training stays, each stay once over its whole length, after cleaning"

    @classmethod
    def of_mimic3(cls) -> Standardiser:
        """Fixed statistics of another database. Values are limited only to what a float16 store can hold."""
        mean, std = np.array([MIMIC3[CHANNELS[index].name] for index in CONTINUOUS]).T
        count, fitted = np.zeros(len(mean), dtype=np.int64), np.ones(len(mean), dtype=bool)
        return cls(mean, std, count, fitted, _LARGEST, "the MIMIC-III benchmark's stays, not these")

    @property
    def not_fitted(self) -> list[str]:
        """Names of the channels that the training stays say too little about."""
        return [CHANNELS[index].name for index, fitted in zip(CONTINUOUS, self.fitted, strict=True) if not fitted]

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Standardised copy of hourly arrays (..., 76), limited to `clip`."""
        out = np.array(values, dtype=np.float32)
        columns = list(CONTINUOUS_COLUMNS)
        scaled = (out[..., columns].astype(np.float64) - self.mean) / self.std
        out[..., columns] = np.clip(scaled, -self.clip, self.clip)
        return out

    def save(self, path: Path, stays: Iterable[int], series: str) -> None:
        """Writes the statistics as JSON.

        Args:
            stays: the training stays; only their number and hash are kept.
            series: fingerprint of the series that were scaled with these statistics, so that the file names its data.
        """
        stays = sorted(int(stay) for stay in stays)
        digest = hashlib.sha256(",".join(map(str, stays)).encode()).hexdigest()
        channels = [
            {
                "channel": CHANNELS[index].name,
                "column": CONTINUOUS_COLUMNS[position],
                "mean": float(self.mean[position]),
                "std": float(self.std[position]),
                "count": int(self.count[position]),
                "fitted": bool(self.fitted[position]),
            }
            for position, index in enumerate(CONTINUOUS)
        ]
        content = {
            "format": 1,
            "fitted_on": self.origin,
            "std": "population (divided by the count)",
            "clip": self.clip,
            "not_fitted": "fewer than 2 observed hours, or a standard deviation below "
            f"{LEAST_SPREAD:.0%} of the channel's usual spread: mean is the normal value, std the usual spread",
            "training_stays": len(stays),
            "training_stays_sha256": digest,
            "series_fingerprint": series,
            "channels": channels,
        }
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Standardiser:
        """Reads what `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        channels = content["channels"]
        expected = [CHANNELS[index].name for index in CONTINUOUS]
        if (found := [channel["channel"] for channel in channels]) != expected:
            raise UserError(f"{path}: channels {', '.join(found)}; {', '.join(expected)} expected")
        columns = (np.array([channel[key] for channel in channels]) for key in ("mean", "std", "count", "fitted"))
        return cls(*columns, content["clip"], content["fitted_on"])


class StandardiserFit:
    """Collects the observed hourly values of stays, some at a time."""

    def __init__(self) -> None:
        self.count = np.zeros(len(CONTINUOUS))
        self.sum = np.zeros(len(CONTINUOUS))
        self.squares = np.zeros(len(CONTINUOUS))

    def add(self, events: StayEvents, end_hours: np.ndarray) -> None:
        """Adds stays; arguments as for `discretise_stays`."""
        last = last_events_of_stays(events, end_hours)[:, CONTINUOUS]  # (R, 12)
        if not len(events.value):
            return
        observed = last >= 0
        # Distances from the normal value keep the sum of squares exact enough in one pass.
        distance = np.where(observed, events.value[np.maximum(last, 0)] - NORMAL_VALUES[list(CONTINUOUS)], 0.0)
        self.count += observed.sum(0)
        self.sum += distance.sum(0)
        self.squares += (distance**2).sum(0)

    def finish(self) -> Standardiser:
        """The statistics of all stays added so far."""
        seen = np.maximum(self.count, 1)
        shift = self.sum / seen
        std = np.sqrt(np.maximum(self.squares / seen - shift**2, 0.0))
        fitted = (self.count >= 2) & (std >= LEAST_SPREAD * _SPREADS)
        mean = NORMAL_VALUES[list(CONTINUOUS)] + np.where(fitted, shift, 0.0)
        return Standardiser(mean, np.where(fitted, std, _SPREADS), self.count.astype(np.int64), fitted)
