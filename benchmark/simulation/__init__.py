"""A simulated hospital with known outcome probabilities, written as raw MIMIC files.

``people`` draws latents, admissions and outcomes; ``hazards`` holds the exact probabilities; ``vitals``, ``labs``,
``diagnoses``, ``notes``, ``radiology`` and ``films`` draw what is recorded; ``records`` and ``writers`` put it into
files.
"""

from __future__ import annotations

from benchmark.simulation.generator import simulate
from benchmark.simulation.missing import MissingRates

__all__ = ["MissingRates", "simulate"]
