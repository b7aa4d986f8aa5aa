"""Bedside charting of one stay: rows of ``chartevents`` and ``outputevents``.

The rows carry what makes the real table awkward on purpose: Fahrenheit beside Celsius, inches beside centimetres,
pounds, oxygen as percent and as fraction, arterial and cuff pressures of the same minute, scores as text, outliers
and blanks.
"""

from __future__ import annotations

import numpy as np

from benchmark.simulation.people import HOUR, Patient, Stay
from benchmark.simulation.signals import BLANK, FROM_NUMBER, TEXTS, Rows, Signals

_ROUTINE, _SPARSE, _OXYGEN, _REFILL = 0.92, 0.28, 0.06, 0.03
_OUTLIER, _NULL = 0.0012, 0.003
_OUTLIERS = {
    220045: 0.0,
    220050: 999.0,
    220179: 0.0,
    220277: 0.0,
    220210: 400.0,
    223761: 9.8,
    220051: -12.0,
    223835: 5.0,
}

EYE, MOTOR, VERBAL, REFILL = (
    TEXTS.index("None"),
    TEXTS.index("No response"),
    TEXTS.index("No Response"),
    TEXTS.index("Normal <3 Seconds"),
)
INTUBATED = TEXTS.index("No Response-ETT")


class Chart:
    """Collects the rows of one stay, keeping every charted minute inside it."""

    def __init__(self, patient: Patient, hadm_id: int, stay: Stay, random: np.random.Generator) -> None:
        self.stay, self.random = stay, random
        self.keys = {"subject_id": patient.subject_id, "hadm_id": hadm_id, "stay_id": stay.stay_id}
        self.rows = Rows()
        self.caregivers = 10_000 + random.integers(0, 89_999, 3)

    def times(self, hours: np.ndarray, minutes: np.ndarray | None = None) -> np.ndarray:
        """Return seconds of charting within the given whole hours of the stay, on full minutes."""
        minutes = self.random.integers(2, 59, len(hours)) if minutes is None else minutes
        times = self.stay.intime + hours * HOUR + minutes * 60
        return times - times % 60

    def add(
        self, item: int, times: np.ndarray, values: np.ndarray, text: np.ndarray | int = FROM_NUMBER, late: int = 1
    ) -> None:
        """Append rows of one item; ``late`` is the usual number of minutes until they are stored."""
        keep = (times >= self.stay.intime) & (times <= self.stay.outtime)
        times, values = times[keep], np.array(values, dtype=float)[keep]
        text = text[keep] if isinstance(text, np.ndarray) else np.full(len(times), text)
        random = self.random
        odd = random.random(len(times))
        if item in _OUTLIERS:
            values[odd < _OUTLIER] = _OUTLIERS[item]
        null = odd > 1 - _NULL
        values[null], text = np.nan, np.where(null, BLANK, text)
        warning = (odd < _OUTLIER).astype(int)
        store = times + 60 * (late + random.integers(0, 20, len(times)))
        caregiver = self.caregivers[(times // (12 * HOUR)) % 3]
        self.rows.extend(
            len(times),
            **self.keys,
            caregiver_id=caregiver,
            time=times,
            store=store,
            itemid=item,
            number=values,
            text=text,
            warning=warning,
        )


def chart_stay(chart: Chart, latent: np.ndarray, signals: Signals, patient: Patient) -> None:
    """Draw the bedside rows of a stay."""
    random = chart.random
    hours = np.arange(len(signals.hours))
    routine = (random.random(len(hours)) < _ROUTINE) | (hours == 0)
    _pressures(chart, signals, hours[routine], latent)
    _routine(chart, signals, hours[routine])
    _temperature(chart, signals, hours)
    _consciousness(chart, signals, hours, latent)
    _oxygen(chart, signals, hours)
    _body(chart, signals, patient, hours)
    _refill(chart, signals, hours)


def _some(chart: Chart, hours: np.ndarray, share: float) -> np.ndarray:
    return hours[chart.random.random(len(hours)) < share]


def _routine(chart: Chart, signals: Signals, hours: np.ndarray) -> None:
    """Heart rate, respiration, saturation: charted together, each sometimes forgotten."""
    minutes = chart.random.integers(2, 6, len(hours))
    level, random = signals.level, chart.random
    keep = random.random((3, len(hours))) < np.array([[0.985], [0.97], [0.95]])
    keep[0, hours == 0] = True  # every stay is observed in its first hour
    times = chart.times(hours, minutes)
    chart.add(220045, times[keep[0]], np.round(np.clip(level["heart_rate"][hours[keep[0]]], 25, 210)))
    rate = np.round(np.clip(level["respiratory_rate"], 4, 55))
    chart.add(220210, times[keep[1]], rate[hours[keep[1]]])
    chart.add(220277, times[keep[2]], np.round(np.clip(level["saturation"][hours[keep[2]]], 55, 100)))
    ventilator = _some(chart, hours, 0.12)
    when = chart.times(ventilator)
    chart.add(224690, when, np.clip(rate[ventilator] + random.integers(-1, 2, len(ventilator)), 3, 60))
    chart.add(224689, when[::2], np.clip(rate[ventilator[::2]] - random.integers(0, 3, len(ventilator[::2])), 1, 60))
    chart.add(224422, when[::9], np.clip(rate[ventilator[::9]], 3, 60))


def _pressures(chart: Chart, signals: Signals, hours: np.ndarray, latent: np.ndarray) -> None:
    """Arterial line in sicker patients with a cuff beside it now and then; otherwise the cuff alone, seldom by hand."""
    random, level = chart.random, signals.level
    systolic = np.clip(level["systolic"], 45, 240)
    diastolic = np.clip(level["diastolic"], 20, systolic - 8)
    times = chart.times(hours, random.integers(2, 6, len(hours)))
    arterial = random.random() < 0.15 + 0.3 / (1 + np.exp(-2 * signals.severity[0]))
    kept = random.random(len(hours)) < 0.97

    def add(items: tuple[int, ...], at: np.ndarray, spread: float) -> None:
        upper = systolic[hours[at]] + spread * random.standard_normal(len(at))
        lower = np.minimum(diastolic[hours[at]] + spread * random.standard_normal(len(at)), upper - 5)
        mean = lower + (upper - lower) / 3 + random.standard_normal(len(at))
        for item, values in zip(items, (upper, lower, mean), strict=False):
            chart.add(item, times[at], np.round(values))

    if arterial:
        items = (220050, 220051, 220052) if random.random() < 0.93 else (225309, 225310, 225312)
        add(items, np.flatnonzero(kept), 1.0)
        add((220179, 220180, 220181), np.flatnonzero(kept & (random.random(len(hours)) < 0.2)), 5.0)
        if latent[0] > 1.5:
            balloon = np.flatnonzero(kept & (random.random(len(hours)) < 0.1))
            chart.add(224322, times[balloon], np.round(diastolic[hours[balloon]] + 15))
    else:
        add((220179, 220180, 220181), np.flatnonzero(kept), 2.0)
    manual = random.random(len(hours))
    add((224167, 224643), np.flatnonzero(manual < 0.002), 4.0)
    add((227243, 227242), np.flatnonzero(manual > 0.998), 4.0)


def _temperature(chart: Chart, signals: Signals, hours: np.ndarray) -> None:
    """Mostly Fahrenheit, some Celsius, a few stays from a catheter."""
    at = _some(chart, hours, _SPARSE)
    times, values = chart.times(at), np.clip(signals.level["temperature"][at], 30, 42)
    kind = chart.random.random()
    if kind > 0.96:
        chart.add(226329, times, np.round(values, 1))
        return
    celsius = (chart.random.random(len(at)) < 0.06) | (kind < 0.05)
    chart.add(223762, times[celsius], np.round(values[celsius], 1))
    chart.add(223761, times[~celsius], np.round(values[~celsius] * 1.8 + 32, 1))


def _consciousness(chart: Chart, signals: Signals, hours: np.ndarray, latent: np.ndarray) -> None:
    """Three scores as text at the same minute; an intubated patient cannot answer."""
    random = chart.random
    at = _some(chart, hours, _SPARSE)
    times, level = chart.times(at), signals.level["consciousness"][at]
    eye = np.digitize(level, [6.5, 8.5, 11.5])
    motor = np.digitize(level, [3.5, 4.7, 5.9, 7.3, 9.6])
    verbal = np.digitize(level, [6.2, 7.6, 9.0, 12.4])
    tube = 0.8 * signals.severity[at] + 0.6 * latent[1] + 0.4 * random.standard_normal() > 1.3
    verbal_text = np.where(tube, INTUBATED, VERBAL + verbal)
    chart.add(220739, times, eye + 1, EYE + eye)
    chart.add(223901, times, motor + 1, MOTOR + motor)
    chart.add(223900, times, np.where(tube, 1, verbal + 1), verbal_text)


def _oxygen(chart: Chart, signals: Signals, hours: np.ndarray) -> None:
    """Inspired oxygen as percent, in some stays as fraction."""
    at = _some(chart, hours, _OXYGEN)
    percent = 5 * np.round(20 * np.clip(signals.level["oxygen"][at], 0.21, 1.0))
    values = np.maximum(percent, 21)
    chart.add(223835, chart.times(at), np.where(chart.random.random(len(at)) < 0.12, values / 100, values))


def _body(chart: Chart, signals: Signals, patient: Patient, hours: np.ndarray) -> None:
    """Weight on admission and daily, height in about half of the stays."""
    random = chart.random
    weight = np.clip(signals.level["weight"], 35, 200)
    first = chart.times(np.zeros(1, dtype=int))
    if random.random() < 0.85:
        chart.add(226512, first, np.round(weight[:1], 1))
        if random.random() < 0.6:
            chart.add(226531, first, np.round(weight[:1] / 0.453592, 1))
    daily = hours[(hours % 24 == 23) & (random.random(len(hours)) < 0.5)]
    chart.add(224639, chart.times(daily), np.round(weight[daily], 1))
    if random.random() < 0.5:
        height = 163 + 13 * patient.male + 6.5 * random.standard_normal(1)
        chart.add(226707, first, np.round(height / 2.54))
        chart.add(226730, first, np.round(height))


def _refill(chart: Chart, signals: Signals, hours: np.ndarray) -> None:
    """Capillary refill of both sides; most rows are blank, as in the real table."""
    at = _some(chart, hours, _REFILL)
    random, times = chart.random, chart.times(at)
    slow = random.random(len(at)) < 1 / (1 + np.exp(3.5 - 1.5 * signals.severity[at]))
    for item in (223951, 224308):
        text = np.where(random.random(len(at)) < 0.15, REFILL + slow, BLANK)
        chart.add(item, times, np.full(len(at), np.nan), text)


def outputs(chart: Chart, signals: Signals) -> Rows:
    """Draw some rows of urine output, which no channel uses."""
    rows, random = Rows(), chart.random
    at = np.flatnonzero(random.random(len(signals.hours)) < 0.1)
    times = chart.times(at)
    at, times = at[times <= chart.stay.outtime], times[times <= chart.stay.outtime]
    volume = np.round(np.exp(4.6 - 0.3 * signals.severity[at] + 0.4 * random.standard_normal(len(at))))
    item = 226559 if random.random() < 0.8 else 226560
    rows.extend(
        len(at),
        **chart.keys,
        caregiver_id=chart.caregivers[0],
        time=times,
        store=times + 300,
        itemid=item,
        number=volume,
    )
    return rows
