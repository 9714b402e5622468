import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.contracts import IGNORED, DataSource
from pellucid.xlm.datamodule import (
    DatasetManager,
    DefaultCollatorWithPadding,
    DefaultEmptyDataset,
    MaskedEmptyDataset,
    MaskTexts,
    SimpleSpaceTokenizer,
    TextDataModule,
    UnconditionalGenerationDatasetManager,
    print_batch,
)

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
COLLATOR = DefaultCollatorWithPadding(TOKENIZER, 8)


def star(split: str, **settings) -> DatasetManager:
    return DatasetManager(
        COLLATOR,
        f"local://star?level=easy&size=20&split={split}",
        dataloader_kwargs={"batch_size": 4},
        **settings,
    )


def module(cache=None, **settings) -> TextDataModule:
    managers = {
        "train": {"lm": star("train")},
        "val": {"lm": star("validation"), "prediction": star("validation")},
        "test": {"film": star("test", kind="predict")},
        "predict": {"unconditional_prediction": UnconditionalGenerationDatasetManager(COLLATOR)},
    }
    return TextDataModule(cache, TOKENIZER, managers, block_size=8, **settings)


def test_loaders_have_names_and_kinds() -> None:
    data = module()
    assert isinstance(data, DataSource)
    assert data.dataloader_names == {
        "train": ["lm"],
        "val": ["lm", "prediction"],
        "test": ["film"],
        "predict": ["unconditional_prediction"],
    }
    assert data.dataloader_kinds == {
        "train": ["loss"],
        "val": ["loss", "predict"],
        "test": ["predict"],
        "predict": ["predict"],
    }


def test_each_stage_opens_its_splits(tmp_path) -> None:
    data = module(tmp_path)
    data.prepare_data()
    assert len(list(tmp_path.iterdir())) == 3
    data.setup("fit")
    assert len(data.train_dataloader()) == 5
    assert [len(loader) for loader in data.val_dataloader()] == [5, 5]
    with pytest.raises(ArgumentError, match="not set up"):
        data.test_dataloader()
    data.setup("test")
    data.setup("predict")
    assert len(data.test_dataloader()[0]) == 5
    assert len(data.predict_dataloader()[0]) == 64
    with pytest.raises(UnknownNameError, match=r"stage 'fti'. Did you mean 'fit'"):
        data.setup("fti")


def test_a_run_is_known_by_its_data(tmp_path) -> None:
    data = module(tmp_path)
    data.setup("fit")
    prints = data.fingerprint()
    assert prints["train"]["lm"]["rows"] == 20
    assert prints["val"]["lm"]["key"] == prints["val"]["prediction"]["key"]
    assert prints["train"]["lm"]["key"] != prints["val"]["lm"]["key"]


def test_batches_are_shown_by_the_familys_function() -> None:
    shown = []
    data = module(print_batch_fn=lambda *arguments: shown.append(arguments))
    data.print_batch({"a": 1}, "train", "lm")
    assert shown == [({"a": 1}, "train", TOKENIZER, "lm")]
    module().print_batch({}, "train", "lm")


def test_splits_and_names_are_checked() -> None:
    with pytest.raises(UnknownNameError, match=r"split 'trian'. Did you mean 'train'"):
        TextDataModule(None, TOKENIZER, {"trian": {"lm": star("train")}})
    with pytest.raises(ArgumentError, match=r"\['lm', 'lm_b'\]; give one"):
        TextDataModule(None, TOKENIZER, {"train": {"lm": star("train"), "lm_b": star("train")}})
    with pytest.raises(ArgumentError, match="loader 'film' says not whether"):
        TextDataModule(None, TOKENIZER, {"test": {"film": star("test")}})
    with pytest.raises(ArgumentError, match="there is nothing to train on"):
        TextDataModule(None, TOKENIZER, {"test": {"lm": star("test")}}).train_dataloader()


class Recorder(LightningModule):
    """Notes the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[str] = []
        self.evaluated: list[int] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(str(batch["input_ids"].tolist()))
        return self.weight * 0

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append(dataloader_idx)

    def on_train_epoch_start(self):
        self.trainer.datamodule.set_epoch(self.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.0)


class SaveAt(Callback):
    """Saves in the middle of an epoch."""

    def __init__(self, step, path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def trainer(tmp_path, **settings) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        **settings,
    )


def test_a_trainer_goes_on_in_the_middle_of_an_epoch(tmp_path) -> None:
    whole = Recorder()
    trainer(tmp_path, max_steps=13, enable_checkpointing=False).fit(whole, datamodule=module())
    assert len(set(whole.seen)) == 13
    assert whole.evaluated == ([0] * 5 + [1] * 5) * 2
    first = Recorder()
    settings = {"max_steps": 13, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer(tmp_path, callbacks=[SaveAt(7, tmp_path / "middle.ckpt")], **settings).fit(
        first, datamodule=module()
    )
    second = Recorder()
    trainer(tmp_path, **settings).fit(
        second, datamodule=module(), ckpt_path=tmp_path / "middle.ckpt", weights_only=True
    )
    assert first.seen == whole.seen
    assert second.seen == whole.seen[7:]


def test_a_batch_is_printed_without_what_is_ignored(capsys) -> None:
    targets = torch.tensor([[IGNORED, 9, 10], [7, 7, 7]])
    batch = {"input_ids": torch.tensor([[8, 9, 2], [7, 7, 7]]), "target_ids": targets}
    print_batch(batch, "train", TOKENIZER, "lm")
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["train/lm: 2 rows", "  input_ids: 1 2 [MASK]", "  target_ids: 2 3"]
    print_batch({"input_ids": targets[1:], "target_ids": None}, "val", TOKENIZER)
    assert capsys.readouterr().out.splitlines() == ["val/: 1 rows", "  input_ids: 0 0 0"]


def test_empty_prompts_are_found_by_number() -> None:
    prompts = DefaultEmptyDataset(num_examples=2)
    assert list(prompts) == [prompts[0], prompts[1]] == [{"prompt_ids": [], "input_ids": []}] * 2
    with pytest.raises(IndexError):
        prompts[2]


def test_texts_of_masks_begin_with_bos() -> None:
    bos, mask = TOKENIZER.bos_token_id, TOKENIZER.mask_token_id
    texts = MaskTexts(TOKENIZER, [3, 2])
    assert [row["input_ids"] for row in texts] == [[bos, mask, mask], [bos, mask]]
    assert texts[1] == {"input_ids": [bos, mask]}
    with pytest.raises(IndexError):
        texts[2]
    assert list(MaskedEmptyDataset(TOKENIZER, 2, 3)) == [texts[0]] * 2
    with pytest.raises(ArgumentError, match="max_length is 1; leave room"):
        MaskedEmptyDataset(TOKENIZER, 2, 1)
