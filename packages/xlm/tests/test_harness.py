import json

import lightning
import pytest
import torch
from xlm_tiny_family import TinyData, tiny_config

from pellucid.core import ArgumentError, CheckpointError, UnknownNameError
from pellucid.xlm import Harness
from pellucid.xlm._finite import NonFiniteLossError
from pellucid.xlm.callbacks import AtomicCheckpointIO, EMACallback, LossLog, ThinningCheckpoint


class Losses(lightning.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((trainer.fit_loop.total_batch_idx, outputs["loss"].item()))


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
        **{
            "log_every_n_steps": 2,
            "enable_checkpointing": any(isinstance(c, ThinningCheckpoint) for c in callbacks),
            **settings,
        },
    )


def fit(path, *callbacks, resume=None, steps=12, changes=None, data=None, **settings):
    data = data or TinyData()
    torch.manual_seed(0)  # weights are drawn where any module's are
    harness = Harness(tiny_config(path, **(changes or {})), datamodule=data)
    losses = Losses()
    run = trainer(path, losses, *callbacks, steps=steps, **settings)
    run.fit(harness, datamodule=data, ckpt_path=resume)
    return harness, dict(losses.seen)


def log_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_run_trains_validates_and_logs(tmp_path):
    harness, losses = fit(tmp_path, val_check_interval=4, check_val_every_n_epoch=None)
    assert len(losses) == 12
    assert losses[11] < losses[0]
    log = log_of(tmp_path)
    names = set().union(*log)
    assert {"train/loss", "train/grad_norm", "train/lm/accumulated_loss"} <= names
    assert {"val/lm/accumulated_loss", "val/lm/perplexity", "val/prediction/same"} <= names
    assert [row["step"] for row in log if "train/loss" in row] == [1, 3, 5, 7, 9, 11]
    bound = harness.nll_bound({"input_ids": torch.ones(2, 6, dtype=torch.long)})
    assert bound.nats.shape == (2,)
    assert not bound.nats.requires_grad


def test_predictions_are_written_once_per_step(tmp_path):
    settings = {"val_check_interval": 4, "check_val_every_n_epoch": None}
    for _ in range(2):
        fit(tmp_path, **settings)
    files = sorted((tmp_path / "predictions" / "val" / "prediction").iterdir())
    assert [path.name for path in files] == [
        "epoch=0_step=4.jsonl",
        "epoch=1_step=8.jsonl",
        "epoch=2_step=12.jsonl",
    ]
    rows = [json.loads(line)["row"] for line in files[0].read_text().splitlines()]
    assert rows == list(range(8))


def test_training_leaves_the_callers_random_state(tmp_path):
    data = TinyData()
    harness = Harness(tiny_config(tmp_path), datamodule=data)
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    trainer(tmp_path, steps=3).fit(harness, datamodule=data)
    assert torch.equal(torch.get_rng_state(), expected)


EVERY = {"every_n_train_steps": 1, "keep_last": 100}


