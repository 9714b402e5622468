"""What is saved comes back, and a file that is not whole is refused."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.bridge import ActivationCache, CacheFileError
from pellucid.bridge._caches._files import CacheFile, read_about, write_cache


def run(bridge, tokens, **more):
    with torch.no_grad():
        return bridge.run_with_cache(tokens, **more)[1]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_cache_comes_back(bridge, tokens, tmp_path, lazy):
    cache = run(bridge, tokens)
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    again = ActivationCache.load(path, bridge, lazy=lazy)
    assert list(again) == list(cache)
    for name, held in cache.items():
        assert torch.equal(again[name], held)
    parts = again.get_full_resid_decomposition(pos_slice=-1)
    torch.testing.assert_close(parts, cache.get_full_resid_decomposition(pos_slice=-1))


def test_what_shares_memory_is_written_once(gpt2, tokens, tmp_path):
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.0.attn.hook_q"]
    cache = run(gpt2, tokens, names_filter=[*names, "blocks.0.attn.hook_k"])
    cache.save(tmp_path / "cache")
    about = read_about(tmp_path / "cache")
    assert about.same == {"blocks.1.hook_in": "blocks.0.hook_out"}
    again = ActivationCache.load(tmp_path / "cache", gpt2)
    assert again["resid_pre", 1].data_ptr() == again["resid_post", 0].data_ptr()
    assert torch.equal(again["k", 0], cache["k", 0])


def test_without_its_model_names_work_and_weights_are_missed(llama, tokens, tmp_path):
    cache = run(llama, tokens[:1]).remove_batch_dim()
    cache.save(tmp_path / "cache")
    again = ActivationCache.load(tmp_path / "cache")
    assert not again.has_batch_dim
    assert torch.equal(again["pattern", 1], cache["pattern", 1])
    assert torch.equal(again["blocks.0.hook_resid_post"], cache["resid_post", 0])
    assert "resid_post" not in again
    with pytest.raises(KeyError, match="the cache has no activation"):
        again["patern", 1]
    with pytest.raises(ValueError, match="model=bridge"):
        again.decompose_resid()
    again.save(tmp_path / "twice")
    third = ActivationCache.load(tmp_path / "twice", llama)
    torch.testing.assert_close(third.decompose_resid(), cache.decompose_resid())


def test_offloading(gpt2, tokens, tmp_path):
    cache = run(gpt2, tokens)
    expected = cache.stack_head_results()
    assert cache.offload(tmp_path / "cache") is cache
    assert cache["z", 0].data_ptr() != cache["z", 0].data_ptr()
    torch.testing.assert_close(cache.stack_head_results(), expected)
    cache.compute_head_results()
    assert torch.equal(cache["result", 0], cache["result", 0])
    cache.to("cpu")
    assert cache["z", 0].data_ptr() == cache["z", 0].data_ptr()


def test_a_damaged_file_is_refused(gpt2, llama, tokens, tmp_path):
    path = tmp_path / "cache"
    run(gpt2, tokens).save(path)
    with pytest.raises(CacheFileError, match="comes from a GPT2LMHeadModel"):
        ActivationCache.load(path, llama)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(CacheFileError, match="damaged"):
        ActivationCache.load(path, gpt2)
    path.write_bytes(whole.replace(b"ActivationCache", b"ActivationCachf"))
    with pytest.raises(CacheFileError, match="holds no cache"):
        ActivationCache.load(path, gpt2)
    path.write_bytes(whole.replace(rb"\"version\": 1", rb"\"version\": 9"))
    with pytest.raises(CacheFileError, match="version 9"):
        ActivationCache.load(path, gpt2)


def test_a_failed_write_leaves_what_was_there(gpt2, tokens, tmp_path, monkeypatch):
    path = tmp_path / "cache"
    path.write_text("precious")

    def fail(*args):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        run(gpt2, tokens).save(path)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["cache"]


@given(st.lists(st.sampled_from(["own", "same", "view", "turned"]), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_any_memory_comes_back(kinds):
    import tempfile

    base = torch.randn(4, 6)
    makers = {
        "own": lambda: torch.randn(3), "same": lambda: base,
        "view": lambda: base[:, 1:3], "turned": lambda: base.T,
    }  # fmt: skip
    held = {f"{number}": makers[kind]() for number, kind in enumerate(kinds)}
    about = CacheFile(model="", has_batch_dim=True, order=list(held), same={}, aliases={})
    with tempfile.TemporaryDirectory() as folder:
        write_cache(f"{folder}/c", held, about)
        again = ActivationCache.load(f"{folder}/c")
    for name, value in held.items():
        assert torch.equal(again[name], value)


# The axis of the batch.


def test_the_axis_of_the_batch(bridge, tokens):
    cache = run(bridge, tokens)
    one = cache.apply_slice_to_batch_dim(1)
    assert not one.has_batch_dim
    assert one["pattern", 0].shape == (4, 7, 7)
    torch.testing.assert_close(one.decompose_resid(), cache.decompose_resid()[:, 1])
    torch.testing.assert_close(
        one.get_full_resid_decomposition(apply_ln=True),
        cache.get_full_resid_decomposition(apply_ln=True)[:, 1],
    )
    torch.testing.assert_close(
        one.logit_attrs(one.decompose_resid(), 5),
        cache.logit_attrs(cache.decompose_resid(), 5)[:, 1],
    )
    stack = cache.decompose_resid(pos_slice=(2, 5))[:, 1]
    torch.testing.assert_close(
        cache.apply_ln_to_stack(stack, pos_slice=(2, 5), batch_slice=1, has_batch_dim=False),
        cache.apply_ln_to_stack(cache.decompose_resid())[:, 1, 2:5],
    )
    some = cache.apply_slice_to_batch_dim((0, 1))
    assert some.has_batch_dim
    assert some.remove_batch_dim().remove_batch_dim() is some
    assert torch.equal(some["resid_pre", 1], cache["resid_pre", 1][0])
    with pytest.raises(ValueError, match="2 samples"):
        cache.remove_batch_dim()
    with pytest.raises(ValueError, match="dropped already"):
        some.apply_slice_to_batch_dim(0)


def test_stacks_of_activations(bridge, tokens):
    cache = run(bridge, tokens)
    assert torch.equal(
        cache.stack_activation("pattern"), torch.stack([cache["pattern", n] for n in range(2)])
    )
    scales = cache.stack_activation("scale", 1, "ln1")
    assert torch.equal(scales[0], cache["scale", 0, "ln1"])
    with pytest.raises(ValueError, match="no layer before"):
        cache.stack_activation("pattern", 0)
    with pytest.raises(ValueError, match="lies outside"):
        cache.accumulated_resid(9)
    with pytest.raises(ValueError, match="mode"):
        cache.decompose_resid(mode="heads")
    with pytest.raises(ValueError, match="project_output_onto"):
        cache.stack_neuron_results(project_output_onto=torch.zeros(3))
    labels = cache.decompose_resid(mode="mlp", incl_embeds=False, return_labels=True)[1]
    assert labels == ["0_mlp_out", "1_mlp_out"]
    labels = cache.accumulated_resid(1, incl_mid=True, return_labels=True)[1]
    assert labels == ["0_pre", "0_mid", "1_pre"]
    some, labels = cache.stack_neuron_results(neuron_slice=[1, 4], return_labels=True)
    assert labels == ["L0N1", "L0N4", "L1N1", "L1N4"]
    results = cache.get_neuron_results(1, neuron_slice=4)
    assert torch.equal(results[..., 0, :], some[3])
    direction = torch.randn(bridge.cfg.d_model)
    onto = cache.get_neuron_results(1, project_output_onto=direction)
    torch.testing.assert_close(onto, cache.get_neuron_results(1) @ direction, atol=1e-5, rtol=1e-4)


def test_a_stream_that_a_hook_has_changed_is_no_sum(gpt2, tokens):
    def shift(stream, hook):
        return stream + 1

    with torch.no_grad(), gpt2.hooks(fwd_hooks=[(("resid_pre", 1), shift)]):
        _, cache = gpt2.run_with_cache(tokens)
    with pytest.raises(ValueError, match="does not sum"):
        cache.decompose_resid()


def test_autodiff_is_switched_where_asked(gpt2, tokens):
    cache = run(gpt2, tokens)
    with torch.enable_grad():
        cache.toggle_autodiff(False)
        assert not torch.is_grad_enabled()
        cache.toggle_autodiff(True)
        assert torch.is_grad_enabled()
