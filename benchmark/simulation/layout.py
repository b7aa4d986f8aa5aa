"""Columns of the raw files, in the order of MIMIC-IV 2.2, MIMIC-CXR-JPG 2.0.0 and MIMIC-IV-Note 2.2."""

from __future__ import annotations

from benchmark.simulation import tables

MIMIC_IV, MIMIC_CXR, MIMIC_NOTE = "mimic-iv", "mimic-cxr", "mimic-note"

PATIENTS = f"{MIMIC_IV}/hosp/patients"
ADMISSIONS = f"{MIMIC_IV}/hosp/admissions"
DIAGNOSES = f"{MIMIC_IV}/hosp/diagnoses_icd"
DIAGNOSIS_NAMES = f"{MIMIC_IV}/hosp/d_icd_diagnoses"
GROUPS = f"{MIMIC_IV}/hosp/drgcodes"
LABORATORY = f"{MIMIC_IV}/hosp/labevents"
LABORATORY_NAMES = f"{MIMIC_IV}/hosp/d_labitems"
STAYS = f"{MIMIC_IV}/icu/icustays"
CHART = f"{MIMIC_IV}/icu/chartevents"
CHART_NAMES = f"{MIMIC_IV}/icu/d_items"
OUTPUT = f"{MIMIC_IV}/icu/outputevents"
FILMS = f"{MIMIC_CXR}/mimic-cxr-2.0.0-metadata"
LABELS = f"{MIMIC_CXR}/mimic-cxr-2.0.0-chexpert"
SPLIT = f"{MIMIC_CXR}/mimic-cxr-2.0.0-split"
SUMMARIES = f"{MIMIC_NOTE}/note/discharge"

_COLUMNS = {
    PATIENTS: "subject_id gender anchor_age anchor_year anchor_year_group dod",
    ADMISSIONS: """subject_id hadm_id admittime dischtime deathtime admission_type admit_provider_id admission_location
        discharge_location insurance language marital_status race edregtime edouttime hospital_expire_flag""",
    DIAGNOSES: "subject_id hadm_id seq_num icd_code icd_version",
    DIAGNOSIS_NAMES: "icd_code icd_version long_title",
    GROUPS: "subject_id hadm_id drg_type drg_code description drg_severity drg_mortality",
    LABORATORY: """labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime storetime value
        valuenum valueuom ref_range_lower ref_range_upper flag priority comments""",
    LABORATORY_NAMES: "itemid label fluid category",
    STAYS: "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    CHART: "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valuenum valueuom warning",
    CHART_NAMES: "itemid label abbreviation linksto category unitname param_type lownormalvalue highnormalvalue",
    OUTPUT: "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valueuom",
    FILMS: """dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows Columns StudyDate
        StudyTime ProcedureCodeSequence_CodeMeaning ViewCodeSequence_CodeMeaning
        PatientOrientationCodeSequence_CodeMeaning""",
    SPLIT: "dicom_id study_id subject_id split",
    SUMMARIES: "note_id subject_id hadm_id note_type note_seq charttime storetime text",
}

TABLES = (*_COLUMNS, LABELS)


def columns(table: str) -> tuple[str, ...]:
    """Return the columns of a file; those of the labels are the findings."""
    if table == LABELS:
        return ("subject_id", "study_id", *(row["finding"] for row in tables.rows("findings")))
    return tuple(_COLUMNS[table].split())