@pytest.mark.parametrize(("accumulate", "rows"), [(1, 20), (2, 24)])
def test_a_run_resumed_anywhere_is_the_same_run(tmp_path, accumulate, rows):
    settings = {
        "val_check_interval": 4,
        "check_val_every_n_epoch": None,
        "accumulate_grad_batches": accumulate,
        "steps": 12 // accumulate,
    }
    whole, losses = fit(
        tmp_path,
        EMACallback(0.9),
        ThinningCheckpoint(tmp_path / "c", **EVERY),
        data=TinyData(rows),
        **settings,
    )
    assert len(losses) == 12
    for step in range(1, 12 // accumulate):
        average = EMACallback(0.9)
        resumed, rest = fit(
            tmp_path / "resumed",
            average,
            ThinningCheckpoint(tmp_path / "resumed"),
            resume=tmp_path / "c" / f"step_{step:08d}.ckpt",
            data=TinyData(rows),
            **settings,
        )
        assert rest == {at: loss for at, loss in losses.items() if at >= step * accumulate}, step
        for weight, other in zip(whole.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(weight, other), step


def test_no_log_lacks_the_step_that_a_run_resumes_after(tmp_path):
    def training(path):
        return [row for row in log_of(path) if "train/loss" in row]

    fit(tmp_path, ThinningCheckpoint(tmp_path / "c", **EVERY), steps=8)
    for step in range(1, 8):
        # As if the run had been killed after it saved, and before it logged.
        resumed = tmp_path / f"resumed_{step}"
        saved = tmp_path / "c" / f"step_{step:08d}.ckpt"
        fit(resumed, ThinningCheckpoint(resumed), resume=saved, steps=8)
        # Steps are counted from 0, and every second one is logged.
        first = step - 1 if step % 2 == 0 else step
        assert training(resumed) == [row for row in training(tmp_path) if row["step"] >= first]


@pytest.mark.parametrize(
    ("settings", "dropout"),
    [
        ({"backend": "eager"}, 0.1),
        # Inductor builds its kernels with a C++ compiler, for minutes, and drops other units.
        pytest.param(True, 0.0, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_loss_is_the_same_loss(tmp_path, settings, dropout):
    import torch._dynamo

    model = {"_target_": "xlm_tiny_family.TinyModel", "dropout": dropout}
    plain, losses = fit(tmp_path / "plain", steps=4, changes={"model": model})
    try:
        changes = {"model": model, "compile": settings}
        harness, found = fit(tmp_path / "compiled", steps=4, changes=changes)
    finally:
        torch._dynamo.reset()
    assert not hasattr(plain.loss_function.loss_fn, "_torchdynamo_orig_callable")
    assert hasattr(harness.loss_function.loss_fn, "_torchdynamo_orig_callable")
    assert found == pytest.approx(losses, rel=1e-5)


def test_a_loader_without_a_length_is_resumed_too(tmp_path):
    class Endless(TinyData):
        def train_dataloader(self):
            return Unsized(self.train)

    class Unsized:
        def __init__(self, loader):
            self.loader = loader

        def __iter__(self):
            return iter(self.loader)

        def state_dict(self):
            return self.loader.state_dict()

        def load_state_dict(self, state):
            self.loader.load_state_dict(state)

    settings = {"steps": 4, "limit_val_batches": 0}
    _, losses = fit(
        tmp_path, ThinningCheckpoint(tmp_path / "c", **EVERY), data=Endless(), **settings
    )
    _, rest = fit(
        tmp_path,
        ThinningCheckpoint(tmp_path / "resumed"),
        resume=tmp_path / "c" / "step_00000002.ckpt",
        data=Endless(),
        **settings,
    )
    assert rest == {at: loss for at, loss in losses.items() if at >= 2}


class Weights(lightning.Callback):
    def on_validation_batch_start(self, trainer, pl_module, *_):
        self.seen = pl_module.model.head.weight.detach().clone()


def test_the_average_is_what_is_validated_and_generated_with(tmp_path):
    average, weights = EMACallback(0.5, use_num_updates=False), Weights()
    checkpoint = ThinningCheckpoint(tmp_path / "c", every_n_train_steps=3)
    settings = {"val_check_interval": 3, "check_val_every_n_epoch": None, "steps": 3}
    harness, _ = fit(tmp_path, average, weights, checkpoint, **settings)
    held = average.average["head.weight"]
    assert torch.equal(weights.seen, held)
    assert not torch.equal(harness.model.head.weight, held)

    path = tmp_path / "c" / "step_00000003.ckpt"
    for kind, expected in (("ema", held), ("auto", held), ("raw", harness.model.head.weight)):
        loaded = Harness.from_checkpoint(
            path, tiny_config(tmp_path), datamodule=TinyData(), weights=kind
        )
        assert torch.equal(loaded.model.head.weight, expected)


def test_the_average_follows_its_definition(tmp_path):
    average, decay = EMACallback(0.8), 0.8
    seen = []

    class Remember(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(pl_module.model.head.weight.detach().clone())

        def on_fit_start(self, trainer, pl_module):
            seen.append(pl_module.model.head.weight.detach().clone())

    fit(tmp_path, average, Remember(), steps=4)
    naive = seen[0]
    for count, weight in enumerate(seen[1:], start=1):
        share = min(decay, (1 + count) / (10 + count))
        naive = share * naive + (1 - share) * weight
    torch.testing.assert_close(average.average["head.weight"], naive)


def test_a_checkpoint_without_an_average_says_so(tmp_path):
    fit(tmp_path, ThinningCheckpoint(tmp_path / "c"), steps=1)
    path = tmp_path / "c" / "step_00000001.ckpt"
    with pytest.raises(CheckpointError, match="holds no averaged weights; use weights=raw"):
        Harness.from_checkpoint(path, datamodule=TinyData(), weights="ema")
    with pytest.raises(UnknownNameError, match="unknown kind of weights 'emo'"):
        Harness.from_checkpoint(path, datamodule=TinyData(), weights="emo")


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path):
    with pytest.raises(NonFiniteLossError, match="not finite since step 3"):
        fit(
            tmp_path,
            ThinningCheckpoint(tmp_path / "c", **EVERY),
            changes={"loss": {"explode_at": 3}},
        )
    assert [p.name for p in sorted((tmp_path / "c").iterdir())][-1] == "step_00000003.ckpt"


def test_weights_go_to_safetensors_and_back(tmp_path):
    harness = Harness(tiny_config(tmp_path), datamodule=TinyData())
    path = harness.save_model_weights(tmp_path / "w.safetensors")
    other = Harness(tiny_config(tmp_path), datamodule=TinyData())
    other.load_model_weights(path)
    for name, weight in harness.extract_model_weights().items():
        assert torch.equal(weight, other.extract_model_weights()[name])
    with pytest.raises(ArgumentError, match="is there already"):
        harness.save_model_weights(path)
    wide = Harness(tiny_config(tmp_path, model={"d_model": 16}), datamodule=TinyData())
    with pytest.raises(CheckpointError, match=r"'embed.weight' has shape \(12, 8\)"):
        wide.load_model_weights(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        harness.load_model_weights(path)


def test_the_model_stands_once_in_the_state_dict(tmp_path):
    harness = Harness(tiny_config(tmp_path), datamodule=TinyData())
    assert {name.split(".")[0] for name in harness.state_dict()} == {"model"}
    assert harness.predictor.model is harness.model
    assert harness.loss_function.model is harness.model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "nothing is configured under 'model'"),
        ({"model": {"_target_": "xlm_tiny_family.Nothing"}}, "'model' cannot be built"),
        ({"model": {"width": 3}}, "unexpected keyword argument 'width'"),
        ({"generative_perplexity": 1}, "configure it under post_hoc_evaluator"),
    ],
)
def test_a_wrong_part_is_named(tmp_path, changes, message):
    with pytest.raises(ArgumentError, match=message):
        Harness(tiny_config(tmp_path, **changes), datamodule=TinyData())


def test_a_metric_for_a_loader_that_is_not_there_is_refused(tmp_path):
    cfg = tiny_config(tmp_path)
    cfg.reported_metrics.val["lmm"] = cfg.reported_metrics.val.lm
    with pytest.raises(UnknownNameError, match="unknown val loader in reported_metrics 'lmm'"):
        Harness(cfg, datamodule=TinyData())
