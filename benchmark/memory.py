"""Memory of this process at its peak."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_resident() -> int:
    """Bytes, with libraries and mapped files."""
    if _STATUS.is_file():
        # What getrusage counts begins with the memory of the process that started this one, and is never forgotten.
        return int(re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
