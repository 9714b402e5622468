import json
import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import CheckpointError, OptimizerResult

FULL = OptimizerResult(
    best_loss=0.1,
    best_trigger_ids=torch.tensor([3, 2**40]),
    best_trigger_str="naïve \u2028 🙂",
    best_trigger_emb=torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    best_trigger_probs=torch.tensor([[0.1, math.inf], [math.nan, -0.0]], dtype=torch.bfloat16),
    losses=[1 / 3, math.inf, 5e-324],
    trigger_strs=["a", ""],
    initial_loss=2.0,
    verified_loss=None,
    tokenization_gap=0,
    stop_reason="steps",
    seed=7,
    usage={"total_tokens": 12},
)


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and same_bits(left, right)
    return left == right


def same_bits(left, right):
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[left.element_size()]
    return torch.equal(left.contiguous().view(kind), right.contiguous().view(kind))


@pytest.mark.parametrize("result", [FULL, OptimizerResult()], ids=["full", "empty"])
def test_what_is_saved_is_what_is_loaded(result, tmp_path):
    path = tmp_path / "runs" / "result.json"
    result.save(path)
    loaded = OptimizerResult.load(str(path))
    for name, held in vars(result).items():
        assert same(held, getattr(loaded, name)), name
    assert [held.name for held in path.parent.iterdir()] == ["result.json"]


@given(st.floats(), st.lists(st.floats(allow_nan=False), max_size=5))
def test_floats_survive_to_the_bit(tmp_path_factory, best, losses):
    path = tmp_path_factory.mktemp("result") / "r.json"
    OptimizerResult(best_loss=best, losses=losses).save(path)
    loaded = OptimizerResult.load(path)
    if not math.isnan(best):
        assert struct.pack("d", loaded.best_loss) == struct.pack("d", best)
    assert [struct.pack("d", x) for x in loaded.losses] == [struct.pack("d", x) for x in losses]


def test_an_empty_tensor_keeps_its_shape(tmp_path):
    path = tmp_path / "r.json"
    OptimizerResult(best_trigger_emb=torch.zeros(0, 5)).save(path)
    assert OptimizerResult.load(path).best_trigger_emb.shape == (0, 5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"best_loss": 1.0',
        "[]",
        "null",
        "{}",
        '{"best_loss": "low"}',
        '{"best_loss": null}',
        '{"best_loss": 1, "no_such_field": 2}',
        '{"best_loss": 1, "best_trigger_ids": {"dtype": "flot", "tensor": [1], "shape": [1]}}',
        '{"best_loss": 1, "best_trigger_ids": {"dtype": "int64", "tensor": [1], "shape": [2]}}',
        '{"best_loss": 1, "best_trigger_ids": {"dtype": "int64", "tensor": ["a"], "shape": [1]}}',
    ],
)
def test_a_corrupt_file_is_refused_by_name(text, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"broken.json' does not hold an OptimizerResult"):
        OptimizerResult.load(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="does not hold"):
        OptimizerResult.load(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        OptimizerResult.load(tmp_path / "none.json")


def test_a_result_that_cannot_be_written_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "result.json"
    FULL.save(path)
    before = path.read_bytes()
    broken = OptimizerResult()
    broken.usage = {"model": object()}
    with pytest.raises(TypeError, match="cannot write object as JSON"):
        broken.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fails_leaves_the_old_file_whole_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    FULL.save(path)
    before = path.read_bytes()
    real = type(path).write_text

    def write_half(self, text, **kwargs):
        real(self, text[: len(text) // 2], **kwargs)
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "write_text", write_half)
    with pytest.raises(OSError, match="disk full"):
        OptimizerResult(best_loss=1.0).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_outcome_alone_is_ready_for_a_tracker():
    outcome = FULL.to_dict()
    assert outcome == {
        "best_loss": 0.1,
        "best_trigger_str": FULL.best_trigger_str,
        "initial_loss": 2.0,
        "verified_loss": None,
        "stop_reason": "steps",
    }
    json.dumps(outcome)


def test_results_do_not_share_histories():
    first = OptimizerResult()
    first.losses.append(1.0)
    assert OptimizerResult().losses == []
