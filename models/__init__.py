"""FlexCare and what all models of the comparison share: the contract, the unimodal embeddings, the common layers."""

from __future__ import annotations

from models.variants import ENTRIES

__all__ = ["ENTRIES"]
