"""How often a modality is absent."""

from __future__ import annotations

from dataclasses import dataclass, fields

from benchmark.errors import UserError


@dataclass(frozen=True)
class MissingRates:
    """Shares of samples without a modality; the defaults are those of the FlexCare paper's Table 2.

    Attributes:
        image: ICU stays without a frontal film between their first and last hour.
        note: admissions without a usable Past Medical History.
        film_series: examined films taken outside an ICU stay of the cohort (or in its first hours).
        film_note: examined films without a usable history, most of them taken outside any admission.
    """

    image: float = 0.82
    note: float = 0.08
    film_series: float = 0.76
    film_note: float = 0.33

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 <= value <= 0.98:
                raise UserError(f"missing rate {entry.name} is {value}; allowed are 0 to 0.98")
        if self.film_note < self.note:
            raise UserError(
                f"missing rate film_note ({self.film_note}) is below note ({self.note}), the rate within admissions"
            )
