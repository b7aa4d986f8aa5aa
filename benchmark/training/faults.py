"""What can go wrong while a model is trained."""

from __future__ import annotations

from benchmark.errors import UserError


class Diverged(UserError):
    """A loss became infinite or not a number."""
