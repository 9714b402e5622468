"""Inside of state spaces: what their convolution gives, and the state that they leave behind."""

import inspect

import pytest
import torch
from tiny_cases import CASES, make_bridge
from torch.nn import functional

from pellucid.bridge._engine._caching import join_steps
from pellucid.bridge._errors import HookError

STATES = [case for case in CASES if case.kind in ("MambaForCausalLM", "Mamba2ForCausalLM")]
PER_CASE = pytest.mark.parametrize("case", STATES, ids=str)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
CONV, STATE = "blocks.1.mixer.hook_conv", "blocks.1.mixer.hook_ssm_state"


def _gap(a, b):
    return float((a - b).abs().max())


def _inner(cache):
    """Return what enters the convolution."""
    names = ("blocks.1.mixer.hook_x", "blocks.1.mixer.hook_x_B_C")
    return next(cache[name] for name in names if name in cache)


def _convolve(mixer, inner):
    """Return each position's sum over itself and those before it, one after another."""
    weight, n = mixer.conv1d.weight[:, 0], mixer.conv1d.kernel_size[0]
    padded = functional.pad(inner, (0, 0, n - 1, 0))
    made = [(padded[:, t : t + n].mT * weight).sum(-1) for t in range(inner.shape[1])]
    return torch.stack(made, dim=1) + mixer.conv1d.bias


@PER_CASE
@pytest.mark.parametrize("n_positions", [1, 2, 6])
@pytest.mark.parametrize("use_cache", [True, False])
def test_convolution_is_what_computing_it_by_position_gives(case, n_positions, use_cache):
    bridge = make_bridge(case)
    _, cache = bridge.run_with_cache(IDS[:, :n_positions], use_cache=use_cache)
    mixer = bridge.blocks[1].mixer.original_component
    assert _gap(cache[CONV], _convolve(mixer, _inner(cache))) < 1e-5


@PER_CASE
def test_edits_of_the_convolution_reach_the_logits_from_their_position_on(case):
    bridge = make_bridge(case)
    plain = bridge(IDS)

    def double_later(value, hook):
        return torch.cat([value[:, :3], 2 * value[:, 3:]], dim=1)

    assert torch.equal(bridge.run_with_hooks(IDS, fwd_hooks=[(CONV, lambda v, hook: None)]), plain)
    same = bridge.run_with_hooks(IDS, fwd_hooks=[(CONV, lambda v, hook: v.clone())])
    assert _gap(same, plain) < 1e-5
    edited = bridge.run_with_hooks(IDS, fwd_hooks=[(CONV, double_later)])
    assert _gap(edited[:, :3], plain[:, :3]) < 1e-5
    assert ((edited - plain).abs().amax(-1)[:, 3:] > 1e-4).all()


@PER_CASE
def test_gradients_of_the_convolution_are_finite_differences(case):
    bridge = make_bridge(case)
    held = []
    hooks = [(CONV, lambda v, hook: v.detach().requires_grad_())]
    with torch.enable_grad(), bridge.hooks(hooks, [(CONV, lambda g, hook: held.append(g))]):
        bridge(IDS)[:, -1].log_softmax(-1)[:, 3].sum().backward()
    step = torch.randn(held[0].shape, generator=torch.Generator().manual_seed(0)) * 1e-2

    def predict(sign):
        edit = [(CONV, lambda v, hook: v + sign * step)]
        return float(bridge.run_with_hooks(IDS, fwd_hooks=edit)[:, -1].log_softmax(-1)[:, 3].sum())

    expected = (predict(1) - predict(-1)) / 2
    assert float((held[0] * step).sum()) == pytest.approx(expected, rel=0.02, abs=1e-4)


@PER_CASE
def test_other_names_are_those_of_transformer_lens(case):
    bridge = make_bridge(case)
    table, name = bridge.hook_table(), "blocks.0.mixer."
    assert table.resolve(f"{name}hook_conv") == f"{name}conv1d.hook_out"
    assert table.resolve(f"{name}hook_in_proj") == f"{name}in_proj.hook_out"
    assert table.resolve(f"{name}hook_ssm_out") == f"{name}hook_out"
    other = ("x_proj", "x_proj") if case.kind == "MambaForCausalLM" else ("inner_norm", "norm")
    assert table.resolve(f"{name}hook_{other[0]}") == f"{name}{other[1]}.hook_out"


