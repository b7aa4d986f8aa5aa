"""Latent channel signals of a stay and the bookkeeping of charted rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmark.simulation import tables
from benchmark.simulation.hazards import Course

TEXTS = (
    "None", "To Pain", "To Speech", "Spontaneously",
    "No response", "Abnormal extension", "Abnormal Flexion", "Flex-withdraws", "Localizes Pain", "Obeys Commands",
    "No Response", "Incomprehensible sounds", "Inappropriate Words", "Confused", "Oriented", "No Response-ETT",
    "Normal <3 Seconds", "Abnormal >3 Seconds", "ART.", "VEN.", "___",
)  # fmt: skip
"""Every text that a charted value can be; rows refer to them by position."""

FROM_NUMBER, BLANK = -1, -2
"""Codes of the text column: write the number as text; leave it blank."""

_MEMORY = 0.6  # correlation of the noise of neighbouring hours


@dataclass
class Signals:
    """Hourly channel values of a stay, before measurement.

    Attributes:
        hours: (T,) middle of each hour. severity: (T,). level: channel name -> (T,) values.
    """

    hours: np.ndarray
    severity: np.ndarray
    level: dict[str, np.ndarray]

    @staticmethod
    def draw(latent: np.ndarray, course: Course, length: int, random: np.random.Generator) -> Signals:
        """Draw the signals of the first ``length`` hours."""
        forms = tables.linear("channels")
        hours = np.arange(length) + 0.5
        severity = course.severity(hours)
        scale, noise = tables.column("channels", "scale"), tables.column("channels", "noise")
        person = forms(latent) * scale + tables.column("channels", "personal") * random.standard_normal(len(scale))
        centre = tables.column("channels", "base") + person
        drift = np.outer(severity, tables.column("channels", "severity") * scale)
        values = centre + drift + noise * _correlated(random, length, len(scale))
        return Signals(hours, severity, {name: values[:, column] for column, name in enumerate(forms.names)})


def _correlated(random: np.random.Generator, length: int, channels: int) -> np.ndarray:
    """Return (length, channels) unit-variance noise with memory from hour to hour."""
    fresh = random.standard_normal((length, channels))
    fresh[1:] *= np.sqrt(1 - _MEMORY**2)
    for hour in range(1, length):
        fresh[hour] += _MEMORY * fresh[hour - 1]
    return fresh


@dataclass
class Rows:
    """Charted rows in columns; ``extend`` appends a batch with one common set of keys."""

    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def extend(self, count: int, **values: np.ndarray | int | float) -> None:
        """Append ``count`` rows; scalars are repeated."""
        for name, value in values.items():
            column = value if isinstance(value, np.ndarray) else np.full(count, value)
            self.columns.setdefault(name, []).append(column)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the concatenated columns."""
        return {name: np.concatenate(parts) for name, parts in self.columns.items()}
