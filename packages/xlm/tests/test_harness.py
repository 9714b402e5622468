import json
import warnings

import lightning
import pytest
import torch
from xlm_tiny_family import TinyData, TinyModel, tiny_config

from pellucid.core import ArgumentError, CheckpointError, UnknownNameError
from pellucid.xlm import Harness
from pellucid.xlm._finite import NonFiniteLossError
from pellucid.xlm.callbacks import AtomicCheckpointIO, EMACallback, LossLog, ThinningCheckpoint


class Losses(lightning.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((trainer.global_step, outputs["loss"].item()))


def trainer(path, *callbacks, steps=12, **settings):
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        logger=LossLog(path),
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        **{"log_every_n_steps": 2, "enable_checkpointing": False, **settings},
    )


def fit(path, *callbacks, resume=None, steps=12, changes=None, **settings):
    data = TinyData()
    harness = Harness(tiny_config(path, **(changes or {})), datamodule=data)
    losses = Losses()
    run = trainer(path, losses, *callbacks, steps=steps, **settings)
    run.fit(harness, datamodule=data, ckpt_path=resume)
    return harness, dict(losses.seen)


def test_a_run_trains_validates_and_logs(tmp_path):
    harness, losses = fit(tmp_path, val_check_interval=4, check_val_every_n_epoch=None)
    assert len(losses) == 12
    assert losses[12] < losses[1]
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    names = set().union(*log)
    assert {"train/loss", "train/grad_norm", "val/lm/accumulated_loss"} <= names
    assert [row["step"] for row in log if "train/loss" in row] == [1, 3, 5, 7, 9, 11]
    bound = harness.nll_bound({"input_ids": torch.ones(2, 6, dtype=torch.long)})
    assert bound.nats.shape == (2,)


def test_the_callers_random_state_is_kept(tmp_path):
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    fit(tmp_path, steps=2)
    # Weights are drawn where any module's are; training itself leaves no trace.
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), expected)
