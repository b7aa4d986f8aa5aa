"""The cohort report as one page with figures that needs no other file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from benchmark.data.audit.finding import Finding
from benchmark.data.report.content import sections
from benchmark.data.report.figures import figures


def page(report: dict[str, Any], findings: Sequence[Finding] = ()) -> str:
    """HTML of the report; arguments as for `benchmark.data.report.content.sections`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = _code
    template = resources.files("benchmark.data.report").joinpath("page.html").read_text(encoding="utf-8")
    content = {"sections": sections(report, findings), "figures": figures(report), "simulated": report["simulated"]}
    return environment.from_string(template).render(content)


def _code(text: str) -> Markup:
    """The text with what stands between backquotes as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
