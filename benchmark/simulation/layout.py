"""Columns of the raw files, in the order of MIMIC-IV 2.2, MIMIC-CXR-JPG 2.0.0 and MIMIC-IV-Note 2.2."""

from __future__ import annotations

from benchmark.simulation import tables

MIMIC_IV, MIMIC_CXR, MIMIC_NOTE = "mimic-iv", "mimic-cxr", "mimic-note"

_FILM = (
    "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows Columns StudyDate StudyTime "
    "ProcedureCodeSequence_CodeMeaning ViewCodeSequence_CodeMeaning PatientOrientationCodeSequence_CodeMeaning"
)

COLUMNS: dict[str, tuple[str, ...]] = {
    name: tuple(columns.split())
    for name, columns in {
        f"{MIMIC_IV}/hosp/patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
        f"{MIMIC_IV}/hosp/admissions": "subject_id hadm_id admittime dischtime deathtime admission_type admit_provider_id admission_location "
        "discharge_location insurance language marital_status race edregtime edouttime hospital_expire_flag",
        f"{MIMIC_IV}/hosp/diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
        f"{MIMIC_IV}/hosp/d_icd_diagnoses": "icd_code icd_version long_title",
        f"{MIMIC_IV}/hosp/drgcodes": "subject_id hadm_id drg_type drg_code description drg_severity drg_mortality",
        f"{MIMIC_IV}/hosp/labevents": "labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime storetime value valuenum "
        "valueuom ref_range_lower ref_range_upper flag priority comments",
        f"{MIMIC_IV}/hosp/d_labitems": "itemid label fluid category",
        f"{MIMIC_IV}/icu/icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
        f"{MIMIC_IV}/icu/chartevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valuenum valueuom warning",
        f"{MIMIC_IV}/icu/d_items": "itemid label abbreviation linksto category unitname param_type lownormalvalue highnormalvalue",
        f"{MIMIC_IV}/icu/outputevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valueuom",
        f"{MIMIC_CXR}/mimic-cxr-2.0.0-metadata": _FILM,
        f"{MIMIC_CXR}/mimic-cxr-2.0.0-split": "dicom_id study_id subject_id split",
        f"{MIMIC_NOTE}/note/discharge": "note_id subject_id hadm_id note_type note_seq charttime storetime text",
    }.items()
}
COLUMNS[f"{MIMIC_CXR}/mimic-cxr-2.0.0-chexpert"] = (
    "subject_id",
    "study_id",
    *(row["finding"] for row in tables.rows("findings")),
)

DICTIONARIES = (f"{MIMIC_IV}/hosp/d_icd_diagnoses", f"{MIMIC_IV}/hosp/d_labitems", f"{MIMIC_IV}/icu/d_items")
"""Files that do not depend on the patients."""
