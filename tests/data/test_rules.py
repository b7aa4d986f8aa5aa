"""The list of switches and the class of their settings say the same."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from benchmark.data.rules import SWITCHES, Rules
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
