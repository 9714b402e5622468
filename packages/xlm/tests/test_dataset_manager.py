import functools
import json
import sys
import threading
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, CheckpointError, MissingDependencyError, UnknownNameError
from pellucid.xlm.datamodule import (
    DatasetManager,
    DefaultCollatorWithPadding,
    EvalDatasetManager,
    LocalDatasetManager,
    SimpleSpaceTokenizer,
    Table,
    UnconditionalGenerationDatasetManager,
    batched,
    cache_key,
    cached_table,
    ids_to_example,
    pack_sequences,
    replicate,
    resolve_callable,
    tokenize_text,
)

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
COLLATOR = DefaultCollatorWithPadding(TOKENIZER, 8)
STAR = "local://star?level=easy&split=train&size=30"


def manager(full_name: str = STAR, **settings) -> DatasetManager:
    kwargs = {"batch_size": 4, **settings.pop("dataloader_kwargs", {})}
    return DatasetManager(keep, full_name, dataloader_kwargs=kwargs, **settings)


def keep(examples):
    return examples


def rows_of(held: DatasetManager, split="val", **settings) -> list[dict]:
    held.setup("fit", settings.pop("cache", None), TOKENIZER, **settings)
    return [row for batch in held.get_dataloader(split) for row in batch]


# ---- tables --------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.lists(st.integers(-(2**40), 2**40), max_size=4),
    st.text(max_size=4),
    st.none(),
    st.dictionaries(st.text(max_size=2), st.booleans(), max_size=2),
)


@given(columns=st.dictionaries(st.sampled_from("abc"), st.lists(CELLS, min_size=4, max_size=4),
                               min_size=1), data=st.data())  # fmt: skip
def test_a_table_gives_back_what_it_was_given(tmp_path_factory, columns, data) -> None:
    table = Table.of(columns)
    assert table.to_columns() == columns
    chosen = data.draw(st.lists(st.integers(0, 3), max_size=6))
    expected = [{name: cells[row] for name, cells in columns.items()} for row in chosen]
    assert table.rows(chosen) == expected
    assert table.take(np.array(chosen, dtype=np.int64)).rows(range(len(chosen))) == expected
    directory = tmp_path_factory.mktemp("table")
    table.save(directory)
    assert Table.load(directory).to_columns() == columns


def test_rows_are_copies() -> None:
    table = Table.of({"input_ids": [[1, 2], [3]]})
    table.rows([0])[0]["input_ids"].append(9)
    assert table.rows([0]) == [{"input_ids": [1, 2]}]


def test_columns_of_several_lengths_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"\{'a': 1, 'b': 2\}"):
        Table.of({"a": [1], "b": [1, 2]})


@pytest.mark.parametrize("damage", ["table.json", "0.values.npy", "0.offsets.npy"])
def test_a_damaged_table_is_named_and_made_anew(tmp_path, damage, caplog) -> None:
    directory = tmp_path / "key"
    made = []

    def make():
        made.append(1)
        return Table.of({"input_ids": [[1, 2, 3], [4]]})

    first = cached_table(directory, make)
    assert cached_table(directory, make).to_columns() == first.to_columns()
    assert len(made) == 1
    path = directory / damage
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"cannot be read .*delete it"):
        Table.load(directory)
    again = cached_table(directory, make)
    assert again.to_columns() == {"input_ids": [[1, 2, 3], [4]]}
    assert len(made) == 2
    assert "made anew" in caplog.text


def test_what_fails_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    def break_off(self, directory):
        (directory / "0.values.npy").write_bytes(b"half")
        raise OSError("no space left on device")

    directory = tmp_path / "key"
    cached_table(directory, lambda: Table.of({"a": [[1]]}))
    monkeypatch.setattr(Table, "save", break_off)
    with pytest.raises(OSError, match="no space left"):
        cached_table(directory, lambda: Table.of({"a": [[2]]}), rewrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert Table.load(directory).to_columns() == {"a": [[1]]}


def test_many_at_once_do_not_disturb_each_other(tmp_path) -> None:
    found = []

    def prepare():
        table = cached_table(tmp_path / "key", lambda: Table.of({"a": [[1], [2]]}))
        found.append(table.to_columns())

    threads = [threading.Thread(target=prepare) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"a": [[1], [2]]}] * 6
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


# ---- cache keys ----------------------------------------------------------------------------------


