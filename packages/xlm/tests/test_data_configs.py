"""The leaves of the configuration that say what data there is and how it is measured."""

from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from xlm_data_tools import keep

import pellucid.xlm.contracts
from pellucid.xlm.contracts import NoiseSchedule
from pellucid.xlm.datamodule import DatasetManager
from pellucid.xlm.metrics import MetricWrapper, PostHocEvaluator
from pellucid.xlm.sources import open_local

CONFIGS = Path(pellucid.xlm.contracts.__file__).parent / "configs"
SETTINGS = {"debug_examples": 8, "per_device_batch_size": 4, "num_dataset_workers": 0}
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def leaves(group: str) -> list[Path]:
    found = sorted((CONFIGS / group).glob("*.yaml"))
    assert found, f"there is no configuration in {group}"
    return found


def load(path: Path):
    """Return a leaf with what it is based on, as Hydra composes it."""
    leaf = OmegaConf.load(path)
    bases = [load(path.parent / f"{name}.yaml") for name in leaf.pop("defaults", [])]
    return OmegaConf.merge(*bases, leaf)


def named(paths) -> dict:
    return {"argvalues": paths, "ids": [path.stem for path in paths]}


GENERATED = [path for path in leaves("datasets") if "local://" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", **named(GENERATED))
def test_a_dataset_is_of_the_split_that_its_name_says(path) -> None:
    cfg = OmegaConf.merge(SETTINGS, load(path))
    name = path.stem.removesuffix("_pred")
    split = name.rpartition("_")[2]
    assert open_local(cfg.full_name).split == SPLITS[split]
    debug = open_local(cfg.full_name_debug)
    assert (debug.split, len(debug)) == ("train", 8)
    # Otherwise the two are of one kind.
    assert type(debug) is type(open_local(cfg.full_name))
    assert cfg.kind == ("predict" if path.stem.endswith("_pred") else "loss")
    del cfg["collator"]
    resolved = OmegaConf.to_container(cfg, resolve=True)
    settings = {name: held for name, held in resolved.items() if name not in SETTINGS}
    held = hydra.utils.instantiate(settings, collator=keep, _convert_="all")
    assert isinstance(held, DatasetManager)
    assert held.dataloader_kwargs["batch_size"] == 4


@pytest.mark.parametrize("path", **named(leaves("metrics")))
def test_a_metric_is_made(path) -> None:
    wrapper = hydra.utils.instantiate(load(path), prefix="val/lm")
    assert isinstance(wrapper, MetricWrapper)
    assert wrapper.log_name == f"val/lm/{path.stem}"


@pytest.mark.parametrize("path", **named(leaves("noise_schedule")))
def test_a_noise_schedule_is_made(path) -> None:
    schedule = hydra.utils.instantiate(load(path).global_components.noise_schedule)
    assert isinstance(schedule, NoiseSchedule)
    if path.stem != "dummy":
        assert schedule.total_noise(torch.ones(1)).item() == pytest.approx(9.2)


@pytest.mark.parametrize("path", **named(leaves("post_hoc_evaluator")))
def test_a_post_hoc_evaluator_is_made(path) -> None:
    evaluator = hydra.utils.instantiate(load(path), _convert_="all")
    assert isinstance(evaluator, PostHocEvaluator)
    _, values = evaluator.eval([{"text": "( )"}], dataloader_name="prediction")
    assert ("unigram_entropy" in values) == (path.stem != "default")
    assert values.get("validity", 1.0) == 1.0
