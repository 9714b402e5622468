import sys
import types

import pytest
from xlm_data_tools import (
    STAR,
    TOKENIZER,
    even,
    keep,
    manager,
    rows_of,
)

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.datamodule import (
    EvalDatasetManager,
    UnconditionalGenerationDatasetManager,
    batched,
    pack_sequences,
    replicate,
    resolve_callable,
    tokenize_text,
)
from pellucid.xlm.sources import (
    StarGraphSource,
    open_local,
)


def test_rows_are_the_source_encoded() -> None:
    rows = rows_of(manager())

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


def test_prompts_may_be_empty() -> None:
    held = UnconditionalGenerationDatasetManager(
        keep, num_examples=5, dataloader_kwargs={"batch_size": 2}
    )
    assert held.kind == "predict"
    assert rows_of(held, "predict") == [{"prompt_ids": [], "input_ids": []}] * 5
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
