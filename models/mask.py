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

import torch
from torch import Tensor

from models.contract import MODALITIES
from models.layout import index_cache, on_device

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


@index_cache(8)
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
        always = torch.ones_like(present[:, :1])  # (B, 1)
        keys = torch.cat([always.expand(-1, self.specials), present], 1)  # (B, K): there are no tokens of the absent
        seen = _of_complete_samples(self, present.device) & keys[:, None]
        if not (self.task and self.combinations):
            return seen
        several = complete_combinations(present)[:, SINGLES:] | self.task_sees_incomplete
        of_task = torch.cat([always, present, several, present], 1)  # (B, K)
        return torch.cat([of_task[:, None], seen[:, 1:]], 1)

    def bias(self, present: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, M) presence -> (B, K, K), what is added to the attention scores of each pair of kinds."""
        seen = self.visible(present)
        bias = (~seen).to(dtype)
        if self.enforced:
            return bias.masked_fill(~seen, -torch.inf)
        always = torch.ones_like(present[:, :1])
        exists = [always.expand(-1, self.specials), present]  # (B, K) keys
        if self.combinations:
            several = len(COMBINATIONS) - SINGLES
            exists[:1] = [always.expand(-1, self.first), present, always.expand(-1, several)]
        return bias.masked_fill(~torch.cat(exists, 1)[:, None, :], -torch.inf)


@index_cache(32)
def _of_complete_samples(mask: Mask, device: torch.device) -> Tensor:
    """(K, K) bool: who sees whom in a sample that owns all modalities."""
    s = mask.specials
    seen = torch.eye(s + SINGLES, dtype=torch.bool)
    if mask.modalities_meet:
        seen[s:, s:] = True
    for m in range(SINGLES):
        seen[list(mask.readers_of(m)), s + m] = True
    if mask.task and mask.combinations:
        seen[0, mask.first : s] = True
    return on_device(seen, device)
