"""What a run ran on: recorded with its results, never part of its name."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmark.code_version import ROOT

PACKAGES = (
    "flexcare-bench",
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "transformers",
    "pyarrow",
    "safetensors",
)


def environment(device: str, threads: int) -> dict[str, Any]:
    """Python, platform, packages, device and number of threads."""
    import torch

    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "device": device,
        "device_name": _processor(),
        "threads": threads,
    }
    if device.startswith("cuda"):
        facts["device_name"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


@cache
def git_commit() -> str | None:
    """The source checkout's commit, with "+changes" if files differ from it; None outside of a checkout."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _processor() -> str:
    """The processor's name, from the kernel where it tells one."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
