"""A small data set and a small protocol to tune on."""

from __future__ import annotations

import json
from pathlib import Path

from prepared_data import write_prepared

from benchmark.config import RunConfig, resolve
from benchmark.runs.plan import Plan, make_plan

PROTOCOL = """
base: quick
name: tiny
dimensions: {width: 8, layers: 1, hours: 24, film: 32, patch: 16}
training: {batch_size: 16, epochs: {multitask: 2, singletask: 2}, learning_rate: 3.0e-3}
seeds: [1, 2]
"""


def prepare(folder: Path, size: int = 90, tasks: tuple[str, ...] = ("ihm", "los", "dia")) -> Path:
    """A prepared data set without notes, as the runner wants it."""
    data = write_prepared(folder / "data", tasks, size)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["modalities"] = {"ehr": True, "cxr": True, "note": False}
    (data / "manifest.json").write_text(json.dumps(manifest))
    (data / "private").mkdir()
    (data / "private" / "key.bin").write_bytes(bytes(range(32)))
    return data


def configured(folder: Path, data: Path, **options: str) -> RunConfig:
    protocol = folder / "tiny.yaml"
    protocol.write_text(PROTOCOL)
    given = {"data": str(data), "protocol": str(protocol), "out": str(folder / "out"), "device": "cpu", "workers": 1}
    return resolve({"models": "flexcare", **given, **options})


def plan_of(config: RunConfig) -> Plan:
    return make_plan(config, config.data, None)
