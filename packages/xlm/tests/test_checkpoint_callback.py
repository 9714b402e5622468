import signal
from types import SimpleNamespace
from unittest.mock import Mock

import lightning
import pytest
from test_harness import fit

from pellucid.core import ArgumentError
from pellucid.xlm._checkpoint_callback import checkpoints_in, step_of
from pellucid.xlm.callbacks import InterruptCheckpoint, ThinningCheckpoint


def steps_in(directory):
    return [step_of(path) for path in checkpoints_in(directory)]


def test_the_latest_and_every_milestone_stay(tmp_path):
    fit(
        tmp_path,
        ThinningCheckpoint(tmp_path / "c", every_n_train_steps=2, keep_last=2, keep_multiple=4),
        steps=11,
    )
    # Eleven is where training ended.
    assert steps_in(tmp_path / "c") == [4, 8, 10, 11]


@pytest.mark.parametrize(("mode", "best"), [("min", 3), ("max", 4)])
def test_the_best_is_kept_beside_them(tmp_path, mode, best):
    callback = ThinningCheckpoint(tmp_path, 100, monitor="score", mode=mode)
    saved = []

    def save(path):
        saved.append(path)
        path.write_bytes(b"")

    trainer = Mock(spec=lightning.Trainer)
    trainer.sanity_checking, trainer.is_global_zero = False, True
    trainer.state = SimpleNamespace(fn="fit")
    trainer.save_checkpoint = save
    for step, score in enumerate([2.0, 2.0, 1.5, 1.0, 3.0, 1.2]):
        trainer.global_step = step
        trainer.callback_metrics = {"score": score}
        callback.on_validation_end(trainer, Mock(spec=lightning.LightningModule))
    assert [step_of(path) for path in tmp_path.glob("best_step_*.ckpt")] == [best]
    again = ThinningCheckpoint(tmp_path, 100, monitor="score", mode=mode)
    again.load_state_dict(callback.state_dict())
    assert again.best_score == callback.best_score


def test_a_metric_that_was_not_logged_is_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"'val/nothing' was not logged; there are: .*val/lm"):
        fit(
            tmp_path,
            ThinningCheckpoint(tmp_path / "c", monitor="val/nothing"),
            val_check_interval=2,
            check_val_every_n_epoch=None,
            steps=2,
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_train_steps": 0}, "every_n_train_steps must be 1 or more"),
        ({"keep_last": 0}, "keep_last must be 1 or more"),
        ({"mode": "least"}, "mode must be 'min' or 'max'"),
    ],
)
def test_settings_without_meaning_are_refused(tmp_path, settings, message):
    with pytest.raises(ArgumentError, match=message):
        ThinningCheckpoint(tmp_path, **settings)


def test_what_a_killed_run_left_of_a_checkpoint_is_removed(tmp_path):
    part = tmp_path / "c" / ".step_00000001.ckpt.1.partial"
    part.parent.mkdir()
    part.write_bytes(b"half")
    fit(tmp_path, ThinningCheckpoint(tmp_path / "c"), steps=1)
    assert not part.exists()


def test_an_interrupt_ends_the_run_after_its_step_with_a_checkpoint(tmp_path):
    class Interrupt(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 3:
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    callback = InterruptCheckpoint(tmp_path / "c", every_n_train_steps=100)
    _, losses = fit(tmp_path, Interrupt(), callback)
    assert callback.was_interrupted
    assert len(losses) == 4
    assert steps_in(tmp_path / "c") == [4]
    assert signal.getsignal(signal.SIGINT) is before
