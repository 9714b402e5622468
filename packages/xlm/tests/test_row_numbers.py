"""Rows of an evaluation have numbers, so that what is drawn for one follows from it alone."""

import lightning
import torch
from xlm_tiny_family import TinyPredictor, tiny_config

from pellucid.xlm import Harness
from pellucid.xlm.datamodule import (
    BatchLoader,
    BatchPlan,
    DatasetManager,
    DefaultCollatorWithPadding,
    ForwardRows,
    SimpleSpaceTokenizer,
    TextDataModule,
)
from pellucid.xlm.sampling import RowStreams

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
COLLATOR = DefaultCollatorWithPadding(TOKENIZER, 40)


class DrawingPredictor(TinyPredictor):
    """Draws a number for each row, and knows which row it was for."""

    def predict(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        streams = RowStreams.of(batch, self.generator)
        drawn = streams.uniforms(torch.zeros_like(batch["input_ids"][:, 0]))
        ids = batch["input_ids"]
        texts = [f"{row} {number}" for row, number in zip(streams.rows, drawn, strict=True)]
        times = [0.0] * len(ids)
        return {"text": texts, "ids": ids, "output_start_idx": 0, "time_taken": times}

    def to_dict(self, batch, preds, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        return [{"text": text} for text in preds["text"]]


def data(batch_size):
    def star(split, **settings):
        return DatasetManager(
            COLLATOR,
            f"local://star?level=easy&size=10&split={split}",
            dataloader_kwargs={"batch_size": batch_size},
            **settings,
        )

    managers = {
        "train": {"lm": star("train")},
        "val": {"prediction": star("validation"), "other_prediction": star("validation")},
        "test": {"prediction": star("test")},
    }
    return TextDataModule(None, TOKENIZER, managers)


def written(path, batch_size, **changes):
    """Evaluate, and return the lines of each file of predictions."""
    metrics = {"reported_metrics": None, **changes}
    module = data(batch_size)
    harness = Harness(tiny_config(path, **metrics), datamodule=module)
    predictor = DrawingPredictor(harness.model, TOKENIZER)
    object.__setattr__(harness, "predictor", predictor)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(harness, datamodule=module, verbose=False)
    trainer.test(harness, datamodule=module, verbose=False)
    files = sorted((path / "predictions").glob("*/*/*.jsonl"))
    return {str(file.relative_to(path)): file.read_text().splitlines() for file in files}


def test_predictions_do_not_depend_on_the_size_of_batches(tmp_path):
    found = [written(tmp_path / str(size), size) for size in (1, 3, 100)]
    assert found[0] == found[1] == found[2]
    lines = [line for file in found[0].values() for line in file]
    assert len(found[0]) == 3
    assert len(set(lines)) == len(lines), "loaders and rows draw differently"
    assert written(tmp_path / "other", 3, seed=4) != found[0]


def test_only_evaluations_number_their_rows():
    module = data(4)
    module.prepare_data()
    module.setup("fit")
    assert "row_ids" not in next(iter(module.train_dataloader()))
    numbers = [batch["row_ids"] for batch in module.val_dataloader()[0]]
    assert torch.equal(torch.cat(numbers), torch.arange(10))
    assert all(held.dtype == torch.int64 for held in numbers)


def test_rows_of_a_stream_and_of_ranks_are_numbered_too():
    def collate(examples):
        return {"input_ids": torch.tensor([example["at"] for example in examples])}

    def open_rows():
        return ({"at": number} for number in range(7))

    for rank in range(2):
        plan = BatchPlan(n_rows=None, batch_size=3, rank=rank, world_size=1 + rank)
        loader = BatchLoader(ForwardRows(open_rows), plan, collate, with_row_ids=True)
        for batch in loader:
            assert torch.equal(batch["row_ids"], batch["input_ids"])
