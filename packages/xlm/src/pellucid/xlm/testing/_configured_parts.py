"""The parts of a family as one of its experiments configures them, for the suites."""

import functools
from typing import Any

from omegaconf import OmegaConf

from pellucid.core import ArgumentError
from pellucid.xlm._assembly import assemble
from pellucid.xlm._trial import compose_small
from pellucid.xlm.testing._family_contract import FamilyParts


def parts_of_experiment(
    experiment: str, *overrides: str, seed: int = 0, extra_padding: int = 0
) -> FamilyParts:
    """Build what an experiment configures, with the model that `debug=smoke` chooses.

    Args:
        experiment: Such as "star_easy_arlm"; its collators are those of training and of the loader
            `prediction`, its examples the first of its debug data.
        overrides: Further ones, as on the command line.
        seed: Of the weights.
        extra_padding: How much wider the block of prompts is, which is padded to then.

    Raises:
        ArgumentError: The experiment has no loader to train or to predict with.
        PellucidError: It cannot be composed or built.
    """
    cfg = _compose(experiment, overrides).copy()
    cfg.seed = seed
    if extra_padding:
        cfg.input_block_size += extra_padding
        place = "datamodule.dataset_managers.predict.prediction.collator.truncate"
        OmegaConf.update(cfg, place, "block")
    assembly = assemble(cfg)
    train = next(iter(assembly.data.dataset_managers["train"].values()), None)
    prediction = assembly.data.dataset_managers["predict"].get("prediction")
    if train is None or prediction is None:
        raise ArgumentError(
            f"experiment {experiment!r} lacks a dataset to train with, or a predict loader of the "
            "name 'prediction'; name an experiment that has both"
        )
    return FamilyParts(
        tokenizer=assembly.harness.tokenizer,
        model=assembly.harness.model,
        loss=assembly.harness.loss_function,
        predictor=assembly.harness.predictor,
        collator=train.collator,
        prediction_collator=prediction.collator,
        examples=_examples(train, assembly.harness.tokenizer),
    )


@functools.cache
def _compose(experiment: str, overrides: tuple[str, ...]) -> Any:
    return compose_small(experiment, *overrides)


def _examples(manager: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Return rows as the collator is given them."""
    own, manager.collator = manager.collator, list
    try:
        manager.setup("fit", None, tokenizer, debug=True)
        return next(iter(manager.get_dataloader("train")))
    finally:
        manager.collator = own


__all__ = ["parts_of_experiment"]
