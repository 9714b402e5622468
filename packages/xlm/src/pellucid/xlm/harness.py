"""The harness: one Lightning module that trains, evaluates and samples every family."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from pellucid.core import ArgumentError, ContractError
from pellucid.xlm._addresses import GlobalRandomness, seed_at
from pellucid.xlm._building import build, build_components
from pellucid.xlm._checkpointed import CheckpointedModule
from pellucid.xlm._finite import FiniteWatch
from pellucid.xlm._measuring import MetricTable
from pellucid.xlm._optimization import clip, configure
from pellucid.xlm._prediction_log import Place
from pellucid.xlm._resolvers import live_resolvers, register_resolvers
from pellucid.xlm._step_log import StepLog
from pellucid.xlm.contracts import LoaderKind, NLLBound, default_loader_kind

_TRAIN_LOG = {"train/loss": "loss"}


class Harness(CheckpointedModule):
    """Wires the parts of a family together and runs them.

    The parts are built from `cfg` in this order, so that later ones can refer to earlier ones by
    `${tokenizer:...}`, `${datamodule:...}` and `${lightning_module:...}`: noise schedule, model,
    predictor, loss, metrics, prediction log, post-hoc evaluator.

    Before each batch the generators of torch, of the loss and of the predictor are seeded from its
    address (seed, stage, rank, epoch, batch), which is what makes a resumed run draw what the
    uninterrupted one drew. Batches of an evaluation whose rows have numbers, `row_ids`, also get a
    `row_seed`, which follows from seed, split and loader alone: what is drawn by these (see
    `pellucid.xlm.sampling.RowStreams`) depends on no batch size. The caller's state of
    torch's generator is put back in the end.

    Args:
        cfg: The composed configuration.
        tokenizer: Of the run; `cfg.global_components.tokenizer` if None, then the data module's.
        datamodule: Names the loaders; None for a harness that is only asked to generate.
        write_per_sample_metrics: Put each sample's metric into its prediction record.
        log: Name in the log to key of the loss's output, for training steps; `train/loss` if None.

    Raises:
        ArgumentError: A part is missing from the configuration, or wrong.
    """

    # Set past nn.Module: a part that is a module would list the model's weights twice.
    data: Any
    predictor: Any
    loss_function: Any
    metrics: MetricTable
    log_predictions: Any
    post_hoc_evaluator: Any

    def __init__(
        self,
        cfg: Mapping[str, Any],
        tokenizer: Any = None,
        datamodule: Any = None,
        *,
        write_per_sample_metrics: bool = False,
        log: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        register_resolvers()
        self.cfg = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg))
        self.write_per_sample_metrics = write_per_sample_metrics
        self.train_log = dict(log or _TRAIN_LOG)
        self.seed = int(OmegaConf.select(self.cfg, "seed", default=0))
        self._refuse_legacy_keys()
        object.__setattr__(self, "data", datamodule)
        components = build_components(self.cfg)
        held = getattr(datamodule, "tokenizer", None)
        self.tokenizer = next((t for t in (tokenizer, held) if t is not None), None)
        if self.tokenizer is None:
            self.tokenizer = components.get("tokenizer")
        self.noise_schedule = getattr(datamodule, "noise_schedule", None)
        if self.noise_schedule is None:
            self.noise_schedule = components.get("noise_schedule")
        with live_resolvers(
            tokenizer=self.tokenizer,
            datamodule=datamodule,
            lightning_module=self,
            global_components=components,
        ):
            self._build_parts()
        self.predictions_dir = self._predictions_dir()
        self._finite = FiniteWatch()
        self._step_log = StepLog()
        self._generator: torch.Generator | None = None
        self._global: GlobalRandomness | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            # Lightning notes its hook fifty times a step; a module would look for weights first.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # ---- construction -----------------------------------------------------------------------

    def _refuse_legacy_keys(self) -> None:
        if OmegaConf.select(self.cfg, "generative_perplexity") is not None:
            message = "generative_perplexity moved; configure it under post_hoc_evaluator"
            raise ArgumentError(message)

    def _build_parts(self) -> None:
        if self.noise_schedule is None:
            self.noise_schedule = self._optional("noise_schedule")
        self.model: nn.Module = build(self.cfg, "model")
        object.__setattr__(self, "predictor", self._optional("predictor"))
        object.__setattr__(self, "loss_function", self._optional("loss"))
        self._fill(self.predictor, ("model", "tokenizer", "noise_schedule"))
        self._fill(self.loss_function, ("model", "tokenizer"))
        self._check_parts()
        self.dataloader_names: Mapping[str, Sequence[str]] = dict(
            getattr(self.data, "dataloader_names", {}) or {}
        )
        self.metrics = MetricTable.from_config(self.cfg, self.dataloader_names)
        self.log_predictions = self._optional("log_predictions")
        self.post_hoc_evaluator = self._optional("post_hoc_evaluator")

    def _optional(self, key: str) -> Any:
        return None if OmegaConf.select(self.cfg, key) is None else build(self.cfg, key)

    def _fill(self, part: Any, names: Sequence[str]) -> None:
        for name in names if part is not None else ():
            if getattr(part, name, None) is None:
                object.__setattr__(part, name, getattr(self, name))

    def _check_parts(self) -> None:
        for part in (self.loss_function, self.predictor):
            if part is not None and part.model is not self.model:
                message = (
                    f"{type(part).__name__} holds another model than the harness; leave its model "
                    "out of the configuration"
                )
                raise ArgumentError(message)
        for part, method in ((self.loss_function, "loss_fn"), (self.predictor, "predict")):
            if part is not None and not callable(getattr(part, method, None)):
                raise ContractError(f"{type(part).__name__} has no {method}; define it")

    def _predictions_dir(self) -> Path | None:
        run_dir = OmegaConf.select(self.cfg, "paths.run_dir")
        return None if run_dir is None else Path(run_dir) / "predictions"

    # ---- set-up -----------------------------------------------------------------------------

    def teardown(self, stage: str) -> None:
        """Put the caller's random state back, which every batch overwrote."""
        del stage
        if self._global is not None:
            self._global.restore()
            self._global = None

    def configure_model(self) -> None:
        """Let the loss prepare for the device, and compile it if `compile` is set.

        `compile` is true, or a mapping of what `torch.compile` is called with.
        """
        loss = self.loss_function
        if loss is None or getattr(self, "_is_configured", False):
            return
        self._is_configured = True
        loss.configure(self)
        settings: Any = OmegaConf.select(self.cfg, "compile", default=False)
        if settings:
            is_mapping = isinstance(settings, DictConfig)
            own: Any = OmegaConf.to_container(settings) if is_mapping else {}
            compiled: Any = torch.compile
            loss.loss_fn = compiled(loss.loss_fn, **{"fullgraph": False, **own})

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule from the configuration; biases and norms do not decay."""
        with live_resolvers(lightning_module=self, tokenizer=self.tokenizer):
            return configure(self.cfg, self.model, self.trainer.max_steps)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Drop the gradients, as the optimizer would; it takes five times as long to do so."""
        del epoch, batch_idx
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, and log the norm that clipping computed anyway; without clipping, none is."""
        if not gradient_clip_val:
            return
        if isinstance(self.trainer.strategy, FSDPStrategy):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        norm = clip(weights, gradient_clip_val, gradient_clip_algorithm)
        if norm is not None and self.is_logging_step:
            self._log_step({"train/grad_norm": norm})

    # ---- steps ------------------------------------------------------------------------------

    @property
    def is_logging_step(self) -> bool:
        """Whether this training step is written to the log; no other one may wait for a value."""
        every: int = getattr(self.trainer, "log_every_n_steps", 1)
        return (self.trainer.global_step + 1) % max(every, 1) == 0

    def loader_of(self, split: str, index: int = 0) -> tuple[str, LoaderKind]:
        """Return the name and the kind of a split's loader."""
        names = self.dataloader_names.get(split)
        if not names:
            # Loaders that were handed to the trainer without a data module.
            return ("prediction", "predict") if split == "predict" else ("lm", "loss")
        kinds = getattr(self.data, "dataloader_kinds", {}).get(split)
        return names[index], kinds[index] if kinds else default_loader_kind(names[index])

    def compute_loss(
        self, batch: Any, batch_idx: int, dataloader_idx: int, *, split: str
    ) -> dict[str, Any]:
        """Hand a batch to the loss or to the predictor, whichever its loader is for.

        Raises:
            ArgumentError: The configuration has no such part.
        """
        name, kind = self.loader_of(split, dataloader_idx)
        part = self.loss_function if kind == "loss" else self.predictor
        if part is None:
            key = "loss" if kind == "loss" else "predictor"
            raise ArgumentError(f"{split} loader {name!r} needs a {key}; configure {key!r}")
        run = part if kind == "loss" else part.predict
        out = run(batch, batch_idx, dataloader_idx, name)
        if not isinstance(out, Mapping):
            message = f"{type(part).__name__} returned {type(out).__name__}, not a mapping"
            raise ContractError(message)
        return dict(out)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, and log it if it is time to."""
        self._seed_batch("train", self.current_epoch, batch_idx)
        name, _ = self.loader_of("train")
        out = self.compute_loss(batch, batch_idx, 0, split="train")
        loss: Tensor = out["loss"]
        self._finite.see(loss, self.trainer.global_step)
        self.metrics.update("train", name, batch, out, self.tokenizer)
        if self.is_logging_step:
            self._finite.check()
            values = {shown: out[key].detach() for shown, key in self.train_log.items()}
            in_bar = tuple(shown for shown, key in self.train_log.items() if key == "loss")
            self._log_step(values, in_bar=in_bar)
        return loss

    def _log_step(self, values: Mapping[str, Tensor], *, in_bar: Sequence[str] = ()) -> None:
        self._step_log.note(self.trainer.global_step, values)
        for shown, value in values.items():
            self.log(shown, value, prog_bar=shown in in_bar, batch_size=1)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure a batch of a validation loader."""
        self._evaluation_step(batch, batch_idx, dataloader_idx, split="val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure a batch of a test loader."""
        self._evaluation_step(batch, batch_idx, dataloader_idx, split="test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Predict from a batch, and keep the records."""
        return self._evaluation_step(batch, batch_idx, dataloader_idx, split="predict")

    def _evaluation_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int, *, split: str
    ) -> dict[str, Any]:
        self._seed_batch(split, dataloader_idx, batch_idx)
        name, kind = self.loader_of(split, dataloader_idx)
        if isinstance(batch, Mapping) and "row_ids" in batch:
            # The same for all batches and ranks: what a row draws follows from its number.
            batch = {**batch, "row_seed": seed_at(self.seed, "rows", split, name)}
        out = self.compute_loss(batch, batch_idx, dataloader_idx, split=split)
        if kind == "loss" and self.metrics.needs_bound(split, name):
            out["nll_bound"] = self.nll_bound(batch)
        self.metrics.update(split, name, batch, out, self.tokenizer)
        if kind == "predict" and self.log_predictions is not None:
            if self.write_per_sample_metrics:
                out.update(self.metrics.per_sample(split, name))
            self.log_predictions(self, batch, out, split=split, loader=name)
        return out

    def _seed_batch(self, *place: int | str) -> None:
        seed = seed_at(self.seed, self.global_rank, *place)
        if self._global is None:
            self._global = GlobalRandomness(self.device)
        self._global.seed(seed)
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device)
            for part in (self.loss_function, self.predictor):
                if part is not None:
                    part.generator = self._generator
        self._generator.manual_seed(seed)

    # ---- epochs -----------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Tell the data module which epoch it is."""
        if self.data is not None:
            self.data.set_epoch(self.current_epoch)

    def on_train_epoch_end(self) -> None:
        """Log the averages of the epoch."""
        self._finite.check()
        self._log_metrics("train")

    def on_validation_epoch_start(self) -> None:
        """Forget what an evaluation that broke off left behind."""
        self._forget("val")

    def on_test_epoch_start(self) -> None:
        """Forget what an evaluation that broke off left behind."""
        self._forget("test")

    def on_predict_epoch_start(self) -> None:
        """Forget what an evaluation that broke off left behind."""
        self._forget("predict")

    def on_validation_epoch_end(self) -> None:
        """Log metrics and write predictions."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log metrics and write predictions."""
        self._finish("test")

    def on_predict_epoch_end(self) -> None:
        """Write predictions."""
        self._finish("predict")

    def _forget(self, split: str) -> None:
        if self.log_predictions is not None:
            self.log_predictions.discard(split)

    def _finish(self, split: str) -> None:
        if split != "predict":
            self._log_metrics(split)
        if self.log_predictions is None or self.trainer.sanity_checking:
            self._forget(split)
            return
        for index, _ in enumerate(self.dataloader_names.get(split, ())):
            name, kind = self.loader_of(split, index)
            if kind == "predict":
                self._write_predictions(split, name)

    def _write_predictions(self, split: str, name: str) -> None:
        if self.predictions_dir is None:
            raise ArgumentError("predictions have nowhere to go; configure paths.run_dir")
        place = Place(
            self.predictions_dir,
            split=split,
            loader=name,
            epoch=self.current_epoch,
            # An evaluation by itself makes no steps.
            step=max(self.trainer.global_step, self.weights_step),
            module=self,
        )
        records = self.log_predictions.flush(place)
        if self.post_hoc_evaluator is not None and records:
            _, values = self.post_hoc_evaluator.eval(
                records, tokenizer=self.tokenizer, dataloader_name=name
            )
            shown = {f"{split}/{key}": float(value) for key, value in values.items()}
            if split != "predict":
                self.log_dict(shown, rank_zero_only=True)

    def _log_metrics(self, split: str) -> None:
        values = self.metrics.collect(split)
        if values and not self.trainer.sanity_checking:
            self.log_dict(values)

    # ---- likelihood -------------------------------------------------------------------------

    def nll_bound(self, batch: Any) -> NLLBound:
        """Bound the negative log-likelihood of each row of a batch; see `LossFunction`.

        Raises:
            ArgumentError: The configuration has no loss.
        """
        if self.loss_function is None:
            raise ArgumentError("a likelihood needs a loss; configure 'loss'")
        with torch.no_grad():
            return self.loss_function.nll_bound(batch)


__all__ = ["Harness"]
