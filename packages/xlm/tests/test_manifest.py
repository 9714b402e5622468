import pytest
from omegaconf import OmegaConf

from pellucid.core import CheckpointError
from pellucid.xlm._manifest import check_resumable, write_manifest


def config(**model):
    # Nothing resolves `tokenizer` before a run is assembled.
    held = {"model": {"num_embeddings": "${tokenizer:full_vocab_size}", **model}, "seed": 1}
    return OmegaConf.create(held)


def test_a_run_goes_on_with_the_configuration_that_it_was_started_with(tmp_path):
    write_manifest(tmp_path, config(d_model=8), None)
    check_resumable(tmp_path, config(d_model=8))
    with pytest.raises(CheckpointError, match=r"model\.d_model was 8, is 16"):
        check_resumable(tmp_path, config(d_model=16))


def test_a_damaged_manifest_is_named(tmp_path):
    write_manifest(tmp_path, config(), None).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is damaged; remove it"):
        check_resumable(tmp_path, config())
