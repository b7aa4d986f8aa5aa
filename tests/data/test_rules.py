"""The list of switches and the class of their settings say the same."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from benchmark.data.rules import Rules
from benchmark.data.switches import NOT_REPRODUCED, SWITCHES, switch_table
from benchmark.errors import UserError


def test_fields_settings_and_defaults_agree():
    hints = get_type_hints(Rules)
    assert [field.name for field in fields(Rules)] == [switch.name for switch in SWITCHES]
    for switch, field in zip(SWITCHES, fields(Rules), strict=True):
        assert set(get_args(hints[switch.name])) == set(switch.settings)
        assert field.default == switch.fix
        assert switch.ref in switch.settings


@pytest.mark.parametrize(
    ("profile", "settings", "message"),
    [
        ("fixed", [], "unknown profile 'fixed'; did you mean 'fix'"),
        ("fix", ["deaths=recorded"], "unknown rule 'deaths'; did you mean 'death'"),
        ("ref", ["death=record"], "unknown setting of rule death 'record'; did you mean 'recorded'"),
        ("fix", ["death"], "write NAME=SETTING"),
        ("fix", ["age=anchor", "age=at_admission"], "rule age is set twice"),
    ],
)
def test_bad_rules_are_refused(profile, settings, message):
    with pytest.raises(UserError, match=message):
        Rules.of_profile(profile, settings)


def test_the_documentation_lists_every_switch_as_it_is():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"<!-- switches -->\n{switch_table()}<!-- end -->" in text
    listed = "\n".join(f"- {difference}" for difference in NOT_REPRODUCED)
    assert f"<!-- not reproduced -->\n{listed}\n<!-- end -->" in text
