"""No time is spent on measuring nothing, and whoever wants to measure can."""

import pytest
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import OmegaConf

from pellucid.xlm._assembly import build_trainer
from pellucid.xlm._unprofiled import Unprofiled


def trainer(tmp_path, **changes):
    settings = {"accelerator": "cpu", "default_root_dir": str(tmp_path), "logger": False, **changes}
    tree = {"trainer": {"_target_": "lightning.Trainer", **settings}}
    return build_trainer(OmegaConf.create(tree), is_training=False)


def test_the_default_runs_what_it_is_put_around(tmp_path) -> None:
    profiler = trainer(tmp_path).profiler
    assert isinstance(profiler, Unprofiled)
    with profiler.profile("outer"), profiler.profile("inner"):
        seen = "run"
    assert seen == "run"
    with pytest.raises(ValueError, match="not hidden"), profiler.profile("action"):
        raise ValueError("not hidden")


def test_a_profiler_that_is_configured_is_used(tmp_path) -> None:
    assert isinstance(trainer(tmp_path, profiler="simple").profiler, SimpleProfiler)
