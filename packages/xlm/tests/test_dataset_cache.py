import functools
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xlm_data_tools import (
    STAR,
    TOKENIZER,
    even,
    manager,
    odd,
    preprocess_one,
    preprocess_two,
)

from pellucid.core import ArgumentError, CheckpointError
from pellucid.xlm.datamodule import (
    SimpleSpaceTokenizer,
    Table,
    cache_key,
    cached_table,
    ids_to_example,
)

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
