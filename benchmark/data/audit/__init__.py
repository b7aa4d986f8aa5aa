"""Looks for leaks in a prepared data set: nothing of the future, of other partitions, or twice.

The audit opens a folder as anybody would and compares what models are given with what `private` says about its origin.
It runs at the end of every preparation and, on request, later. What is known only after the moment of prediction by the
design of a task is no violation; it is counted as a retrospective input.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmark.data.audit import inputs, partitions, stores
from benchmark.data.audit.finding import Finding
from benchmark.data.audit.opened import open_folder
from benchmark.files import replace_text

FILE = "audit.json"


class LeakageError(RuntimeError):
    """A prepared data set breaks a rule that keeps outcomes out of inputs. This is a fault of the program."""


def audit_folder(folder: Path) -> list[Finding]:
    """Check a prepared data set against every rule.

    Raises:
        UserError: the folder lacks what an audit needs.
    """
    opened = open_folder(folder)
    return [found for module in (partitions, inputs, stores) for found in module.findings(opened)]


def require_sound(findings: Sequence[Finding]) -> None:
    """Raise if a rule is broken.

    Raises:
        LeakageError: with all violations.
    """
    broken = [str(found) for found in findings if found.violated]
    if broken:
        raise LeakageError("the data set breaks rules that keep outcomes out of inputs:\n" + "\n".join(broken))


def write_audit(findings: Sequence[Finding], folder: Path) -> None:
    """Record the outcome in the data set."""
    content = {
        "format": 1,
        "violations": sum(found.found for found in findings if found.violated),
        "findings": [asdict(found) for found in findings],
    }
    replace_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def read_audit(folder: Path) -> list[Finding]:
    """The outcome that `write_audit` recorded."""
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return [Finding(**found | {"examples": tuple(found["examples"])}) for found in content["findings"]]
