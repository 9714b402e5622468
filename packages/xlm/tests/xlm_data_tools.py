"""What the tests of datasets share."""

import dataclasses

from pellucid.xlm.datamodule import DatasetManager, SimpleSpaceTokenizer
from pellucid.xlm.sources import open_local

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
STAR = "local://star?level=easy&split=train&size=30"


def draw(address: str, split: str, **changes) -> dict[str, list[str]]:
    return dataclasses.replace(open_local(address), split=split, **changes).columns()


def texts_of(columns) -> list[tuple[str, ...]]:
    return list(zip(*columns.values(), strict=True))


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def keep(examples):
    return examples


def manager(full_name: str = STAR, **settings) -> DatasetManager:
    kwargs = {"batch_size": 4, **settings.pop("dataloader_kwargs", {})}
    return DatasetManager(keep, full_name, dataloader_kwargs=kwargs, **settings)


def rows_of(held: DatasetManager, split="val", **settings) -> list[dict]:
    held.setup("fit", settings.pop("cache", None), TOKENIZER, **settings)
    return [row for batch in held.get_dataloader(split) for row in batch]


def preprocess_one(example, tokenizer):
    return {"token_ids": tokenizer.encode(example["target"])}


def preprocess_two(example, tokenizer, *, times=1):
    return {"token_ids": tokenizer.encode(example["target"]) * times}


def even(example):
    return int(example["target"].split()[0]) % 2 == 0


def odd(example):
    return int(example["target"].split()[0]) % 2 == 1
