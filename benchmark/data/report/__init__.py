"""The cohort report: what became of the stays and what each task holds, beside the figures of the paper.

`collect` counts while a data set is prepared and stores the result as `cohort.json`; `text` and `page` show that file
again at any time, as Markdown and as a page with figures.
"""

from __future__ import annotations

from benchmark.data.report.collect import cohort_report
from benchmark.data.report.text import markdown

__all__ = ["cohort_report", "markdown"]
