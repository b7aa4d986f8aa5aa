"""What a data set is made from, and whether an existing one was made from the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.code_version import code_version
from benchmark.data.fingerprint import FORMAT, sizes
from benchmark.data.raw import RawMimic
from benchmark.data.release import sha256, stamps
from benchmark.data.rules import Rules
from benchmark.errors import UserError

SOURCES = ("benchmark/random.py", "benchmark/data", "benchmark/tasks")
"""The code that a data set depends on."""

FILE = Path("private") / "request.json"


def code() -> str:
    """Version of the code that a data set depends on."""
    return code_version(SOURCES)


def request(raw: RawMimic, rules: Rules) -> dict[str, Any]:
    """What decides about the content of a data set; files by size and time of change, wherever they lie."""
    return {
        "rules": asdict(rules),
        "code": code(),
        "files": {table: list(stamp) for table, stamp in stamps(raw).items()},
        "simulation": simulation(raw),
    }


def simulation(raw: RawMimic) -> dict[str, Any] | None:
    """What the simulator says about its data; None for real data."""
    marker = raw.marker()
    return marker and {key: value for key, value in marker.items() if key != "truth"}


def existing(out: Path, raw: RawMimic, rules: Rules, name: str | None) -> dict[str, Any]:
    """The manifest of a data set that was made from the same files by the same rules and code, and is complete.

    Raw films are not looked at again, and of the data set's own files only how large they are.

    Args:
        name: None: whatever its name.

    Raises:
        UserError: `out` is something else, or was made from something else.
    """
    refusal = f"{out} exists already; choose another name or remove it"
    file = out / "manifest.json"
    if not file.is_file():
        raise UserError(refusal)
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise UserError(f"{refusal}; its manifest.json cannot be read ({fault})") from fault
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "code" not in manifest:
        raise UserError(f"{refusal}; it was prepared by another version of this program")
    changes = _changes(manifest, out, raw, rules)
    if name is not None and name != manifest["name"]:
        changes.append(f"name: {manifest['name']} then, {name} now")
    if changes:
        raise UserError(f"{refusal}. It was prepared differently:\n" + "\n".join(f"  {line}" for line in changes))
    damaged = [name for name, size in manifest["content"].items() if sizes(out, [name]) != {name: size}]
    if damaged:
        raise UserError(f"{out} is damaged: {', '.join(damaged)} missing or cut; remove it to prepare it again")
    return manifest


def _changes(manifest: dict[str, Any], out: Path, raw: RawMimic, rules: Rules) -> list[str]:
    changes = []
    now, then = asdict(rules), manifest["rules"]
    changes += [f"rule {rule}: {then.get(rule)} then, {now[rule]} now" for rule in now if now[rule] != then.get(rule)]
    if manifest["code"] != code():
        changes.append("the part of this program that prepares data has changed")
    if manifest["source"]["simulation"] != simulation(raw):
        changes.append("SIMULATED.json has changed")
    known = json.loads((out / FILE).read_text(encoding="utf-8"))["files"] if (out / FILE).is_file() else {}
    files, found = manifest["source"]["files"], stamps(raw)
    changes += [f"{table}: there then, not now" for table in files if table not in found]
    changes += [f"{table}: not there then" for table in found if table not in files]
    for table, stamp in found.items():
        if table not in files or list(stamp) == known.get(table):
            continue
        if stamp[0] != files[table]["bytes"]:
            changes.append(f"{raw.path(table)}: {files[table]['bytes']:,} bytes then, {stamp[0]:,} now")
        elif sha256(raw.path(table)) != files[table]["sha256"]:
            changes.append(f"{raw.path(table)}: other content")
    return changes
