"""The stated outcome probabilities against independent simulation and against what happens to the patients."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.simulation import MissingRates, hazards
from benchmark.simulation.diagnoses import draw_codes, phenotype_chance
from benchmark.simulation.hazards import FIRST_HOUR, LENGTH_EDGES, WARD_DELAY, Course
from benchmark.simulation.people import HOUR, draw_patient
from benchmark.simulation.radiology import draw_studies, finding_chance
from benchmark.simulation.truth import unfavourable_chance

COURSE = Course(early=1.6, settled=1.1, tau=30.0, age=0.5, pace=0.2)


@pytest.fixture(scope="module")
def replicates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hour in which the stay ends, died in the unit, hour of death or a large number) of one course, hour by hour."""
    random, count = np.random.default_rng(1), 40_000
    died, alive = COURSE.leaving
    there = np.cumsum((died + alive)[::-1])[::-1]
    end, unit_death = np.full(count, -1), np.zeros(count, bool)
    for hour in range(hazards.HORIZON):
        waiting = np.flatnonzero(end < 0)
        if not len(waiting):
            break
        chance = random.random(len(waiting)) * there[hour]
        unit_death[waiting[chance < died[hour]]] = True
        end[waiting[chance < died[hour] + alive[hour]]] = hour
    ward = ~unit_death & (random.random(count) < COURSE.ward_death[end])
    delay = np.array([hazards.draw_ward_delay(random) for _ in range(count)])
    death = np.where(unit_death, end, np.where(ward, end + delay, 10**6))
    return end, unit_death, death


def test_the_distribution_of_the_end_is_one():
    died, alive = COURSE.leaving
    assert (died + alive).sum() == pytest.approx(1, abs=1e-12)
    assert (died >= 0).all() and (alive >= 0).all()


def test_hospital_death_after_48_hours(replicates):
    end, _, death = replicates
    there = end >= 48
    assert COURSE.hospital_death_after(48) == pytest.approx((death[there] < 10**6).mean(), abs=0.02)


def test_samples_at_a_random_hour(replicates):
    """Draw one hour per replicate as the tasks do; compare with the stated chances at each hour."""
    end, _, death = replicates
    random = np.random.default_rng(2)
    inside = end >= FIRST_HOUR
    end, death = end[inside], death[inside]
    drawn = FIRST_HOUR + np.floor(random.random(len(end)) * (end - FIRST_HOUR + 1)).astype(int)
    hours, length, soon = COURSE.sampled(int(end.max()))
    at = drawn - FIRST_HOUR
    assert (hours[at] == drawn).all()
    bucket = np.searchsorted(LENGTH_EDGES, end - drawn, side="right") - 1
    np.testing.assert_allclose(length[at].mean(axis=0), np.bincount(bucket, minlength=10) / len(end), atol=0.01)
    assert soon[at].mean() == pytest.approx((death - drawn < 24).mean(), abs=0.01)
    early = drawn < 24
    assert soon[at][early].mean() == pytest.approx((death - drawn < 24)[early].mean(), abs=0.015)
    np.testing.assert_allclose(length.sum(axis=1), 1, atol=1e-9)


def test_a_death_on_the_ward_comes_later_than_any_grace():
    random = np.random.default_rng(0)
    delays = np.array([hazards.draw_ward_delay(random) for _ in range(20_000)])
    assert delays.min() == WARD_DELAY
    assert hazards.ward_delay_cumulative(30) == pytest.approx((delays <= 30).mean(), abs=0.015)


def _standard_score(outcomes: list, chances: list) -> np.ndarray:
    y, p = np.asarray(outcomes, dtype=float), np.asarray(chances, dtype=float)
    return (y - p).sum(axis=0) / np.sqrt((p * (1 - p)).sum(axis=0) + 1e-9)


@pytest.fixture(scope="module")
def patients() -> list:
    return [draw_patient(3, number) for number in range(2500)]


def test_outcomes_happen_as_often_as_stated(patients):
    random = np.random.default_rng(4)
    seen: dict[str, list[tuple]] = {"ihm": [], "rea": [], "dec": [], "los": []}
    for stay, admission in ((a.cohort_stay, a) for p in patients for a in p.admissions if a.cohort_stay):
        if stay.hour >= 48:
            seen["ihm"].append((admission.died, stay.course.hospital_death_after(48)))
        if not stay.died:
            seen["rea"].append((admission.outcome != "none", unfavourable_chance(admission)))
        if stay.hour >= FIRST_HOUR:
            hours, length, soon = stay.course.sampled(stay.hour)
            at = random.integers(len(hours))
            elapsed = (admission.discharged - stay.intime) / HOUR - hours[at]
            seen["dec"].append((admission.died and elapsed < 24, soon[at]))
            rest = (stay.outtime - stay.intime) / HOUR - hours[at]
            seen["los"].append((np.arange(10) == np.searchsorted(LENGTH_EDGES, rest, side="right") - 1, length[at]))
    for task, pairs in seen.items():
        assert (np.abs(_standard_score(*zip(*pairs, strict=True))) < 3.7).all(), task


def test_codes_and_findings_happen_as_often_as_stated(patients):
    from benchmark.data.phenotypes import phenotypes_of

    random = np.random.default_rng(5)
    coded, chances, labels, findings = [], [], [], []
    for patient in patients[:1200]:
        for admission in patient.admissions:
            codes = draw_codes(patient, admission, random)
            if codes:
                hit = {index for code, version in codes for index in phenotypes_of(code, version)}
                coded.append([index in hit for index in range(25)])
                chances.append(phenotype_chance(admission.latent))
        for study in draw_studies(patient, 3, MissingRates()):
            labels.append(study.labels)
            findings.append(finding_chance(study.strength))
    assert (np.abs(_standard_score(coded, chances)) < 4).all()
    labels, findings = np.array(labels), np.array(findings)
    for index in range(14):
        known = labels[:, index] >= 0
        assert abs(_standard_score(labels[known, index], findings[known, index])) < 4


def test_unfavourable_events_agree_with_the_recorded_times(patients):
    """A cohort stay without an event is followed by no cohort admission and no death for 30 days."""
    month = 30 * 86_400
    for patient in patients:
        cohort = [admission for admission in patient.admissions if admission.cohort_stay]
        for admission, following in zip(cohort, [*cohort, None][1:], strict=True):
            if admission.died:
                assert following is None and patient.death == admission.discharged
                continue
            back = following is not None and 0 < following.admitted - admission.discharged <= month
            dead = patient.death is not None and patient.death - admission.discharged < month
            assert back == (admission.outcome == "return")
            assert (back or dead) == (admission.outcome in ("return", "decease"))
