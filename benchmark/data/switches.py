"""The switches of the data rules: wherever the pipeline that was published with FlexCare does something that changes
labels or inputs and should not be done, and where a user may want another choice.

This is the only list of them: the command line, the manifest of a data set and the table in the documentation are made
from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Switch:
    """One rule with its possible settings.

    Attributes:
        name: as typed. about: what it decides. fix, ref: its setting in the two profiles.
        settings: what each setting does.
    """

    name: str
    about: str
    fix: str
    ref: str
    settings: Mapping[str, str]


def _switch(name: str, about: str, fix: str, ref: str, **settings: str) -> Switch:
    return Switch(name, about, fix, ref, MappingProxyType(settings))


SWITCHES: tuple[Switch, ...] = (
    # Stays and labels
    _switch(
        "count_stays",
        "When stays of an admission are counted to keep admissions with one stay",
        "after_transfers",
        "after_transfers",
        after_transfers="after stays with a change of unit were taken out",
        before_transfers="before that, so that a second stay always rules an admission out",
    ),
    _switch(
        "age",
        "Age of a patient",
        "at_admission",
        "anchor",
        at_admission="anchor age plus the years from the anchor year to ICU admission",
        anchor="anchor age, whatever the year of the stay",
    ),
    _switch(
        "death",
        "Death in hospital and in the unit",
        "recorded",
        "by_timestamps",
        recorded="in hospital: expire flag or a time of death; in the unit: not later than 6 h after ICU discharge",
        by_timestamps="in hospital: time of death between admission and discharge; in the unit: time of death, or the "
        "midnight that begins the day of death, within the ICU stay",
    ),
    _switch(
        "readmission",
        "The part of the REA label that is a return within 30 days of discharge",
        "next_cohort_admission",
        "published",
        next_cohort_admission="the patient's next admission with a stay of the cohort, if it begins after discharge",
        any_admission="the patient's next admission of any kind, after discharge",
        published="the next admission with a stay of the cohort, even if it begins before discharge; death after "
        "discharge from the midnight of its day, even if that lies before discharge",
    ),
    _switch(
        "diagnoses",
        "Which coded diagnoses count",
        "as_coded",
        "joined_with_dictionary",
        as_coded="all, by code and ICD version",
        joined_with_dictionary="those whose code is in d_icd_diagnoses, in whatever version; a stay without any is "
        "taken out of all tasks",
    ),
    _switch(
        "icd10",
        "ICD-10-CM codes of the 25 phenotypes",
        "ccs",
        "gem",
        ccs="AHRQ's single-level CCS for ICD-10-CM, later codes by their longest known prefix",
        gem="one code for each ICD-9 code: the last target of the forward equivalence mapping; versions are not told "
        "apart",
    ),
    _switch(
        "hours",
        "The hour of a stay at which LOS and DEC predict",
        "hashed",
        "shuffled",
        hashed="drawn by a hash of task and stay",
        shuffled="the first of each stay in one shuffle of all candidate hours",
    ),
    _switch(
        "split",
        "Partition of a patient",
        "hashed",
        "file_order",
        hashed="by a hash of the patient number, seven to one to two; MIMIC-CXR patients without admission too",
        file_order="by one shuffle over patients in the order of the admissions table; patients without admission are "
        "in no partition and lose their samples",
    ),
    # Time series
    _switch(
        "items",
        "Items that feed the channels",
        "corrected",
        "published",
        corrected="blood and bedside items; capillary refill and the sum of the coma scale have sources",
        published="with urine glucose and the pH of other fluids; no source of capillary refill and coma sum",
    ),
    _switch(
        "events",
        "Events that belong to a stay",
        "inside_stay",
        "published",
        inside_stay="chart events of the stay and laboratory events of the patient from ICU admission to discharge",
        published="events with an admission number of the cohort, those of the stay and the admission's laboratory "
        "events; each task cuts them at its end",
    ),
    _switch(
        "lab_time",
        "When a laboratory value is known",
        "drawn",
        "drawn",
        drawn="when the specimen was drawn",
        stored="when the result was stored",
    ),
    _switch(
        "values",
        "Where a value is read",
        "number",
        "text",
        number="the numeric column; coma scale and capillary refill from the text",
        text="the text column, so that numbers behind a redacted text are lost",
    ),
    _switch(
        "oxygen_fraction",
        "Unit of the inspired oxygen fraction",
        "by_range",
        "always_divided",
        by_range="fractions stay, percentages are divided by 100, other values are dropped",
        always_divided="every value is divided by 100",
    ),
    _switch(
        "temperature",
        "Fahrenheit",
        "by_item",
        "above_79",
        by_item="by item; a Celsius value of 79 or more is taken for Fahrenheit",
        above_79="values of 79 or more are taken for Fahrenheit",
    ),
    _switch(
        "height",
        "Height in inches",
        "by_item",
        "unconverted",
        by_item="converted to centimetres",
        unconverted="taken as it is",
    ),
    _switch(
        "saturation",
        "Oxygen saturation of a blood gas",
        "arterial",
        "any_specimen",
        arterial="only of a specimen that is named arterial",
        any_specimen="of any specimen",
    ),
    _switch(
        "outliers",
        "Implausible values",
        "bounds",
        "kept",
        bounds="dropped beyond wide bounds, clamped between these and narrower ones",
        strict="dropped beyond narrow clinical bounds",
        kept="kept",
    ),
    _switch(
        "same_time",
        "Several values of a channel at one time",
        "stored_last",
        "largest",
        stored_last="the one stored last, then by the quality of the source",
        largest="the largest; of heart rate, mean pressure, respiratory rate and coma scale the last in alphabetical "
        "order",
    ),
    _switch(
        "levels",
        "The two spellings of a level of the coma scale",
        "merged",
        "as_written",
        merged="share a column",
        as_written="have a column each, and imputed normals use the older spelling",
    ),
    _switch(
        "body_size",
        "Height and weight charted before ICU admission",
        "inside_stay",
        "inside_stay",
        inside_stay="are not used",
        day_before="count as hour 0 if charted for the stay within the 24 hours before and not again at hour 0",
    ),
    _switch(
        "statistics",
        "Mean and standard deviation of the continuous channels",
        "training",
        "mimic3",
        training="of observed hours of the training stays",
        mimic3="the fixed figures of the MIMIC-III benchmark",
    ),
    # Films
    _switch(
        "views",
        "Films that count as anterior-posterior",
        "ap",
        "ap",
        ap="view position AP",
        ap_or_coded="and films with a blank view position whose coded view is antero-posterior",
    ),
    _switch(
        "film_window",
        "Films that go with a stay",
        "inside_stay",
        "inside_stay",
        inside_stay="taken in the ICU before the end of the input",
        day_before="those and films of the 24 hours before ICU admission",
    ),
    _switch(
        "film_choice",
        "Which of several films of one moment or, for DIA, of one study; and whose admission is the study's",
        "smallest_id",
        "last_in_file",
        smallest_id="the one with the smallest dicom_id; its own admission, of several the one that began last",
        last_in_file="the one that stands last in the metadata table; the admission of any film of the study, of "
        "several the one that stands last",
    ),
    _switch(
        "film_pixels",
        "How films are shrunk to 256 pixels",
        "once",
        "twice",
        once="in one antialiased step from the original",
        twice="to a width of 512, compressed as JPEG once more, then to 256",
    ),
    _switch(
        "film_cut",
        "End of the ICU series that goes with a film of DIA",
        "before",
        "at",
        before="events strictly before the film",
        at="events up to the moment of the film; events before ICU admission alone are enough to have a series",
    ),
    _switch(
        "findings",
        "Findings that a report does not mention",
        "mask",
        "mask",
        mask="do not count",
        zeros="are negative if the study has any label",
    ),
    _switch(
        "unlabelled",
        "Studies without any usable finding",
        "drop",
        "keep",
        drop="are no samples",
        keep="are samples whose labels are all masked",
    ),
    _switch(
        "admission_start",
        "Begin of an admission when a film or a note is looked up by time",
        "admittime",
        "admittime",
        admittime="admission",
        edregtime="registration in the emergency department, where there was one",
    ),
    # Notes and groups
    _switch(
        "sections",
        "How sections of a discharge summary are found",
        "by_headings",
        "published",
        by_headings="line by line by their headings; case and punctuation stay",
        published="from and to fixed phrases anywhere in the lower-cased text; line ends and punctuation are deleted",
    ),
    _switch(
        "note_source",
        "The summary that holds a sample's history",
        "same_admission",
        "same_admission",
        same_admission="that of the same admission, written at discharge",
        previous_admission="that of the latest earlier admission, ended and charted before the admission to the "
        "ICU (or before the film), so that nothing of the stay can be in it; DRG reads the course as ever",
    ),
    _switch(
        "several_notes",
        "Which of several summaries of an admission",
        "latest",
        "last_in_file",
        latest="the latest by time, then by sequence number",
        last_in_file="the one that stands last in the table; for a course the last that has one",
    ),
    _switch(
        "drg_classes",
        "Classes of DRG",
        "training",
        "all_partitions",
        training="the groups of training admissions, others count as errors; of several codes of an admission the "
        "first",
        all_partitions="the groups of all admissions; of several codes of an admission the last",
    ),
)

NOT_REPRODUCED = (
    "The published list of diagnosis codes is not shipped. Its codes are derived from public tables (CCS 2015 and the "
    "forward equivalence mapping) and agree with it in number, group by group: 767 of ICD-9 and 570 of ICD-10.",
    "The published code stops at a patient without any row in the event tables; here such a stay has no samples.",
    "It stops at a text of the coma scale that it does not know, and at a text that is no number where it wants one; "
    "here the row is dropped and counted.",
    "It stops where the length of stay is a whole number of hours that rounding made a little smaller, since the time "
    "left at the last hour is then below zero; here that is class 0 of LOS.",
    "It stops at a patient all of whose recorded times of death are midnight; here they are times like others.",
    "It stops at a film whose file is missing or broken; here a missing file is left out before a film is chosen, one "
    "that looks broken at its begin or end is chosen last among those of a study or moment, one that cannot be decoded "
    "leaves its sample without a film (in DIA: without a sample), and all are listed.",
    "It stops at a film that was taken after an event before ICU admission and before any in the ICU; here its series "
    "holds imputed values only.",
    "A stay of length zero with an event in that very second is a sample of PHE and REA there; here it is left out.",
    "Of a patient's admissions that begin at the same moment, and of stays that overlap, an unstable sort decides "
    "there which comes first; here the order of the file and the begin of the admission.",
    "A stay that is left out for lack of a diagnosis or a length still counts there where another stay of the patient "
    "overlaps it: its events belong to the other, too, and a film within both can lose its series; here it does not.",
    "A film in two overlapping admissions, or a study with films in two, reads there the summary of that admission "
    "with one whose first film stands last in the metadata table; here of the admission that stands last, or of the "
    "last film.",
    "A section of a summary of which nothing but blanks is left counts as a text there; here as none.",
    "A carriage return in a section breaks its row or stops the published code; here it is deleted like other line "
    "ends.",
    "Admissions with several summaries or several HCFA codes are listed several times there, and the last row is used; "
    "here there is one sample, of the last row: lists are shorter, and a code that is never used makes no class.",
    "A summary or a billing code that names another patient than its admission's counts there for the admission; here "
    "for nobody, and is counted.",
    "A second run over the same folder appends all events again; here nothing depends on earlier runs.",
    "Of a patient all of whose event values, of any item, are numbers the published code compares values of one time "
    "as numbers, heart rates, too; here as texts as of every other patient.",
    "A text `None` of the coma scale is read as in the versions of pandas of the time, which is as a text.",
)
"""Where the profile `ref` differs from the published pipeline, mostly because that stops."""


def switch_table() -> str:
    """All switches as a Markdown table: what each decides and what its settings do."""
    lines = ["| switch | decides | fix | ref | further settings |", "|---|---|---|---|---|"]
    for switch in SWITCHES:
        described = {name: f"`{name}`: {text}" for name, text in switch.settings.items()}
        ref = "the same" if switch.ref == switch.fix else described[switch.ref]
        more = "; ".join(text for name, text in described.items() if name not in (switch.fix, switch.ref))
        lines.append(f"| `{switch.name}` | {switch.about} | {described[switch.fix]} | {ref} | {more} |")
    return "\n".join(lines) + "\n"
