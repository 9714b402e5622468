"""Test kit for families, for those of others too: subclass a suite and give its fixtures.

`BaseModelTests`, `BaseLossTests`, `BaseCollatorTests` and `BasePredictorTests` hold the laws of the
parts of a family; `FamilyContract` those of the parts together. They need pytest.
"""

from pellucid.xlm.testing._family_contract import FamilyContract, FamilyParts
from pellucid.xlm.testing._part_suites import (
    PREDICTION_KEYS,
    BaseCollatorTests,
    BaseLossTests,
    BaseModelTests,
    BasePredictorTests,
)
from pellucid.xlm.testing._shared_fixtures import SharedFixtures

__all__ = [
    "PREDICTION_KEYS",
    "BaseCollatorTests",
    "BaseLossTests",
    "BaseModelTests",
    "BasePredictorTests",
    "FamilyContract",
    "FamilyParts",
    "SharedFixtures",
]