def test_hooks_on_a_convolution_in_a_kernel_are_refused_and_caches_are_without_it(monkeypatch):
    bridge = make_bridge(STATES[0])
    kind = type(bridge.blocks[1].mixer.original_component)

    def convolve(hidden, weight, bias, **more):
        padded = functional.pad(hidden, (weight.shape[-1] - 1, 0)).unfold(-1, weight.shape[-1], 1)
        return functional.silu((padded * weight[:, None]).sum(-1) + bias[:, None])

    monkeypatch.setitem(inspect.unwrap(kind.forward).__globals__, "causal_conv1d_fn", convolve)
    for more in ({}, {"device": "cpu"}):
        _, cache = bridge.run_with_cache(IDS, **more)
        assert CONV not in cache
        assert STATE in cache
    with pytest.raises(HookError, match="the convolution of MambaMixer ran in a kernel"):
        bridge.run_with_hooks(IDS, fwd_hooks=[(CONV, lambda v, hook: v * 0)])


@PER_CASE
def test_state_is_that_of_the_recurrence_from_the_start(case):
    bridge = make_bridge(case)
    _, cache = bridge.run_with_cache(IDS)
    state, shape = cache[STATE], bridge.hook_table()[STATE].shape
    expected = cache.compute_ssm_state(1)
    if case.kind == "MambaForCausalLM":
        # One feature is one channel.
        expected = expected.squeeze(-2)
    assert len(shape.split()) == state.ndim
    assert _gap(state, expected) < 1e-5


@PER_CASE
def test_state_has_no_positions_to_choose_from(case):
    bridge = make_bridge(case)
    _, whole = bridge.run_with_cache(IDS)
    _, last = bridge.run_with_cache(IDS, pos_slice=-1)
    assert torch.equal(last[STATE], whole[STATE])


@PER_CASE
def test_generation_leaves_the_state_of_all_positions(case):
    bridge = make_bridge(case)
    tokens, cache = bridge.generate(
        IDS[:, :2], max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False,
        return_cache=True, names_filter=[CONV, STATE],
    )  # fmt: skip
    n_positions = cache[CONV].shape[1]
    _, whole = bridge.run_with_cache(tokens[:, :n_positions])
    assert n_positions >= 5
    assert _gap(cache[CONV], whole[CONV]) < 1e-5
    assert _gap(cache[STATE], whole[STATE]) < 1e-5


def test_steps_of_generation_are_joined_to_the_last_state():
    steps = [{STATE: torch.randn(2, 4, 3)}, {STATE: torch.randn(2, 4, 3)}]
    assert torch.equal(join_steps(steps)[STATE], steps[-1][STATE])


@PER_CASE
@pytest.mark.parametrize("n_first", [2, 5])
def test_runs_that_go_on_from_kept_positions_are_one_run(case, n_first):
    bridge = make_bridge(case)
    _, whole = bridge.run_with_cache(IDS)
    _, held = bridge(IDS[:, :n_first], return_type="logits_and_cache")
    for n in range(n_first, 6):
        _, cache = bridge.run_with_cache(IDS[:, n : n + 1], cache_params=held)
        assert _gap(cache[CONV], whole[CONV][:, n : n + 1]) < 1e-5
    assert _gap(cache[STATE], whole[STATE]) < 1e-5


@PER_CASE
def test_edits_of_the_state_reach_what_starts_from_it(case):
    bridge = make_bridge(case)

    def run(edit):
        with bridge.hooks([(STATE, edit)]):
            logits, held = bridge(IDS[:, :5], return_type="logits_and_cache")
        return logits, bridge(IDS[:, 5:], cache_params=held)

    plain, same = run(lambda v, hook: None), run(lambda v, hook: v.clone())
    edited = run(lambda v, hook: v * 0)
    assert _gap(same[1], plain[1]) < 1e-6
    assert torch.equal(edited[0], plain[0])
    assert _gap(edited[1], plain[1]) > 1e-4


@PER_CASE
def test_runs_that_keep_nothing_have_no_state(case):
    bridge = make_bridge(case)
    _, cache = bridge.run_with_cache(IDS, use_cache=False)
    assert STATE not in cache
    assert CONV in cache
