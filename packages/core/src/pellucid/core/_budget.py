"""A ceiling on what a run may use."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal, get_args

from pellucid.core._errors import BudgetError, RequirementError
from pellucid.core._model import BaseModel

BudgetMetric = Literal["total_tokens", "total_flops", "seconds"]
BudgetScope = Literal["all", "target"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """A ceiling that, once reached, ends a run; it is overshot by one step at most.

    Attributes:
        limit: The ceiling.
        metric: What is counted.
        scope: Whether auxiliary models count, too.

    Raises:
        BudgetError: (a ValueError) If the limit is not positive, or a name is unknown.
    """

    limit: float
    metric: BudgetMetric = "total_tokens"
    scope: BudgetScope = "all"

    def __post_init__(self) -> None:
        if not (self.limit > 0) or math.isnan(self.limit):
            raise BudgetError(f"a budget must be positive, got {self.limit!r}.")
        for value, kind in ((self.metric, BudgetMetric), (self.scope, BudgetScope)):
            if value not in get_args(kind):
                raise BudgetError(f"unknown {value!r}. Use one of {', '.join(get_args(kind))}.")

    def is_spent(
        self, target: BaseModel, auxiliary: Iterable[BaseModel] = (), elapsed_s: float = 0.0
    ) -> bool:
        """Say whether the models have used the budget up.

        Args:
            target: The target model.
            auxiliary: The others.
            elapsed_s: Seconds since the run began.

        Raises:
            RequirementError: If FLOPs are the metric and a model does not count them.
        """
        if self.metric == "seconds":
            return elapsed_s >= self.limit
        models = [target, *(auxiliary if self.scope == "all" else ())]
        return sum(self._used(model) for model in models) >= self.limit

    def _used(self, model: BaseModel) -> int:
        stats = model.get_usage_stats()
        if self.metric not in stats:
            raise RequirementError(
                f"a budget in {self.metric!r} needs FLOPs to be counted. "
                f"Call set_flop_counting('manual') on {model.get_model_name()!r}."
            )
        return stats[self.metric]
