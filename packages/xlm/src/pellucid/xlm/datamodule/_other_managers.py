"""Managers of files, of evaluation data, and of empty prompts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core import ArgumentError
from pellucid.xlm._preprocessing import Columns, resolve_callable
from pellucid.xlm.contracts import LoaderKind
from pellucid.xlm.datamodule._cache import describe
from pellucid.xlm.datamodule._manager import DatasetManager
from pellucid.xlm.datamodule._raw import FileDataset, RawDataset


class LocalDatasetManager(DatasetManager):
    """Reads a .csv, .jsonl or .txt file; `full_name` is its path.

    Takes what `DatasetManager` takes.
    """

    def open_raw(self, tokenizer: Any, *, debug: bool, num_proc: int | None) -> RawDataset:
        """Return the lines of the file.

        Raises:
            ArgumentError: There is no such file.
        """
        del tokenizer, num_proc
        path = Path(self._name(debug=debug)).expanduser()
        if not path.is_file():
            raise ArgumentError(f"there is no file {str(path)!r}; give the path of a dataset")
        return FileDataset(path)


class EvalDatasetManager(DatasetManager):
    """Reads data that is evaluated once: whole, in its order, and not kept.

    Takes what `DatasetManager` takes, but nothing that shuffles, streams or repeats.

    Raises:
        ArgumentError: The data should be a stream, or without end.
    """

    def __init__(
        self,
        collator: Callable[[list[dict[str, Any]]], Any],
        full_name: str,
        full_name_debug: str | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("iterable_dataset_shards", "make_infinite"):
            if kwargs.get(name):
                raise ArgumentError(
                    f"{name}={kwargs[name]!r} has no meaning for data that is evaluated once; use "
                    "DatasetManager"
                )
        kwargs["use_manual_cache"] = False
        super().__init__(collator, full_name, full_name_debug, **kwargs)


class UnconditionalGenerationDatasetManager(DatasetManager):
    """Gives the predictor prompts that hold nothing, or only what a family begins with.

    Args:
        collator: Makes batches of the prompts.
        dataset_constructor_str: Dotted name of what makes them:
            `f(tokenizer=..., num_examples=..., **dataset_kwargs)` returns an iterable of examples.
        num_examples: How many samples are asked for.
        dataset_kwargs: Further settings of the constructor.
        kind: As for `DatasetManager`.
        dataloader_kwargs: As for `DatasetManager`.
        stages: As for `DatasetManager`.
    """

    def __init__(
        self,
        collator: Callable[[list[dict[str, Any]]], Any],
        dataset_constructor_str: str = "pellucid.xlm.datamodule.DefaultEmptyDataset",
        num_examples: int = 64,
        *,
        dataset_kwargs: Mapping[str, Any] | None = None,
        kind: LoaderKind | None = "predict",
        dataloader_kwargs: Mapping[str, Any] | None = None,
        stages: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            collator,
            f"{dataset_constructor_str}({num_examples})",
            kind=kind,
            dataloader_kwargs=dataloader_kwargs,
            stages=stages,
            use_manual_cache=False,
        )
        self._constructor = resolve_callable(dataset_constructor_str)
        self._settings = {"num_examples": num_examples, **dict(dataset_kwargs or {})}

    def open_raw(self, tokenizer: Any, *, debug: bool, num_proc: int | None) -> RawDataset:
        """Return the prompts."""
        del debug, num_proc
        constructor = self._constructor
        if constructor is None:
            raise ArgumentError("dataset_constructor_str is empty; name what makes the prompts")
        prompts = constructor(tokenizer=tokenizer, **self._settings)
        return _ConstructedDataset(self.full_name, describe(self._settings), list(prompts))


@dataclass(frozen=True)
class _ConstructedDataset(RawDataset):
    """Examples that were made by a call."""

    name: str
    settings: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]]

    def describe(self) -> dict[str, Any]:
        return {"constructor": self.name, "settings": dict(self.settings)}

    def columns(self) -> Columns:
        names = list(self.examples[0]) if self.examples else []
        return {name: [example[name] for example in self.examples] for name in names}

    def open_rows(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.examples)
