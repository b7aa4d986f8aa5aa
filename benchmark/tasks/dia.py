"""The 14 findings of a chest film study, one sample a study with an anterior-posterior film."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.data.rules import Rules
from benchmark.tasks.record import Task

if TYPE_CHECKING:
    import pandas as pd

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
"""Label columns of the chest film release, in its own order."""

TASK = Task(
    name="dia",
    title="DIA",
    description="14 findings of a chest film, with the ICU series before it and the history of its admission",
    kind="multilabel",
    classes=FINDINGS,
    primary="cxr",
    note_section="pmh",
    metrics=("macro_auroc", "micro_auroc", "macro_average_precision", "macro_auroc_13"),
    source="labels: CheXpert, Irvin et al., AAAI 2019, as released with MIMIC-CXR-JPG 2.0.0; task: FlexCare, KDD 2024",
)

UNSURE = -1.0

EARLIEST = 4.0
"""A film taken in the first four hours in the ICU has no time series."""


def samples(findings: pd.DataFrame, rules: Rules = Rules()) -> pd.DataFrame:
    """Studies with at least one usable label; uncertain (-1) and unmentioned findings are masked (NaN).

    Args:
        findings: study_id and the 14 finding columns: 1, 0, -1 or NaN.
        rules: with `findings=zeros` unmentioned findings are negative if the study has any label, be it an uncertain
            one; with `unlabelled=keep` studies without a usable label are samples, too.

    Returns:
        study_id, y0 .. y13 (1, 0 or NaN).

    >>> import pandas as pd
    >>> blank = dict.fromkeys(FINDINGS, float("nan"))
    >>> table = samples(pd.DataFrame([
    ...     {"study_id": 1, **blank, "Atelectasis": 1.0, "Edema": -1.0},
    ...     {"study_id": 2, **blank, "Edema": -1.0},
    ...     {"study_id": 3, **blank},
    ...     {"study_id": 4, **blank, "Edema": 0.0},
    ... ]))
    >>> table[["study_id", "y0", "y3"]]
       study_id   y0   y3
    0         1  1.0  NaN
    3         4  NaN  0.0
    """
    labels = findings[list(FINDINGS)].astype("float32")
    if rules.findings == "zeros":
        labels = labels.mask(labels.isna() & labels.notna().any(axis=1).to_numpy()[:, None], 0.0)
    labels = labels.where(labels > UNSURE)
    labels.columns = [f"y{index}" for index in range(len(FINDINGS))]
    table = findings[["study_id"]].join(labels)
    return table if rules.unlabelled == "keep" else table[labels.notna().any(axis=1)]


def usable_series(hours: pd.Series, stays: pd.DataFrame, rules: Rules = Rules()) -> pd.Series:
    """Whether an ICU series goes with a film: one taken later than four hours after ICU admission, and after an event.

    Args:
        hours: from ICU admission to the film. stays: the film's stay, with first_event (hour of the first event in the
            unit, NaN without one) and first_charted (the same, events before the admission to the unit included).
        rules: with `film_cut=at` events up to the moment of the film count, and one before the admission to the unit is
            enough if any follows during the stay.

    >>> import pandas as pd
    >>> stays = pd.DataFrame({"first_event":   [0.0, 0.0, 6.0, 5.9, float("nan"), 7.0],
    ...                       "first_charted": [0.0, 0.0, 6.0, 5.9, float("nan"), -2.0]})
    >>> usable_series(pd.Series([4.0, 4.1, 6.0, 6.0, 6.0, 6.0]), stays).tolist()
    [False, True, False, True, False, False]
    >>> usable_series(pd.Series([4.0, 4.1, 6.0, 6.0, 6.0, 6.0]), stays, Rules(film_cut="at")).tolist()
    [False, True, True, True, False, True]
    """
    if rules.film_cut == "at":
        # The published lists hold six decimals, so that a first event at the moment of the film comes after it or not.
        listed = hours.round(6)
        return (listed > EARLIEST) & stays.first_event.notna() & (stays.first_charted <= listed)
    return (hours > EARLIEST) & (stays.first_event < hours)
