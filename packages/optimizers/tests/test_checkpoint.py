import dataclasses
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import CheckpointError
from pellucid.optimizers import RandomSearchState, RunningBest, SearchState
from pellucid.optimizers import _checkpoint as checkpoints
from pellucid.optimizers._checkpoint import (
    Checkpoint,
    load_checkpoint,
    pack,
    save_checkpoint,
    unpack,
)


def save_state(directory, state):
    save_checkpoint(directory, pack("state", state))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 2**40), min_size=1), st.floats(allow_nan=False), st.integers(0, 99))
def test_what_is_written_is_what_is_read(tmp_path, ids, loss, count):
    state = RandomSearchState(trigger_ids=torch.tensor(ids), loss=loss, local_step=count)
    save_state(tmp_path, state)
    back = unpack("state", load_checkpoint(tmp_path), RandomSearchState)
    assert torch.equal(back.trigger_ids, state.trigger_ids)
    assert dataclasses.replace(back, trigger_ids=state.trigger_ids) == state


def test_nothing_and_infinity_survive(tmp_path):
    save_checkpoint(tmp_path, pack("best", RunningBest()))
    back = unpack("best", load_checkpoint(tmp_path), RunningBest)
    assert (back.loss, back.trigger_ids, back.trigger_str) == (math.inf, None, None)


def test_failing_write_leaves_the_older_file_whole(tmp_path, monkeypatch):
    state = SearchState(trigger_ids=torch.tensor([1]), loss=1.0)
    save_state(tmp_path, state)

    def tear(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", tear)
    with pytest.raises(OSError, match="no space"):
        save_state(tmp_path, dataclasses.replace(state, loss=2.0))
    assert unpack("state", load_checkpoint(tmp_path), SearchState).loss == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("content", [b"", b"torn", b'\x08\0\0\0\0\0\0\0{"a":1}'])
def test_unreadable_file_is_a_clear_error(tmp_path, content):
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read .* Start the run anew"):
        load_checkpoint(tmp_path)


def test_missing_file_foreign_version_and_foreign_state_are_clear_errors(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, Checkpoint({"x": torch.zeros(1)}, {"schema": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        load_checkpoint(tmp_path)
    save_state(tmp_path, SearchState(trigger_ids=torch.tensor([1]), loss=1.0))
    with pytest.raises(CheckpointError, match=r"state\.local_step.*another optimizer"):
        unpack("state", load_checkpoint(tmp_path), RandomSearchState)