def preprocess_one(example, tokenizer):
    return {"token_ids": tokenizer.encode(example["target"])}


def preprocess_two(example, tokenizer, *, times=1):
    return {"token_ids": tokenizer.encode(example["target"]) * times}


def even(example):
    return int(example["target"].split()[0]) % 2 == 0


def odd(example):
    return int(example["target"].split()[0]) % 2 == 1


def test_whatever_changes_the_rows_changes_the_key() -> None:
    def made(tokenizer=TOKENIZER, full_name=STAR, **settings):
        held = manager(full_name, **settings)
        held.setup("fit", None, tokenizer)
        return held.fingerprint()["key"]

    base = {"preprocess_function": preprocess_two}
    keys = [
        made(),
        made(**base),
        made(full_name=STAR + "&seed=1"),
        made(full_name=STAR.replace("train", "test")),
        made(tokenizer=SimpleSpaceTokenizer.for_numbers(21)),
        made(preprocess_function=preprocess_one),
        made(preprocess_function=functools.partial(preprocess_two, times=3)),
        made(preprocess_function_kwargs={"times": 2}, **base),
        made(filter_fn=even),
        made(filter_fn=odd),
        made(columns_to_keep=["input_token_ids"]),
        made(columns_to_remove=["input_token_ids"]),
        made(train_test_split={"size": 0.2}),
    ]
    assert len(set(keys)) == len(keys)
    assert made() == keys[0]
    assert made(**base) == keys[1]
    # What is done on the fly is no part of what is kept.
    assert made(on_the_fly_processor=ids_to_example) == keys[0]


