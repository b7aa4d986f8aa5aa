"""The cohort report of a prepared folder, shown again from what is stored there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.data.audit import FILE as AUDIT
from benchmark.data.audit import read_audit
from benchmark.data.audit.finding import Finding
from benchmark.data.report.flow import histogram
from benchmark.data.report.text import markdown
from benchmark.errors import UserError
from benchmark.files import replace_text

TOKENS = [0, 16, 32, 64, 96, 128, 192, 256, 384, 512]


def stored_report(folder: Path) -> tuple[dict[str, Any], Sequence[Finding]]:
    """`cohort.json` of a data set, with the token counts of its embeddings where there are some, and its audit.

    Raises:
        UserError: there is no `cohort.json` of this version.
    """
    try:
        report = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise UserError(f"{folder} has no readable cohort.json: {fault}; prepare the data again") from fault
    if "lengths" not in report or "source" not in report:
        raise UserError(f"{folder / 'cohort.json'} is of an earlier version; prepare the data again")
    report["lengths"] |= _tokens(folder)
    return report, read_audit(folder) if (folder / AUDIT).is_file() else ()


def _tokens(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    texts = folder / "notes" / "texts.parquet"
    for offsets in sorted(folder.glob("notes/embeddings/*/offsets.npy")):
        lengths = np.diff(np.load(offsets))
        sections = pd.read_parquet(texts, columns=["section"]).section
        for section, title in (("pmh", "histories"), ("bhc", "hospital courses")):
            own = lengths[(sections == section).to_numpy() & (lengths > 0)]
            found[f"tokens of {title}, {_encoder_of(offsets.parent)}"] = histogram(own, TOKENS)
    return found


def _encoder_of(folder: Path) -> str:
    """What a folder of embeddings was made with; its key where the folder does not say so."""
    try:
        made = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        return f"{made['name']}, at most {made['max_tokens']}"
    except (OSError, ValueError, KeyError):
        return folder.name


def write_report(folder: Path, out: Path) -> list[Path]:
    """Write the report of a data set as `cohort.md` and as a page with figures, `cohort.html`.

    Returns:
        The two files.
    """
    from benchmark.data.report.page import page  # draws: takes a second to import

    report, findings = stored_report(folder)
    files = [out / "cohort.md", out / "cohort.html"]
    for file, text in zip(files, (markdown(report, findings), page(report, findings)), strict=True):
        replace_text(file, text)
    return files
