"""Random streams and identifiers that depend on the seed and the patient's number alone.

Patient k must be the same whatever the number of patients is, so nothing here looks at any other patient: each
patient owns one stream per purpose, and all identifiers are a fixed one-to-one scramble of k and of a slot inside the
patient.
"""

from __future__ import annotations

import hashlib
import zlib

import numpy as np

MAX_PATIENTS = 100_000
"""Above this the identifier ranges would overflow their digits."""

SLOTS = 100
"""Admissions, stays, studies: at most so many of each kind per patient."""

EVENT_SLOTS = 20_000
"""Laboratory rows per patient."""

_RANGE = 10_000_000
_STRIDE = 7_368_787  # a prime, so multiplication modulo 10**7 is one-to-one
_BASES = {"subject": 10_000_000, "admission": 20_000_000, "stay": 30_000_000, "study": 50_000_000}


def stream(seed: int, purpose: str, patient: int) -> np.random.Generator:
    """Return the generator of one patient for one purpose."""
    return np.random.Generator(
        np.random.PCG64DXSM(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), patient]))
    )


def identifier(kind: str, patient: int, slot: int = 0) -> int:
    """Return the eight-digit id of the slot-th thing of a kind.

    Args:
        kind: subject, admission, stay or study.
        patient: the patient's number.
        slot: which of the patient's things.

    >>> identifier("subject", 0), identifier("stay", 0, 1)
    (10000000, 37368787)
    """
    if not 0 <= slot < SLOTS:
        raise OverflowError(f"patient {patient} needs {kind} number {slot}; {SLOTS} are available")
    index = patient if kind == "subject" else patient * SLOTS + slot
    return _BASES[kind] + (index * _STRIDE) % _RANGE


def dicom_identifier(study: int, image: int) -> str:
    """Return an image id in the form of the real ones: five groups of eight hexadecimal digits.

    >>> dicom_identifier(50000000, 0)[:17]
    '25030f21-0a5e83f7'
    """
    digest = hashlib.sha256(f"{study}/{image}".encode()).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))