def test_a_function_is_known_by_its_version_or_its_source(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def key(source: str) -> str:
        (tmp_path / "a_preprocessing.py").write_text(source, encoding="utf-8")
        sys.modules.pop("a_preprocessing", None)
        import importlib
        import linecache

        importlib.invalidate_caches()
        linecache.clearcache()
        code = compile(source, str(tmp_path / "a_preprocessing.py"), "exec")
        names = {"__name__": "a_preprocessing"}
        exec(code, names)
        return cache_key(preprocess=names["f"])

    assert key("def f(x):\n    return x\n") != key("def f(x):\n    return x + 1\n")
    versioned = "def f(x):\n    return x\nf.cache_version = 1\n"
    assert key(versioned) == key(versioned.replace("return x", "return x  # a comment"))
    assert key(versioned) != key(versioned.replace("= 1", "= 2"))


# ---- managers ------------------------------------------------------------------------------------


def test_rows_are_the_source_encoded() -> None:
    rows = rows_of(manager())
    from pellucid.xlm.sources import open_local

    columns = open_local(STAR).columns()
    assert rows == [
        {"prompt_ids": TOKENIZER.encode(prompt), "input_ids": TOKENIZER.encode(target)}
        for prompt, target in zip(columns["prompt"], columns["target"], strict=True)
    ]


def test_infilling_examples_have_gaps_where_the_puzzle_has() -> None:
    held = manager("local://sudoku?cells=4&size=5")
    for row in rows_of(held):
        assert len(row["input_ids"]) == len(row["target_ids"]) == 16
        gaps = [id_ == TOKENIZER.mask_token_id for id_ in row["input_ids"]]
        assert any(gaps)
        for is_gap, clue, wanted in zip(gaps, row["input_ids"], row["target_ids"], strict=True):
            assert is_gap or clue == wanted


def test_what_was_prepared_is_kept(tmp_path, monkeypatch) -> None:
    first = manager()
    first.prepare_data(tmp_path, TOKENIZER)
    (directory,) = tmp_path.iterdir()
    assert directory.name.startswith("local-star-level-easy-split-train-size-30-")
    from pellucid.xlm.sources import StarGraphSource

    monkeypatch.delattr(StarGraphSource, "propose")
    monkeypatch.setattr(StarGraphSource, "__abstractmethods__", frozenset())
    assert len(rows_of(manager(), cache=tmp_path)) == 30


def test_rewriting_and_keeping_nothing(tmp_path) -> None:
    manager(use_manual_cache=False).prepare_data(tmp_path, TOKENIZER)
    assert not list(tmp_path.iterdir())
    manager().prepare_data(tmp_path, TOKENIZER)
    (path,) = tmp_path.glob("*/table.json")
    before = path.stat().st_mtime_ns
    manager().prepare_data(tmp_path, TOKENIZER)
    assert path.stat().st_mtime_ns == before
    manager(rewrite_manual_cache=True).prepare_data(tmp_path, TOKENIZER)
    assert path.stat().st_mtime_ns > before


def test_filters_columns_and_parts() -> None:
    everything = rows_of(manager())
    firsts = [row["input_ids"][0] for row in everything]
    assert [r["input_ids"][0] for r in rows_of(manager(filter_fn=even))] == [
        first for first in firsts if first % 2 == TOKENIZER.encode("0")[0] % 2
    ]
    later = manager(on_the_fly_filter_fn=starts_low)
    assert rows_of(later) == [row for row in everything if row["input_ids"][0] < 15]
    assert rows_of(manager(columns_to_remove=["prompt_token_ids"])) == [
        {"input_ids": row["input_ids"]} for row in everything
    ]
    parts = [
        rows_of(manager(train_test_split={"size": size, "seed": 1, "split": split}))
        for size, split in ((0.2, "test"), (6, "train"))
    ]
    assert [len(part) for part in parts] == [6, 24]
    assert sorted(map(str, parts[0] + parts[1])) == sorted(map(str, everything))


def starts_low(row):
    return row["input_ids"][0] < 15


def test_processors_see_each_row_as_it_is_read() -> None:
    rows = rows_of(manager(on_the_fly_processor="pellucid.xlm.datamodule.ids_to_example"))
    assert rows[0]["text"] == TOKENIZER.decode(rows[0]["input_ids"])


def test_groups_make_new_rows() -> None:
    packed = manager(
        columns_to_keep=["input_token_ids"],
        on_the_fly_group_processor=pack_sequences,
        on_the_fly_group_processor_kwargs={"use_bos": True},
    )
    rows = rows_of(packed, block_size=25)
    assert {len(row["input_ids"]) for row in rows} == {25}
    assert len(rows) == 30 * (8 + 2) // 25
    twice = manager(
        on_the_fly_group_processor=replicate, on_the_fly_group_processor_kwargs={"times": 2}
    )
    rows = rows_of(twice)
    assert rows[::2] == rows[1::2] == rows_of(manager())


def test_training_is_shuffled_and_evaluation_is_not() -> None:
    train = manager()
    shuffled = rows_of(train, "train")
    in_order = rows_of(manager())
    assert shuffled != in_order
    assert sorted(map(str, shuffled)) == sorted(map(str, in_order))
    unshuffled = manager(dataloader_kwargs={"shuffle": False})
    assert rows_of(unshuffled, "train") == in_order
    other_seed = manager(shuffle_seed=1)
    assert rows_of(other_seed, "train") not in (shuffled, in_order)


def test_a_run_that_overfits_reads_its_own_data_in_order() -> None:
    held = manager(full_name_debug="local://star?level=mini&size=4&split=train")
    assert len(rows_of(held, "train", debug=True)) == 4
    assert held.fingerprint()["full_name"].startswith("local://star?level=mini")
    plain = manager("local://star?level=mini&size=4&split=train")
    assert rows_of(held, "train") == rows_of(plain, "val")
    assert rows_of(manager(), "train", debug=True) == rows_of(manager(), "val")


def test_ranks_share_the_rows() -> None:
    held = manager()
    held.setup("fit", None, TOKENIZER)
    shares = [
        [str(row) for batch in held.get_dataloader("val", True, rank, 2) for row in batch]
        for rank in range(2)
    ]
    assert sorted(shares[0] + shares[1]) == sorted(map(str, rows_of(manager())))
    everything = manager(split_by_node=False)
    everything.setup("fit", None, TOKENIZER)
    assert len(everything.get_dataloader("val", True, 1, 2)) == 8


def test_an_epoch_that_is_set_reaches_the_loader() -> None:
    held = manager()
    held.setup("fit", None, TOKENIZER)
    over = held.get_dataloader("train")
    epochs = [[str(batch) for batch in over] for _ in range(2)]
    held.set_epoch(0)
    assert [str(batch) for batch in over] == epochs[0] != epochs[1]


def test_a_generated_stream_never_ends() -> None:
    held = manager("local://star?level=easy&stream=true")
    held.setup("fit", None, TOKENIZER)
    over = held.get_dataloader("train")
    with pytest.raises(TypeError):
        len(over)
    iterator = iter(over)
    batches = [str(next(iterator)) for _ in range(600)]
    assert len(set(batches)) == 600
    assert held.fingerprint()["rows"] is None
    over.load_state_dict({"epoch": 0, "batch": 599})
    assert str(next(iter(over))) == batches[599]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_the_fly_filter_fn": starts_low}, "needs rows by number"),
        ({"on_the_fly_group_processor": pack_sequences}, "needs rows that end"),
        ({"filter_fn": even}, "cannot be filtered or divided"),
    ],
)
def test_a_stream_refuses_what_needs_all_rows(settings, message) -> None:
    held = manager("local://star?level=easy&stream=true", **settings)
    with pytest.raises(ArgumentError, match=message):
        held.setup("fit", None, TOKENIZER)


