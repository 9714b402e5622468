import errno
import resource
import signal
from contextlib import contextmanager

import pytest
import torch

from pellucid.core import CheckpointError
from pellucid.xlm._checkpoint_io import AtomicCheckpointIO, read_checkpoint, write_aside


@contextmanager
def file_system_that_refuses_after(size):
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def checkpoint(value, size=10):
    return {"state_dict": {"weight": torch.full((size,), value)}, "global_step": 3}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint(2.0), path)
    found = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(found["state_dict"]["weight"], torch.full((10,), 2.0))
    assert [each.name for each in path.parent.iterdir()] == ["a.ckpt"]
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


def test_a_disk_that_fills_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint(checkpoint(1.0), path)
    with (
        file_system_that_refuses_after(20_000),
        pytest.raises(CheckpointError, match=r"what was there before is unharmed. Make room"),
    ):
        io.save_checkpoint(checkpoint(2.0, size=100_000), path)
    assert read_checkpoint(path)["state_dict"]["weight"][0] == 1.0
    assert [each.name for each in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_refusal_at_the_end_leaves_the_previous_file(tmp_path, monkeypatch, at):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = "os.fsync" if at == "fsync" else "pathlib.Path.replace"
    monkeypatch.setattr(target, refuse)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_aside(path, lambda stream: stream.write(b"new"))
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"cannot write .*file/a"):
        write_aside(tmp_path / "file" / "a", lambda stream: stream.write(b""))


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "evil": Evil()}, path)  # noqa: TID251 - what others would write
    with pytest.raises(CheckpointError, match="is damaged or is none"):
        read_checkpoint(path)


def test_a_missing_checkpoint_names_its_neighbours(tmp_path):
    AtomicCheckpointIO().save_checkpoint(checkpoint(1.0), tmp_path / "there.ckpt")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*; there are there\.ckpt"):
        read_checkpoint(tmp_path / "gone.ckpt")


def test_a_file_without_weights_is_no_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"something": 1}, path)
    with pytest.raises(CheckpointError, match="holds no weights of a harness"):
        read_checkpoint(path)
