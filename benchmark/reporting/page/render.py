"""Parts of the report as HTML that loads nothing: styles, script and pictures are inside."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from importlib import resources

import matplotlib
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from benchmark.reporting.figures.style import STYLE
from benchmark.reporting.page.blocks import Block, Listing, Part, Picture, Table


def render(title: str, simulated: bool, parts: Sequence[Part]) -> str:
    """The page.

    Args:
        title: its heading. simulated: whether the data are made up, which is then said at the top.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"code": _code, "svg": _svg, "lines": _lines}
    environment.tests |= {
        "table": lambda block: isinstance(block, Table),
        "picture": lambda block: isinstance(block, Picture),
        "listing": lambda block: isinstance(block, Listing),
        "heading": lambda block: isinstance(block, str) and block.startswith("## "),
        "item": lambda block: isinstance(block, str) and block.startswith("- "),
    }
    template = resources.files("benchmark.reporting.page").joinpath("page.html").read_text(encoding="utf-8")
    numbered = [(f"part{number}", part) for number, part in enumerate(parts)]
    return environment.from_string(template).render(title=title, simulated=simulated, parts=numbered)


def _code(text: Block) -> Markup:
    """The text with what stands between backquotes as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _lines(text: str) -> Markup:
    """A cell's text; what stands on a second line is smaller."""
    first, *rest = str(_code(text)).split("\n")
    return Markup(f"<span>{first}</span>" + "".join(f"<small>{line}</small>" for line in rest))


def _svg(picture: Picture) -> Markup:
    """The drawing as an SVG element whose names are its own, so that several can share a page."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        picture.drawing.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    own = f"f{zlib.crc32(picture.caption.encode())}-"
    text = re.sub(r'(\bid="|url\(#|xlink:href="#|href="#)', rf"\g<1>{own}", text)
    return Markup(text[text.index("<svg") :])
