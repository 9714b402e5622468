"""Test kit for families, for those of others too: subclass a suite and give its fixtures.

`BaseModelTests`, `BaseLossTests`, `BaseCollatorTests` and `BasePredictorTests` hold the laws of the
parts of a family; `FamilyContract` those of the parts together, which `parts_of_experiment` builds
from a configuration. They need pytest.
"""

from pellucid.xlm.testing._configured_parts import parts_of_experiment
from pellucid.xlm.testing._family_contract import FamilyContract, FamilyParts
from pellucid.xlm.testing._part_suites import (
    PREDICTION_KEYS,
    BaseCollatorTests,
    BaseLossTests,
    BaseModelTests,
    BasePredictorTests,
)
from pellucid.xlm.testing._shared_fixtures import EXAMPLES, SharedFixtures

__all__ = [
    "EXAMPLES",
    "PREDICTION_KEYS",
    "BaseCollatorTests",
    "BaseLossTests",
    "BaseModelTests",
    "BasePredictorTests",
    "FamilyContract",
    "FamilyParts",
    "SharedFixtures",
    "parts_of_experiment",
]
