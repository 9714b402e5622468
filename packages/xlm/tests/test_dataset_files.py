import json
import sys

import pytest
from xlm_data_tools import (
    TOKENIZER,
    keep,
    manager,
    rows_of,
)

from pellucid.core import ArgumentError, MissingDependencyError, UnknownNameError
from pellucid.xlm.datamodule import (
    LocalDatasetManager,
    pack_sequences,
    tokenize_text,
)


@pytest.fixture
def files(tmp_path):
    rows = [{"text": f"{number} {number + 1}", "note": "a, b"} for number in range(12)]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    lines = ["text,note", *(f'{row["text"]},"{row["note"]}"' for row in rows)]
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "rows.txt").write_text("\n\n".join(r["text"] for r in rows), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_files_of_all_formats_hold_the_same(files, suffix, is_stream) -> None:
    held = LocalDatasetManager(
        keep,
        str(files / f"rows.{suffix}"),
        preprocess_function=tokenize_text,
        dataloader_kwargs={"batch_size": 5},
        iterable_dataset_shards=1 if is_stream else None,
    )
    expected = [{"input_ids": [7 + number, 8 + number]} for number in range(12)]
    assert rows_of(held, "train" if is_stream else "val") == expected


def test_a_stream_is_grouped_and_shuffled_too(files) -> None:
    held = manager(
        str(files / "rows.jsonl"),
        preprocess_function=tokenize_text,
        iterable_dataset_shards=1,
        shuffle_buffer_size=6,
        on_the_fly_group_processor=pack_sequences,
    )
    rows = rows_of(held, "train", block_size=3)
    assert len(rows) == 12
    assert sorted(row["input_ids"][0] for row in rows) == list(range(7, 19))
    assert [row["input_ids"][0] for row in rows] != list(range(7, 19))


def test_a_file_that_changes_is_read_again(files) -> None:
    path = files / "rows.txt"

    def rows():
        held = manager(str(path), preprocess_function=tokenize_text)
        return rows_of(held, cache=files / "cache")

    before = rows()
    path.write_text("3 3\n", encoding="utf-8")
    assert rows() == [{"input_ids": [10, 10]}] != before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text,note\n1 2\n", "line 2 of .* has not as many fields as the header"),
        ("a.csv", "text\n1,2\n", "line 2 of .* has not as many fields as the header"),
        ("a.jsonl", '{"text": "1"}\n{"text"\n', "line 2 of .* is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 of .* is no object"),
        ("a.jsonl", '{"text": "1"}\n{"words": "1"}\n', "example 1 of .* has the fields"),
        ("a.txt", "\n", "has no examples"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    held = manager(str(tmp_path / name), preprocess_function=tokenize_text)
    with pytest.raises(ArgumentError, match=message):
        held.setup("fit", None, TOKENIZER)


def test_names_that_are_no_dataset_are_explained(files) -> None:
    with pytest.raises(UnknownNameError, match=r"'rws.jsonl'. Did you mean 'rows.jsonl'"):
        manager(str(files / "rws.jsonl")).setup("fit", None, TOKENIZER)
    with pytest.raises(ArgumentError, match="'stars' names no dataset; write local://"):
        manager("stars").setup("fit", None, TOKENIZER)
    with pytest.raises(ArgumentError, match="there is no file"):
        LocalDatasetManager(keep, str(files / "no.csv")).setup("fit", None, TOKENIZER)
    misspelt = manager(
        str(files / "rows.jsonl"),
        preprocess_function=tokenize_text,
        preprocess_function_kwargs={"text_field": "txt"},
    )
    with pytest.raises(UnknownNameError, match=r"column 'txt'. Did you mean 'text'"):
        misspelt.setup("fit", None, TOKENIZER)


class FakeDatasets:
    """Stands for the library, which is no dependency of the tests."""

    def __init__(self) -> None:
        self.calls = []

    def load_dataset(self, repo, config, *, split, streaming, num_proc):
        self.calls.append((repo, config, split, streaming, num_proc))
        columns = {"text": [f"{number}" for number in range(6)]}
        rows = [{"text": text} for text in columns["text"]]
        return rows if streaming else _Columns(columns)


class _Columns:
    def __init__(self, columns) -> None:
        self.columns = columns

    def to_dict(self):
        return self.columns


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_dataset_of_the_hub_is_loaded_by_its_name(monkeypatch, is_stream) -> None:
    library = FakeDatasets()
    monkeypatch.setitem(sys.modules, "datasets", library)
    settings = {"iterable_dataset_shards": 1} if is_stream else {}
    held = manager("someone/texts/small/train", preprocess_function=tokenize_text, **settings)
    rows = rows_of(held, "train", num_proc=3)
    assert sorted(row["input_ids"][0] for row in rows) == list(range(7, 13))
    expected = ("someone/texts", "small", "train", is_stream, None if is_stream else 3)
    assert set(library.calls) == {expected}
    assert rows_of(manager("a/b/test", preprocess_function=tokenize_text))
    assert library.calls[-1][:3] == ("a/b", None, "test")


def test_the_library_is_asked_for_by_name(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid-xlm\[datasets\]'"):
        manager("someone/texts/train").setup("fit", None, TOKENIZER)