# ---- files ---------------------------------------------------------------------------------------


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


# ---- the library datasets ------------------------------------------------------------------------


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


# ---- the other managers --------------------------------------------------------------------------


def test_prompts_may_be_empty() -> None:
    held = UnconditionalGenerationDatasetManager(
        keep, num_examples=5, dataloader_kwargs={"batch_size": 2}
    )
    assert held.kind == "predict"
    assert rows_of(held, "predict") == [{"input_ids": []}] * 5
    with pytest.raises(ArgumentError, match="num_examples is 0"):
        UnconditionalGenerationDatasetManager(keep, num_examples=0).setup("predict")


def test_prompts_may_be_a_familys_own(monkeypatch) -> None:
    family = types.ModuleType("a_family")
    family.begin = lambda tokenizer, num_examples, token: (
        [{"input_ids": tokenizer.encode(token)}] * num_examples
    )
    monkeypatch.setitem(sys.modules, "a_family", family)
    held = UnconditionalGenerationDatasetManager(
        keep, "a_family.begin", 3, dataset_kwargs={"token": "5"}
    )
    rows = rows_of(held, "predict")
    assert rows == [{"input_ids": [12]}] * 3


def test_evaluation_data_is_not_kept_and_has_an_end(tmp_path) -> None:
    held = EvalDatasetManager(keep, STAR)
    held.prepare_data(tmp_path, TOKENIZER)
    assert not list(tmp_path.iterdir())
    assert len(rows_of(held)) == 30
    with pytest.raises(ArgumentError, match="make_infinite=True has no meaning"):
        EvalDatasetManager(keep, STAR, make_infinite=True)


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"dataloader_kwargs": {"batchsize": 3}}, UnknownNameError, "'batchsize'.*'batch_size'"),
        ({"stages": ["fitt"]}, UnknownNameError, "stage 'fitt'.*'fit'"),
        ({"preprocess_function": "no.such.thing"}, ArgumentError, "'no.such.thing' cannot be"),
        ({"preprocess_function": "os.sep"}, ArgumentError, "'os.sep' is str, which cannot be"),
        ({"filter_fn": "len"}, ArgumentError, "'len' cannot be imported"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, kind, message) -> None:
    with pytest.raises(kind, match=message):
        manager(**settings)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"columns_to_keep": ["inputs"]}, UnknownNameError, "column 'inputs'.*'input_"),
        ({"train_test_split": {"size": 30}}, ArgumentError, "size 30 of 30 examples"),
        ({"train_test_split": {"split": "tst"}}, UnknownNameError, "train_test_split 'tst'"),
        (
            {"columns_to_remove": ["prompt_token_ids", "input_token_ids"]},
            ArgumentError,
            "none of the columns",
        ),
    ],
)
def test_what_cannot_be_prepared_is_said(settings, kind, message) -> None:
    with pytest.raises(kind, match=message):
        manager(**settings).setup("fit", None, TOKENIZER)


def test_a_loader_needs_rows() -> None:
    held = manager(stages=["test"])
    held.setup("fit", None, TOKENIZER)
    with pytest.raises(ArgumentError, match="is not set up; call setup first"):
        held.get_dataloader("train")
    held.setup("test", None, TOKENIZER)
    assert len(held.get_dataloader("test")) == 8


def test_a_batched_function_sees_columns() -> None:
    @batched
    def lengths(columns, tokenizer):
        assert isinstance(columns["prompt"], list)
        return {"token_ids": [[len(text.split())] for text in columns["prompt"]]}

    assert rows_of(manager(preprocess_function=lengths))[0] == {"input_ids": [26]}
    assert resolve_callable(None) is None
    assert resolve_callable("pellucid.xlm.datamodule.tokenize_text") is tokenize_text
