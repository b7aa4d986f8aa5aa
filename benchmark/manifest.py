"""What the harness must know of a prepared data set before it opens it: the small facts of DATA/manifest.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from benchmark.data.fingerprint import FORMAT
from benchmark.errors import UserError
from benchmark.protocols.reading import parse_strictly


@dataclass(frozen=True)
class DataInfo:
    """A prepared data set.

    Attributes:
        path: its folder. name: as in captions. fingerprint: hash of its contents. simulated: whether it is made up.
        profile: the data rules it was prepared by, e.g. "fix" or "ref, death=recorded".
        modalities: which of ehr, cxr, note the data have at all.
        samples: per possible task the number of samples of each part (train, val, test).
        impossible: tasks that the data do not allow, with the reason.
    """

    path: Path
    name: str
    fingerprint: str
    simulated: bool
    modalities: Mapping[str, bool]
    samples: Mapping[str, Mapping[str, int]]
    impossible: Mapping[str, str]
    profile: str = "fix"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Samples(_Part):
    train: Annotated[int, Field(ge=0)]
    val: Annotated[int, Field(ge=0)]
    test: Annotated[int, Field(ge=0)]


class _Task(_Part):
    samples: _Samples


class _Manifest(_Part):
    """The keys of manifest.json that are read here; there are more."""

    name: str
    fingerprint: str
    simulated: bool
    profile: str = "fix"
    modalities: dict[str, bool]
    tasks: dict[str, _Task]
    impossible: dict[str, str] = Field(default_factory=dict)


def read_manifest(path: Path) -> DataInfo:
    """The facts of the data set in folder `path`; `UserError` if there is none or it is of another format."""
    file = path / "manifest.json"
    if not path.is_dir():
        raise UserError(f"data folder {path} does not exist; `bench prepare` makes one from MIMIC files")
    if not file.is_file():
        raw = (path / "hosp").is_dir() or (path / "icu").is_dir()
        hint = (
            f"it looks like raw MIMIC-IV: run `bench prepare --mimic-iv {path} OUT` first"
            if raw
            else "`bench prepare` makes one"
        )
        raise UserError(f"{path} is no prepared data set (it has no manifest.json); {hint}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise UserError(f"cannot read {file}: {fault}; prepare the data set again") from fault
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise UserError(f"{file} has format {found!r}; this version reads {FORMAT}: prepare the data set again")
    facts = parse_strictly(_Manifest, manifest, "", faults := [])
    if facts is None:
        raise UserError(f"{file} is damaged ({'; '.join(faults)}): prepare the data set again")
    return DataInfo(
        path=path,
        name=facts.name,
        fingerprint=facts.fingerprint,
        simulated=facts.simulated,
        modalities=facts.modalities,
        samples={name: task.samples.model_dump() for name, task in facts.tasks.items()},
        impossible=facts.impossible,
        profile=facts.profile,
    )


def data_of_runs(out: Path, fingerprint: str, folder: Path | None = None) -> DataInfo | None:
    """The data set with this fingerprint: the one in `folder`, or one of those beside the results, or None.

    Raises:
        UserError: the folder that was named holds another one.
    """
    if folder is not None:
        info = read_manifest(folder)
        if info.fingerprint != fingerprint:
            raise UserError(f"the runs were made from other data than {info.name} in {folder}")
        return info
    beside = (read_manifest(file.parent) for file in sorted((out / "data").glob("[!.]*/manifest.json")))
    return next((info for info in beside if info.fingerprint == fingerprint), None)
