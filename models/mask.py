"""Which token of FlexCare may attend to which: the task token, the combination tokens and the modalities' tokens.

The paper's mask over [task; combinations; tokens of each modality], for a sample that owns the modalities of `present`:

    query \\ key          task   combination c'                        tokens of modality m
    task                 yes    of several modalities: yes;           if present
                                of one: if that modality is present
    combination c        no     itself only                           if m is in c and present
    token of m           no     no                                    the same m only

All tokens of one kind (task, a combination, a modality) see the same kinds, so a sample's mask is a small square over
kinds, K = special tokens + modalities, however long its sequences are.

The released code of the authors hands the mask to the attention as numbers, 1 where it forbids. Attention *adds* such a
matrix to its scores, so a forbidden pair is not excluded, its score grows by one; only padding and absent modalities
are hidden. `enforced=False` gives that behaviour; `tests/models/test_released_code.py` demonstrates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from models.contract import MODALITIES
from models.ragged import on_device

COMBINATIONS = (
    (True, False, False),
    (False, True, False),
    (False, False, True),
    (True, True, False),
    (True, False, True),
    (False, True, True),
    (True, True, True),
)
"""Members of each combination, in the order of `MODALITIES`; the three single modalities come first, in that order."""

SINGLES = len(MODALITIES)
"""Number of modalities M, and so of combinations of a single one."""


def complete_combinations(present: Tensor) -> Tensor:
    """(B, M) presence -> (B, 7) bool, True where all members of a combination are present."""
    return (present[:, None, :] | ~_members(present.device)).all(-1)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _members(device: torch.device) -> Tensor:
    return on_device(COMBINATIONS, device)


@dataclass(frozen=True)
class Mask:
    """Special tokens of a sample, in the order [task; combinations], and what each kind of token attends to.

    Attributes:
        task, combinations: whether a sample has a task token, and the seven combination tokens.
        task_sees_incomplete: whether the task token sees combinations of several modalities that lack a member.
        modalities_meet: whether a modality's tokens see those of the others (a plain transformer does so).
        enforced: False adds 1 to the scores of forbidden pairs instead, as the released code does.
    """

    task: bool = True
    combinations: bool = True
    task_sees_incomplete: bool = True
    modalities_meet: bool = False
    enforced: bool = True

    @property
    def first(self) -> int:
        """Position of the first combination among the special tokens."""
        return int(self.task)

    @property
    def specials(self) -> int:
        """Number S of special tokens."""
        return self.first + self.combinations * len(COMBINATIONS)

    @property
    def separates(self) -> bool:
        """Whether modalities' tokens are read but independent of all else, as `CombinationEncoder` needs it."""
        return self.specials > 0 and self.enforced and not self.modalities_meet

    def readers_of(self, modality: int) -> tuple[int, ...]:
        """Special tokens that see the tokens of a modality: the task token and the combinations that contain it."""
        task = (0,) if self.task else ()
        members = COMBINATIONS if self.combinations else ()
        return task + tuple(self.first + c for c, members in enumerate(members) if members[modality])

    def visible(self, present: Tensor) -> Tensor:
        """(B, M) presence -> (B, K, K) bool, [query, key]: the paper's mask over kinds of tokens."""
        size, s = len(present), self.specials
        seen = torch.eye(s + SINGLES, dtype=torch.bool, device=present.device).repeat(size, 1, 1)
        if self.modalities_meet:
            seen[:, s:, s:] = True
        for m in range(SINGLES):
            seen[:, self.readers_of(m), s + m] = True
        if self.task and self.combinations:
            several = complete_combinations(present)[:, SINGLES:] | self.task_sees_incomplete
            seen[:, 0, self.first : s] = torch.cat([present, several], 1)
        seen[:, :, s:] &= present[:, None, :]
        return seen

    def bias(self, present: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, M) presence -> (B, K, K), what is added to the attention scores of each pair of kinds."""
        seen, s = self.visible(present), self.specials
        bias = torch.zeros(seen.shape, dtype=dtype, device=present.device)
        if self.enforced:
            return bias.masked_fill_(~seen, -torch.inf)
        bias.masked_fill_(~seen, 1.0)
        exists = torch.ones(seen.shape[:2], dtype=torch.bool, device=present.device)  # (B, K) keys
        exists[:, s:] = present
        if self.combinations:
            exists[:, self.first : self.first + SINGLES] = present
        return bias.masked_fill_(~exists[:, None, :], -torch.inf)
