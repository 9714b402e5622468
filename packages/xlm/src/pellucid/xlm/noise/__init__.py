"""Noise schedules: how much of a text is noise at each time between 0 and 1.

All of them are `NoiseSchedule`s of `pellucid.xlm.contracts`; a family with a schedule of its own
defines it beside its loss. `DummyNoiseSchedule` stands where there is none.
"""

from pellucid.xlm.contracts import NoiseSchedule
from pellucid.xlm.noise._schedules import (
    ContinuousTimeLinear,
    ContinuousTimeLogLinear,
    DummyNoiseSchedule,
)

__all__ = [
    "ContinuousTimeLinear",
    "ContinuousTimeLogLinear",
    "DummyNoiseSchedule",
    "NoiseSchedule",
]
