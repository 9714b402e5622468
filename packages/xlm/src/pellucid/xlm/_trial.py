"""Does an experiment work? One batch of everything, in memory."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import OmegaConf

from pellucid.core import ArgumentError
from pellucid.xlm._assembly import Assembly, assemble
from pellucid.xlm._compose import compose_config


def compose_small(experiment: str, *overrides: str, examples: int = 3) -> Any:
    """Compose an experiment with a nano model and few examples, of which nothing is kept.

    Raises:
        PellucidError: It cannot be composed.
    """
    own = [
        f"experiment={experiment}",
        "job_name=trial",
        "debug=smoke",
        f"debug_examples={examples}",
    ]
    cfg = compose_config([*own, f"debug_examples={examples}", *overrides])
    if OmegaConf.select(cfg, "datamodule.manual_cache_dir") is not None:
        cfg.datamodule.manual_cache_dir = None
    return cfg


def try_experiment(experiment: str) -> None:
    """Build an experiment, differentiate its loss, and predict; raise whatever goes wrong.

    Raises:
        ArgumentError: The loss is no number, or a row has no record.
    """
    assembly = assemble(compose_small(experiment))
    assembly.data.prepare_data()
    assembly.harness.configure_model()
    for part in (assembly.harness.loss_function, assembly.harness.predictor):
        if part is not None:
            part.generator = torch.Generator().manual_seed(0)
    if assembly.harness.loss_function is not None:
        _try_loss(assembly)
    if assembly.harness.predictor is not None:
        _try_prediction(assembly)


def _try_loss(assembly: Assembly) -> None:
    assembly.data.setup("fit")
    batch = next(iter(assembly.data.train_dataloader()))
    loss = assembly.harness.loss_function(batch)["loss"]
    if not bool(loss.isfinite()):
        raise ArgumentError(f"the loss of the first batch is {float(loss)!r}")
    loss.backward()
    if all(weight.grad is None for weight in assembly.harness.model.parameters()):
        raise ArgumentError("the loss depends on no weight of the model")


def _try_prediction(assembly: Assembly) -> None:
    if not assembly.data.dataloader_names.get("predict"):
        return
    assembly.data.setup("predict")
    loaders: Any = assembly.data.predict_dataloader()
    predictor = assembly.harness.predictor
    for loader in loaders if isinstance(loaders, list) else [loaders]:
        batch: Mapping[str, Any] = next(iter(loader))
        records = predictor.to_dict(batch, predictor.predict(batch))
        if len(records) != len(batch["input_ids"]):
            raise ArgumentError(f"{len(batch['input_ids'])} rows have {len(records)} records")


__all__ = ["compose_small", "try_experiment"]
