"""The contract of an optimizer: what it checks, records and cleans up around `optimize_trigger`."""

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from pellucid.core._access import TextAccessMixin, TokenAccessMixin
from pellucid.core._budget import Budget, BudgetMetric, BudgetScope
from pellucid.core._capabilities import check_compatibility
from pellucid.core._conditions import Role
from pellucid.core._container import set_fields
from pellucid.core._errors import RequirementError
from pellucid.core._loss import BaseLoss
from pellucid.core._model import BaseModel
from pellucid.core._parts import InitialTrigger, choose_start, join_parts
from pellucid.core._result import OptimizerResult
from pellucid.core._targets import Targets
from pellucid.core._template import Template, check_templates, count_parts
from pellucid.core._tracker import BaseTracker, DummyTracker

_Item = TypeVar("_Item")


class BaseOptimizer(ABC):
    """Searches for a trigger that lowers a loss.

    A subclass declares the access it needs in `model_requirements` and gives `optimize_trigger`.
    Around each call of it, templates are validated, usage is reset, the tracker is started and
    finished, and the models' inputs are cleared, whatever happens inside.

    Attributes:
        model_requirements: The access mixins that the model must have.
        roles: What else is asked, of other parts or of the model itself.
        owns_life_cycle: Set by classes whose `optimize_trigger` enters `run` by itself.

    Args:
        model: The model to optimize against.
        loss: What to lower.
        tracker: Where to record; nowhere when omitted.
        seed: Makes a run repeatable; applied to each run, never to a global generator.

    Raises:
        RequirementError: (an AssertionError and TypeError) If the model lacks an access or a field,
            or an argument is of a wrong kind; `NotDifferentiableError` if gradients are needed
            and the loss has none.
    """

    model_requirements: ClassVar[tuple[type, ...]] = ()
    roles: ClassVar[tuple[Role, ...]] = ()
    owns_life_cycle: ClassVar[bool] = False

    _budget: Budget | None = None
    _best_logged: float = float("inf")
    _is_running: bool = False

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss | None = None,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
    ) -> None:
        _check_kind("model", model, BaseModel)
        if loss is not None:
            _check_kind("loss", loss, BaseLoss)
        if tracker is not None:
            _check_kind("tracker", tracker, BaseTracker)
        check_compatibility(model, self, loss).raise_if_incompatible()
        self.model = model
        self.loss = loss
        self.tracker = tracker if tracker is not None else DummyTracker()
        self.seed = seed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Who overrides optimize_trigger gets the life cycle without having to ask for it.
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("optimize_trigger")
        if own is None or getattr(own, "__isabstractmethod__", False):
            return
        if not cls.owns_life_cycle:
            setattr(cls, "optimize_trigger", _within_run(own))  # noqa: B010

    @abstractmethod
    def optimize_trigger(
        self,
        templates: Sequence[Template],
        initial_trigger: InitialTrigger | None = None,
        targets: Targets | None = None,
    ) -> OptimizerResult:
        """Search for a trigger.

        Args:
            templates: Texts or conversations. The placeholder marks the trigger's place, or its
                places; numbered ones, from 1, mark those of its parts.
            initial_trigger: Where to start, a list of texts if the trigger has parts; the
                optimizer's own choice when omitted.
            targets: One entry for each template.

        Returns:
            The best trigger and the run's history.

        Raises:
            TemplateError: If a template or the number of targets is not as it must be.
            ArgumentError: If the initial trigger has another number of parts than the templates.
        """

    def set_budget(
        self,
        limit: float,
        metric: BudgetMetric = "total_tokens",
        scope: BudgetScope = "all",
    ) -> None:
        """End each run once its models have used so much.

        Args:
            limit: The ceiling; a run overshoots it by one step at most.
            metric: Tokens, FLOPs or seconds.
            scope: "all" counts auxiliary models, "target" the target model alone.

        Raises:
            BudgetError: (a ValueError) If the limit is not positive, or a name is unknown.
        """
        self._budget = Budget(limit=limit, metric=metric, scope=scope)

    def reset_budget(self) -> None:
        """Let runs use what they need."""
        self._budget = None

    def is_budget_spent(self, elapsed_s: float = 0.0) -> bool:
        """Say whether a run has used its budget up, `elapsed_s` seconds after it began."""
        return self._budget is not None and self._budget.is_spent(
            self.model, self.auxiliary_models().values(), elapsed_s
        )

    def auxiliary_models(self) -> dict[str, BaseModel]:
        """Return the models beside the target, by attribute, each model once."""
        found: dict[str, BaseModel] = {}
        for name, held in vars(self).items():
            is_new = held is not self.model and all(held is not other for other in found.values())
            if isinstance(held, BaseModel) and is_new:
                found[name] = held
        return found

    def track_steps(self, steps: Iterable[_Item], **tqdm_options: Any) -> Iterator[_Item]:
        """Iterate over steps with a progress bar, and stop once the budget is spent."""
        from tqdm.auto import tqdm  # noqa: PLC0415 - only hand-written loops need it

        began = time.perf_counter()
        for step in tqdm(steps, **tqdm_options):
            if self.is_budget_spent(time.perf_counter() - began):
                return
            yield step

    def log(self, loss: float | Tensor, trigger_str: str | None = None, **extra: Any) -> None:
        """Record one step: its loss, the best so far, the trigger, and all models' usage."""
        value = float(loss)
        self._best_logged = min(self._best_logged, value)
        record = {"loss": value, "best_loss": self._best_logged, **extra}
        if trigger_str is not None:
            record["trigger_str"] = trigger_str
        self.tracker.log({**record, **self._log_loss_parts(), **self._log_usage()})

    @contextmanager
    def run(
        self,
        templates: Sequence[Template],
        initial_trigger: InitialTrigger | None = None,
        targets: Targets | None = None,
        extra_config: Mapping[str, Any] | None = None,
    ) -> Generator[list[Template]]:
        """Hold one run's life cycle; yields the validated templates.

        `optimize_trigger` enters it by itself; code that drives an optimizer step by step enters it
        on its own. Entered again inside itself, it does no more than validate.

        Args:
            templates: As in `optimize_trigger`.
            initial_trigger: As in `optimize_trigger`.
            targets: As in `optimize_trigger`.
            extra_config: Values to record beside the run's own configuration.
        """
        checked = check_templates(templates, targets)
        n_parts = count_parts(checked)
        if initial_trigger is not None:
            initial_trigger = choose_start(initial_trigger, n_parts)
        if self._is_running:
            yield checked
            return
        self._best_logged = float("inf")
        self._summary: Mapping[str, Any] = {}
        for model in (self.model, *self.auxiliary_models().values()):
            model.reset_usage_stats()
        config = self.describe(checked, initial_trigger, targets)
        self.tracker.init({**config, **(extra_config or {})})
        self._is_running = True
        status = "failed"
        try:
            yield checked
            status = "finished"
        except (KeyboardInterrupt, GeneratorExit):
            status = "interrupted"
            raise
        finally:
            self._is_running = False
            self._clear_inputs()
            self.tracker.finish({"status": status, **self._summary})

    def summarize(self, result: OptimizerResult) -> None:
        """Set what the tracker is finished with when the present run ends."""
        self._summary = result.to_dict()

    def describe(
        self,
        templates: Sequence[Template],
        initial_trigger: InitialTrigger | None = None,
        targets: Targets | None = None,
    ) -> dict[str, Any]:
        """Return the configuration of a run as plain values, ready to be written as JSON."""
        # An auxiliary model may be the target itself: it is named all the same, never printed.
        models = {name: held for name, held in vars(self).items() if isinstance(held, BaseModel)}
        hidden = {"loss", "tracker", *models}
        hparams = {
            f"hparam/{name}": _plain(held)
            for name, held in vars(self).items()
            if not name.startswith("_") and name not in hidden
        }
        return {
            "optimizer": type(self).__name__,
            **{name: model.get_model_name() for name, model in models.items()},
            "loss": repr(self.loss),
            "templates": _plain(list(templates)),
            "initial_trigger": None if initial_trigger is None else join_parts(initial_trigger),
            "targets": _plain(set_fields(targets)) if targets is not None else None,
            **hparams,
        }

    def _log_loss_parts(self) -> dict[str, float]:
        parts = self.loss.get_loss_log_dict() if self.loss is not None else {}
        return {f"loss/{name}": value for name, value in parts.items()}

    def _log_usage(self) -> dict[str, int]:
        logged: dict[str, int] = {}
        total: dict[str, int] = {}
        for place, model in {"target_model": self.model, **self.auxiliary_models()}.items():
            for name, value in model.get_usage_stats().items():
                logged[f"{place}_stats/{name}"] = value
                total[name] = total.get(name, 0) + value
        return {**logged, **{f"total_models_stats/{name}": v for name, v in total.items()}}

    def _clear_inputs(self) -> None:
        for model in (self.model, *self.auxiliary_models().values()):
            if isinstance(model, TokenAccessMixin):
                model.reset_inputs_from_tokens()
            if isinstance(model, TextAccessMixin):
                model.reset_inputs_from_texts()


def _within_run(optimize: Callable[..., OptimizerResult]) -> Callable[..., OptimizerResult]:
    @functools.wraps(optimize)
    def optimize_trigger(
        self: BaseOptimizer,
        templates: Sequence[Template],
        initial_trigger: InitialTrigger | None = None,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> OptimizerResult:
        with self.run(templates, initial_trigger, targets) as checked:
            start = None if initial_trigger is None else join_parts(initial_trigger)
            result = optimize(self, checked, start, targets, **kwargs)
            self.summarize(result)
        return result

    return optimize_trigger


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise RequirementError(f"{name} must be a {kind.__name__}, got {value!r}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(held) for held in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
