"""The rules that turn raw files into samples: one setting of every switch, and the two profiles that choose them.

The profile `ref` sets all switches to what the pipeline that was published with FlexCare does when it is run, `fix`
(the default) to what is recommended; each switch can also be set alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from benchmark.data.switches import SWITCHES
from benchmark.errors import UserError
from benchmark.suggest import unknown

PROFILES = ("fix", "ref")

_BY_NAME = {switch.name: switch for switch in SWITCHES}


@dataclass(frozen=True)
class Rules:
    """One setting of every switch; the defaults are the profile `fix`."""

    count_stays: Literal["after_transfers", "before_transfers"] = "after_transfers"
    age: Literal["at_admission", "anchor"] = "at_admission"
    death: Literal["recorded", "by_timestamps"] = "recorded"
    readmission: Literal["next_cohort_admission", "any_admission", "published"] = "next_cohort_admission"
    diagnoses: Literal["as_coded", "joined_with_dictionary"] = "as_coded"
    icd10: Literal["ccs", "gem"] = "ccs"
    hours: Literal["hashed", "shuffled"] = "hashed"
    split: Literal["hashed", "file_order"] = "hashed"
    items: Literal["corrected", "published"] = "corrected"
    events: Literal["inside_stay", "published"] = "inside_stay"
    lab_time: Literal["drawn", "stored"] = "drawn"
    values: Literal["number", "text"] = "number"
    oxygen_fraction: Literal["by_range", "always_divided"] = "by_range"
    temperature: Literal["by_item", "above_79"] = "by_item"
    height: Literal["by_item", "unconverted"] = "by_item"
    saturation: Literal["arterial", "any_specimen"] = "arterial"
    outliers: Literal["bounds", "strict", "kept"] = "bounds"
    same_time: Literal["stored_last", "largest"] = "stored_last"
    levels: Literal["merged", "as_written"] = "merged"
    body_size: Literal["inside_stay", "day_before"] = "inside_stay"
    statistics: Literal["training", "mimic3"] = "training"
    views: Literal["ap", "ap_or_coded"] = "ap"
    film_window: Literal["inside_stay", "day_before"] = "inside_stay"
    film_choice: Literal["smallest_id", "last_in_file"] = "smallest_id"
    film_pixels: Literal["once", "twice"] = "once"
    film_cut: Literal["before", "at"] = "before"
    findings: Literal["mask", "zeros"] = "mask"
    unlabelled: Literal["drop", "keep"] = "drop"
    admission_start: Literal["admittime", "edregtime"] = "admittime"
    sections: Literal["by_headings", "published"] = "by_headings"
    note_source: Literal["same_admission", "previous_admission"] = "same_admission"
    several_notes: Literal["latest", "last_in_file"] = "latest"
    drg_classes: Literal["training", "all_partitions"] = "training"

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))

    @classmethod
    def of_profile(cls, profile: str, settings: Sequence[str] = ()) -> Rules:
        """The rules of a profile with some switches set differently.

        Args:
            profile: "fix" or "ref". settings: texts like "death=by_timestamps".

        Raises:
            UserError: an unknown profile, switch or setting, or a switch that is set twice.

        >>> Rules.of_profile("ref", ["death=recorded"]).differences("ref")
        {'death': 'recorded'}
        """
        if profile not in PROFILES:
            raise UserError(unknown("profile", profile, list(PROFILES)))
        chosen: dict[str, str] = {}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise UserError(f"rule {setting!r}: write NAME=SETTING, e.g. death=by_timestamps")
            _check(name, value)
            if name in chosen:
                raise UserError(f"rule {name} is set twice: {chosen[name]} and {value}")
            chosen[name] = value
        base = {switch.name: getattr(switch, profile) for switch in SWITCHES}
        return cls(**base | chosen)

    def differences(self, profile: str) -> dict[str, str]:
        """The switches that are not set as in a profile."""
        own = asdict(self)
        return {switch.name: own[switch.name] for switch in SWITCHES if own[switch.name] != getattr(switch, profile)}

    @property
    def profile(self) -> str:
        """Name of the profile, with the switches that differ from it, e.g. "fix" or "ref, death=recorded".

        >>> Rules().profile, Rules(outliers="strict").profile
        ('fix', 'fix, outliers=strict')
        """
        nearest = min(PROFILES, key=lambda name: len(self.differences(name)))
        changed = [f"{name}={value}" for name, value in self.differences(nearest).items()]
        return ", ".join([nearest, *changed])


def _check(name: str, value: str) -> None:
    if name not in _BY_NAME:
        raise UserError(unknown("rule", name, list(_BY_NAME)))
    if value not in _BY_NAME[name].settings:
        raise UserError(unknown(f"setting of rule {name}", value, list(_BY_NAME[name].settings)))
