"""What a family is to the harness: a model, a loss, a predictor, a collator, and their schedule.

The harness knows no family. It hands the batches of a loader to the loss or to the predictor
without looking into them; what a batch holds is agreed between the parts of one family. A class
that lacks a required method fails when it is constructed, not in the middle of a run.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from pellucid.core import ArgumentError, RequirementError

Batch = TypeVar("Batch")
"""What a collator makes: a TypedDict of tensors, known to one family alone."""

Out = TypeVar("Out")
"""What a loss returns: a mapping whose "loss" is a differentiable tensor without axes."""

Preds = TypeVar("Preds")
"""What a predictor returns: a mapping with text, ids, output_start_idx, time_taken, steps_taken."""

LoaderKind = Literal["loss", "predict"]
"""Whether the batches of a loader go to the loss or to the predictor."""

IGNORED = -100
"""The target of a position about which nothing is asked, in `target_ids`."""

_UNSCALED = ("bias", "norm")


@dataclass(frozen=True)
class NLLBound:
    """An upper bound on the negative log-likelihood of each row, comparable across families.

    Attributes:
        nats: The bound, a sum over the row's tokens; exact for autoregressive families.
        tokens: How many tokens the bound is about.
    """

    nats: Float[Tensor, " batch"]
    tokens: Integer[Tensor, " batch"]


class LossFunction(ABC, Generic[Batch, Out]):
    """The training objective of a family.

    The harness fills `model` and `tokenizer` where they are None. Before each batch it seeds
    `generator`, which lives on the model's device, from the address of that batch (seed, rank,
    epoch, batch): a loss that draws its noise from there is resumed exactly.
    """

    model: Any = None
    tokenizer: Any = None
    generator: torch.Generator | None = None

    def configure(self, pl_module: Any) -> None:
        """Prepare for the device and the settings of the harness, once, before the first batch."""
        del pl_module

    @abstractmethod
    def loss_fn(
        self,
        batch: Batch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> Out:
        """Compute the loss of a batch; this is what `compile=true` compiles.

        Args:
            batch: As the family's collator makes it, on the model's device; never modified.
            batch_idx: Which batch of the loader this is.
            dataloader_idx: Which loader of the split this is.
            dataloader_name: The name of that loader.

        Returns:
            A mapping with at least "loss": differentiable, no axes, nats.
        """

    def __call__(
        self,
        batch: Batch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> Out:
        """Compute the loss of a batch, with whatever cannot be compiled around `loss_fn`."""
        return self.loss_fn(batch, batch_idx, dataloader_idx, dataloader_name)

    def nll_bound(self, batch: Batch) -> NLLBound:
        """Bound the negative log-likelihood of each row from above.

        Raises:
            RequirementError: The family has no such bound.
        """
        del batch
        message = (
            f"{type(self).__name__} bounds no likelihood; "
            "define nll_bound, or measure the family by its predictions"
        )
        raise RequirementError(message)


class Predictor(ABC, Generic[Batch, Preds]):
    """The sampler of a family.

    The harness fills `model`, `tokenizer` and `noise_schedule` where they are None, and seeds
    `generator` before each batch, as it does for a loss. Batches of a data module also hold
    `row_ids`, the number of each row in its dataset, and from the harness `row_seed`, one number
    for all batches of a loader: a predictor that draws by them (see
    `pellucid.xlm.sampling.RowStreams`) writes the same whatever the batch size is.
    """

    model: Any = None
    tokenizer: Any = None
    noise_schedule: Any = None
    generator: torch.Generator | None = None

    @abstractmethod
    def predict(
        self,
        batch: Batch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> Preds:
        """Sample a completion of every row.

        Returns:
            A mapping with `text` (list of str), `ids` (batch, pos), `output_start_idx` (int),
            `time_taken` (seconds, list of float) and `steps_taken` (network evaluations, list).
        """

    @abstractmethod
    def to_dict(
        self,
        batch: Batch,
        preds: Preds,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return one JSON-serialisable record per row, with at least its `text`."""

    def generate(
        self, prompts: list[str], *, generator: torch.Generator | None = None
    ) -> list[str]:
        """Complete prompts given as text.

        Args:
            prompts: One per row; an empty one asks for an unconditional sample.
            generator: Where to draw from; the predictor's own if None.

        Raises:
            RequirementError: The family does not complete text.
        """
        del generator
        message = (
            f"{type(self).__name__} cannot complete {len(prompts)} prompts given as text; "
            "define generate, or predict from batches"
        )
        raise RequirementError(message)


