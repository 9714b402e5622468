"""Train, evaluate and sample language models, autoregressive or not, with one harness.

A family is a model, a loss, a predictor and a collator, put together by a Hydra configuration; the
contracts between them are in `pellucid.xlm.contracts`, and `pellucid.xlm.harness` runs them. Every
name here is imported when it is first used, so that asking the command for help costs no import of
torch.
"""

import importlib
from typing import Any

# Module to the public names that it gives to this package.
_EXPORTS: dict[str, tuple[str, ...]] = {
    "_compose": ("compose_config",),
    "_discovery": ("ExternalModelConflictError", "Family", "discover_families"),
    "_evaluation": ("load_trained",),
    "_finite": ("NonFiniteLossError",),
    "_jobs": ("run_job",),
    "_schedules": ("build_lr_schedule",),
    "callbacks": (
        "AtomicCheckpointIO",
        "EMACallback",
        "InterruptCheckpoint",
        "LogPredictions",
        "LossLog",
        "ProgressBar",
        "ThinningCheckpoint",
    ),
    "contracts": (
        "Collator",
        "DataSource",
        "LossFunction",
        "Model",
        "NLLBound",
        "NoiseSchedule",
        "Predictor",
        "ResumableLoader",
        "default_loader_kind",
    ),
    "datamodule": (
        "DatasetManager",
        "DefaultCollator",
        "DefaultCollatorWithDynamicPadding",
        "DefaultCollatorWithPadding",
        "EvalDatasetManager",
        "LocalDatasetManager",
        "SimpleSpaceTokenizer",
        "TextDataModule",
        "UnconditionalGenerationDatasetManager",
        "load_auto_tokenizer",
        "pack_sequences",
        "pad_truncate_list",
    ),
    "harness": ("Harness",),
    "metrics": (
        "CompositePostHocEvaluator",
        "ExactMatch",
        "MeanMetricWithComputedValue",
        "MetricWrapper",
        "NatsPerToken",
        "Perplexity",
        "TokenAccuracy",
    ),
    "noise": ("ContinuousTimeLinear", "ContinuousTimeLogLinear", "DummyNoiseSchedule"),
    "scoring": ("TextScorer",),
    "sources": ("generate_star_graphs", "local_sources", "open_local", "register_local_source"),
}

_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
