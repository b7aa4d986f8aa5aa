"""Severity, competing hazards and the exact outcome probabilities of one ICU stay.

Severity relaxes from its early to its settled level, s(t) = s_inf + (s_0 - s_inf) exp(-t / tau): given the latents
nothing about it is random. In every hour a patient in the unit may die or leave with hazards that depend on s and on
fixed latents alone, so observations, which depend on the latents too, say nothing about the outcome beyond them, and
the best possible prediction is the probability computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

HORIZON = 960
"""Hours after which every remaining patient leaves the unit."""

FIRST_HOUR = 5
"""Earliest hour at which length of stay and decompensation are predicted."""

LENGTH_EDGES = np.array([0, 24, 48, 72, 96, 120, 144, 168, 192, 336])
"""Lower edges, in hours, of the classes of the remaining length of stay."""

WARD_DELAY = 8
"""Hours between leaving the unit and the earliest death on the ward: longer than any grace that still counts a death
as one in the unit."""

_DEATH_RATE, _DEATH_SLOPE, _AGE_SLOPE = 4.0e-5, 2.1, 0.25
"""Hourly rate of death in the unit at s = 0, its log per unit of s and of standardised age."""
_ARRIVAL_EXCESS, _ARRIVAL_HOURS = 3.0, 24.0
"""How much the rate is raised on arrival and how fast that wanes."""
_LEAVE_RATE, _LEAVE_SLOPE, _LEAVE_LEVEL, _LEAVE_HOURS = 0.045, 3.0, 0.9, 24.0
"""Hourly rate of leaving when well, steepness and level of s at which it halves, hours in which it builds up."""
_WARD_INTERCEPT, _WARD_SLOPE = -4.1, 1.6
_WARD_HOURLY = 1 / 60

_HOURS = np.arange(HORIZON)


@dataclass(frozen=True)
class Course:
    """What decides how a stay goes.

    Attributes:
        early: severity on arrival. settled: severity in the long run. tau: hours of relaxation. age: standardised
            age. pace: how much worse a patient may be and still leave the unit.
    """

    early: float
    settled: float
    tau: float
    age: float
    pace: float

    def severity(self, hours: np.ndarray) -> np.ndarray:
        """Return s at hours after arrival."""
        return self.settled + (self.early - self.settled) * np.exp(-np.asarray(hours, dtype=float) / self.tau)

    @cached_property
    def leaving(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (died, left alive) of ending the stay within the hour [h, h + 1), for h = 0 .. HORIZON - 1."""
        middle = _HOURS + 0.5
        severity = self.severity(middle)
        death = _DEATH_RATE * np.exp(_DEATH_SLOPE * severity + _AGE_SLOPE * self.age)
        death = death * (1 + _ARRIVAL_EXCESS * np.exp(-middle / _ARRIVAL_HOURS))
        alive = _LEAVE_RATE / (1 + np.exp(_LEAVE_SLOPE * (severity - _LEAVE_LEVEL - self.pace)))
        alive = alive * -np.expm1(-((middle / _LEAVE_HOURS) ** 2))
        total = death + alive
        ended = -np.expm1(-total)
        ended[-1] = 1.0
        there = np.concatenate([[1.0], np.cumprod(1 - ended)[:-1]])
        mass = there * ended / total
        return mass * death, mass * alive

    @cached_property
    def ward_death(self) -> np.ndarray:
        """Probability of dying on the ward after leaving the unit in hour h."""
        return 1 / (1 + np.exp(-(_WARD_INTERCEPT + _WARD_SLOPE * self.severity(_HOURS + 0.5) + _AGE_SLOPE * self.age)))

    def draw(self, random: np.random.Generator) -> tuple[int, bool]:
        """Draw the hour in which the stay ends and whether by death."""
        died, alive = self.leaving
        cumulative = np.cumsum(died + alive)
        hour = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
        hour = min(hour, HORIZON - 1)
        return hour, bool(random.random() * (died[hour] + alive[hour]) < died[hour])

    def hospital_death_after(self, hour: int) -> float:
        """Return P(dies in hospital | still in the unit at ``hour``)."""
        died, alive = self.leaving
        return float((died + alive * self.ward_death)[hour:].sum() / (died + alive)[hour:].sum())

    def sampled(self, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth of samples drawn at one uniform hour of the stay.

        One of the hours 5 .. floor(length of stay) is drawn per stay, so a stay that will last long gives each of its
        hours less weight: the chance that a stay ends in hour h, given that hour t was drawn, is proportional to
        P(ends in h) / (h - 4), h >= t.

        Args:
            last: the last hour wanted (the real end of the stay).

        Returns:
            hours (T,), P(class of the remaining stay) (T, 10), P(dies in hospital within 24 hours) (T,).
        """
        hours = np.arange(FIRST_HOUR, last + 1)
        died, alive = self.leaving
        share = np.where(_HOURS >= FIRST_HOUR, 1.0 / np.maximum(_HOURS - FIRST_HOUR + 1, 1), 0.0)
        died, alive = died * share, alive * share
        below = _cumulative(died + alive)
        rest = below[-1] - below[hours]
        edges = np.minimum(hours[:, None] + np.append(LENGTH_EDGES, 10 * HORIZON)[None, :], HORIZON)
        length = np.diff(below[edges], axis=1) / rest[:, None]
        deaths = _cumulative(died)
        soon = deaths[np.minimum(hours + 24, HORIZON)] - deaths[hours]
        ward = np.append(alive * self.ward_death, np.zeros(24))
        for lag in range(24 - WARD_DELAY):  # left lag hours after t, then died on the ward before t + 24
            soon = soon + ward[hours + lag] * ward_delay_cumulative(23 - lag)
        return hours, length, soon / rest


def ward_delay_cumulative(hours: int) -> float:
    """Return P(a death on the ward comes at most so many whole hours after leaving the unit).

    >>> ward_delay_cumulative(7)
    0.0
    """
    return 0.0 if hours < WARD_DELAY else float(1 - (1 - _WARD_HOURLY) ** (hours - WARD_DELAY + 1))


def draw_ward_delay(random: np.random.Generator) -> int:
    """Draw the whole hours between leaving the unit and a death on the ward."""
    return WARD_DELAY - 1 + int(random.geometric(_WARD_HOURLY))


def _cumulative(mass: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(mass)])