class Collator(ABC):
    """Makes a batch of a family from examples.

    The data module seeds `generator` (on the CPU) before each batch from its address (seed, epoch,
    batch), so that noise drawn from there depends neither on the worker that makes the batch nor
    on where a run was interrupted.
    """

    tokenizer: Any = None
    block_size: int | None = None
    noise_schedule: Any = None
    generator: torch.Generator | None = None

    @abstractmethod
    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        """Collate examples, one per row, into tensors on the CPU."""


class NoiseSchedule(ABC):
    """How much of a text is noise at each time between 0 (none) and 1 (all)."""

    @abstractmethod
    def noise_rate(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the derivative of the total noise."""

    @abstractmethod
    def total_noise(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the integral of the rate from 0 to t."""

    @abstractmethod
    def t_from_noise_rate(self, noise_rate: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Invert `noise_rate`."""

    @abstractmethod
    def t_from_total_noise(self, total_noise: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Invert `total_noise`."""

    @abstractmethod
    def sample_t(
        self, batch_size: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, " batch"]:
        """Draw one time per row."""

    def __call__(
        self, t: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Return the rate and the total noise."""
        return self.noise_rate(t), self.total_noise(t)


class Model(nn.Module, ABC):
    """A network that says which of its weights decay."""

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the family's loss and predictor ask for."""

    def get_named_params_for_weight_decay(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the matrices: every parameter that is neither bias, norm nor vector."""
        return ((name, weight) for name, weight in self.named_parameters() if _decays(name, weight))

    def get_named_params_for_no_weight_decay(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all other parameters, so that the two are a partition."""
        return (
            (name, weight) for name, weight in self.named_parameters() if not _decays(name, weight)
        )


@runtime_checkable
class ResumableLoader(Protocol):
    """A training loader that can go on from the middle of an epoch.

    The harness hands it what `{"epoch": e, "batch": b}` says: the next batch that it yields is
    batch `b` of epoch `e`, the same one as in an uninterrupted run. It counts the batches that were
    trained on, not those that workers have fetched ahead.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of batches that were yielded in it."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there at the next `iter`."""
        ...


@runtime_checkable
class DataSource(Protocol):
    """What the harness reads of a data module besides its Lightning loaders.

    Attributes:
        tokenizer: Shared by all loaders.
        noise_schedule: The family's, or None.
        dataloader_names: Split (train, val, test, predict) to the names of its loaders, in order.
        dataloader_kinds: Split to the kinds of its loaders, in the same order.
    """

    tokenizer: Any
    noise_schedule: Any
    dataloader_names: Mapping[str, Sequence[str]]
    dataloader_kinds: Mapping[str, Sequence[LoaderKind]]

    def set_epoch(self, epoch: int) -> None:
        """Reshuffle for an epoch."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the data of a run, for its manifest."""
        ...


def default_loader_kind(name: str) -> LoaderKind:
    """Return the kind that a loader's name stands for where its configuration says nothing.

    Args:
        name: Such as "lm", "prediction" or "unconditional_prediction".

    Raises:
        ArgumentError: The name stands for neither kind.
    """
    words = name.lower().split("_")
    if "prediction" in words:
        return "predict"
    if "lm" in words:
        return "loss"
    message = (
        f"the name of loader {name!r} says not whether it is for the loss or for prediction; "
        "set its kind to 'loss' or 'predict'"
    )
    raise ArgumentError(message)


def _decays(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim > 1 and not any(word in name for word in _UNSCALED)


__all__ = [
    "IGNORED",
    "Batch",
    "Collator",
    "DataSource",
    "LoaderKind",
    "LossFunction",
    "Model",
    "NLLBound",
    "NoiseSchedule",
    "Out",
    "Predictor",
    "Preds",
    "ResumableLoader",
    "default_loader_kind",
]
