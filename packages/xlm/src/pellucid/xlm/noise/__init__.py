"""Noise schedules: how much of a text is noise at each time between 0 and 1.

All of them are `NoiseSchedule`s of `pellucid.xlm.contracts`; a family with a schedule of its own
defines it beside its loss. `DummyNoiseSchedule` stands where there is none.
"""

from pellucid.xlm.contracts import NoiseSchedule
from pellucid.xlm.noise._schedules import (
    ContinuousTimeGeometric,
    ContinuousTimeLinear,
    DummyNoiseSchedule,
)
from pellucid.xlm.noise._shares import (
    ContinuousTimeCosine,
    ContinuousTimeLogLinear,
    ContinuousTimePolynomial,
)

__all__ = [
    "ContinuousTimeCosine",
    "ContinuousTimeGeometric",
    "ContinuousTimeLinear",
    "ContinuousTimeLogLinear",
    "ContinuousTimePolynomial",
    "DummyNoiseSchedule",
    "NoiseSchedule",
]
