"""FlexCare and what all models of the comparison share: the contract, the unimodal embeddings, the common layers."""

from __future__ import annotations

from models import flexcare

ENTRIES = (flexcare.SINGLE_TASK_ENTRY, flexcare.ENTRY)
"""Models of this package, in the order of the tables' columns."""
