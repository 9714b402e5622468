from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._compose import CONFIG_DIR, compose_config, list_options
from pellucid.xlm._resolvers import register_resolvers

TESTS = Path(__file__).parent
RUN = ["experiment=rows_tinyfam", "job_name=t"]


@pytest.fixture(autouse=True)
def tiny_family(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLM_MODELS_PATH", str(TESTS))


def test_an_experiment_composes_its_parts():
    cfg = compose_config(RUN)
    assert cfg.model.d_model == 16
    assert cfg.paths.run_dir == "logs/t"
    assert cfg.global_batch_size == 4
    assert cfg.trainer.accumulate_grad_batches == 1
    assert cfg.callbacks.checkpoint.monitor == "val/lm/accumulated_loss"
    assert cfg.choices.experiment == "rows_tinyfam"


@pytest.mark.parametrize("debug", sorted(p.stem for p in (CONFIG_DIR / "debug").glob("*.yaml")))
def test_every_debug_option_goes_with_an_experiment(debug):
    cfg = compose_config([*RUN, f"debug={debug}"])
    small = debug in ("overfit", "smoke")
    assert cfg.model.d_model == (8 if small else 16)


def test_a_model_that_was_chosen_stays_in_a_debug_run():
    assert compose_config([*RUN, "debug=smoke", "model=tiny_tinyfam"]).model.d_model == 16


@pytest.mark.parametrize("group", ["callbacks", "loggers", "trainer_strategy"])
def test_every_option_of_a_group_composes(group):
    options = list_options(group)
    assert len(options) > 1
    for option in options:
        cfg = compose_config([*RUN, f"{group}={option}"])
        OmegaConf.to_container(cfg[group if group != "trainer_strategy" else "trainer"])


@pytest.mark.parametrize("task", sorted(p.stem for p in (CONFIG_DIR / "datamodule").glob("*.yaml")))
def test_every_data_module_composes(task):
    cfg = compose_config([f"datamodule={task}", "job_name=t"], check=False)
    for managers in cfg.datamodule.dataset_managers.values():
        for manager in managers.values():
            assert str(manager.full_name).startswith("local://")


def test_batches_are_accumulated_to_the_global_batch():
    cfg = compose_config([*RUN, "global_batch_size=16"])
    assert cfg.trainer.accumulate_grad_batches == 4
    cfg = compose_config([*RUN, "global_batch_size=6"])
    with pytest.raises(Exception, match="global_batch_size 6 is no multiple of 4"):
        OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["experiment=rows_tinyfan"], UnknownNameError, "Did you mean 'rows_tinyfam'"),
        (["experiment=rows_tinyfam", "debug=smokey"], UnknownNameError, "Did you mean 'smoke'"),
        (["experiment=rows_tinyfam", "trainer_stategy=cpu"], UnknownNameError, "trainer_strategy"),
        (["experiment=rows_tinyfam", "trainer_strategy=cpux"], UnknownNameError, "'cpu'"),
        (["model=nano_tinyfam"], ArgumentError, "no datamodule was chosen"),
        (["experiment=rows_tinyfam", "seed=[1"], ArgumentError, "cannot be composed"),
        (["experiment=rows_tinyfam", "trainer.max_stepz=1"], UnknownNameError, "max_step"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(overrides, error, message):
    with pytest.raises(error, match=message) as caught:
        compose_config([*overrides, "job_name=t"])
    assert "\n" not in str(caught.value)


def test_resolvers_do_arithmetic():
    register_resolvers()
    cfg = OmegaConf.create(
        {
            "a": 3,
            "sum": "${eval:${a}+${oc.select:b,0}*2}",
            "up": "${div_up:7,2}",
            "most": "${max:1,${a}}",
            "least": "${min_int:2.5,${a}}",
            "which": "${if_else:${eval:'${a} > 2'},yes,no}",
        }
    )
    held = OmegaConf.to_container(cfg, resolve=True)
    expected = {"a": 3, "sum": 3, "up": 4, "most": 3, "least": 2, "which": "yes"}
    assert held == expected
