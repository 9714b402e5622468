"""Hidden states and attention patterns: only what a loss reads is kept, and it is the same."""

import dataclasses

import pytest
import torch

from pellucid.core import (
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    BaseLoss,
    CombinedLoss,
    StateSelection,
    Targets,
)
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_llama, tiny_tokenizer

P = OPTIMIZED_TRIGGER_PLACEHOLDER
PREFIX = "The answer is yes! The question is: why? "
LAYERED = [
    "llama",
    "gpt2",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "gpt_neox",
    "opt",
    "phi3",
    "mixtral",
    "gpt_oss",
    "qwen3_next",
]


@dataclasses.dataclass
class StateSize(BaseLoss):
    """The size of some hidden states; says what it reads unless `whole`."""

    require_hidden_states = True

    layers: tuple[int, ...] | None = None
    part: str | None = None
    whole: bool = False
    seen: list = dataclasses.field(default_factory=list)

    def selections(self):
        if self.whole:
            return {}
        return {"full_hidden_states": StateSelection(layers=self.layers, part=self.part)}

    def __call__(self, full_hidden_states, input_slices, held_hidden_states=None):
        self.seen.append(tuple(full_hidden_states.shape[1:3]))
        held, (n_layers, n_pos) = held_hidden_states, full_hidden_states.shape[1:3]
        n_layers, n_pos = (n_layers, n_pos) if held is None else (held.n_layers, held.n_pos)
        layers = list(range(n_layers) if self.layers is None else self.layers)
        at = list(range(n_pos))
        at = at if self.part is None else at[input_slices[self.part]]
        if held is not None:
            layers, at = held.find_layers(layers), held.find_positions(at)
        states = full_hidden_states[:, layers][:, :, at]
        weights = torch.arange(1, states[0].numel() + 1).cos().reshape(states[0].shape)
        return (states.tanh() * weights.to(states)).mean(dim=(1, 2, 3))


@dataclasses.dataclass
class PatternSize(BaseLoss):
    """Mean attention that one part pays to another; says what it reads unless `whole`."""

    require_attentions = True

    layers: tuple[int, ...] = (-1,)
    whole: bool = False
    seen: list = dataclasses.field(default_factory=list)

    def selections(self):
        if self.whole:
            return {}
        wanted = StateSelection(layers=self.layers, part="input_after", key_part="trigger")
        return {"full_attentions": wanted}

    def __call__(self, full_attentions, input_slices, held_attentions=None):
        self.seen.append(tuple(full_attentions.shape[1:]))
        held, n_pos = held_attentions, full_attentions.shape[-1]
        layers = list(self.layers)
        rows, keys = (
            list(range(n_pos if held is None else held.n_pos))[input_slices[name]]
            for name in ("input_after", "trigger")
        )
        if held is not None:
            layers = held.find_layers(layers)
            rows, keys = held.find_positions(rows), held.find_positions(keys, keys=True)
        return full_attentions[:, layers][:, :, :, rows][..., keys].square().mean(dim=(1, 2, 3, 4))


def prepare(model, **options):
    lm = LMHFModel(model, tokenizer=tiny_tokenizer(), consistency="trigger", **options)
    templates = [f"{PREFIX}Tell me {P} now", f"Is it {P} so?"]
    lm.set_inputs_from_tokens(templates, Targets(target_response_strs=["Yes.", "No, never"]))
    return lm


@pytest.fixture
def few():
    """Random triggers of four tokens, two of which begin alike."""
    rows = torch.randint(0, 384, (6, 4), generator=torch.Generator().manual_seed(3))
    rows[:4, :2] = rows[0, :2]
    return rows


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_prefix_cache", [True, False])
@pytest.mark.parametrize("part", [None, "trigger", "input_before", "input_last_token"])
@pytest.mark.parametrize("layers", [None, (0,), (-1,), (1, 0)], ids=str)
def test_losses_and_gradients_are_those_of_whole_states(layers, part, use_prefix_cache, few):
    lm = prepare(tiny_llama(), use_prefix_cache=use_prefix_cache)
    some, whole = StateSize(layers, part), StateSize(layers, part, whole=True)
    ours, theirs = (
        lm.compute_loss_from_tokens(few, one, keep_message_dim=True) for one in (some, whole)
    )
    close(ours, theirs)
    ours, theirs = (lm.compute_grad_from_tokens(one, few) for one in (some, whole))
    close(ours, theirs)
    n_layers = 2 if layers is None else len(layers)
    assert {shape[0] for shape in some.seen} == {n_layers}
    if part in ("trigger", "input_last_token"):
        assert {shape[1] for shape in some.seen} == {{"trigger": 4}.get(part, 1)}
    assert all(shape[0] == 2 and shape[1] > 8 for shape in whole.seen)


@pytest.mark.parametrize("name", LAYERED)
def test_every_architecture_is_read_at_its_layers(name, architectures, made, few):
    lm = prepare(architectures[name]())
    for layers in ((0,), (-1,)):
        pairs = [
            (StateSize(layers, "trigger"), StateSize(layers, "trigger", whole=True)),
            (
                CombinedLoss([StateSize(layers, "trigger"), made.PrefillCE()]),
                CombinedLoss([StateSize(layers, "trigger", whole=True), made.PrefillCE()]),
            ),
        ]
        for some, whole in pairs:
            close(*(lm.compute_loss_from_tokens(few, one) for one in (some, whole)))
        close(*(lm.compute_grad_from_tokens(one, few) for one in pairs[0]))
    sites = lm._forward._taps.find(attentions=False)
    assert sites.hidden_states is not None, "the layers of this architecture are not told apart"


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "gpt_oss", "qwen3"])
def test_attention_patterns_are_read_where_they_are_wanted(name, architectures, few):
    model = architectures[name]()
    model.set_attn_implementation("eager")
    lm = prepare(model, use_eager_attention=True)
    for layers in ((0,), (-1,), (0, 1)):
        some, whole = PatternSize(layers), PatternSize(layers, whole=True)
        ours, theirs = (
            lm.compute_loss_from_tokens(few, one, keep_message_dim=True) for one in (some, whole)
        )
        close(ours, theirs)
        close(*(lm.compute_grad_from_tokens(one, few) for one in (some, whole)))
        assert {shape[0] for shape in some.seen} == {len(layers)}
        assert {shape[-1] for shape in some.seen} == {4}
    sites = lm._forward._taps.find(attentions=True)
    assert sites.attentions is not None


def test_a_combined_loss_reads_what_covers_its_parts(made, few):
    lm = prepare(tiny_llama())
    parts = [StateSize((0,), "trigger"), StateSize((-1,), "trigger"), made.PrefillCE()]
    found = lm.compute_loss_from_tokens(few, CombinedLoss(parts, [1.0, 2.0, 0.5]))
    one, two, three = (lm.compute_loss_from_tokens(few, part) for part in parts)
    close(found, one + 2 * two + 0.5 * three)
    assert parts[0].seen[0] == (2, 4)
    with_whole = CombinedLoss([StateSize((0,), "trigger"), made.HiddenNorm()], [1.0, 1.0])
    norm = lm.compute_loss_from_tokens(few, made.HiddenNorm())
    close(lm.compute_loss_from_tokens(few, with_whole), one + norm)


def layers_run(lm):
    """Record which blocks run."""
    ran = []
    blocks = lm._model.model.layers
    for i, block in enumerate(blocks):
        forward = block.forward

        def note(*args, _i=i, _forward=forward, **kwargs):
            ran.append(_i)
            return _forward(*args, **kwargs)

        block.forward = note
    return ran


def test_the_pass_ends_at_the_last_layer_that_is_read(made, few):
    model = tiny_llama(num_hidden_layers=4)
    lm = prepare(model, use_prefix_cache=False)
    loss, whole = StateSize((1,), "trigger"), StateSize((1,), "trigger", whole=True)
    expected = lm.compute_loss_from_tokens(few, whole)
    lm.compute_loss_from_tokens(few, loss)
    heads = []
    lm._model.lm_head.register_forward_hook(lambda *_: heads.append(1))
    ran = layers_run(lm)
    close(lm.compute_loss_from_tokens(few, loss), expected)
    assert max(ran) == 1
    assert not heads
    ran.clear()
    lm.compute_grad_from_tokens(loss, few)
    assert max(ran) == 1
    # Where more is read, it goes on; and nothing is left behind by a pass that was cut short.
    lm.compute_loss_from_tokens(few, CombinedLoss([loss, made.PrefillCE()]))
    assert max(ran) == 3
    close(lm.compute_loss_from_tokens(few, whole), expected)


def largest_kept(lm, loss, few):
    """How many bytes of the blocks' outputs are alive when the last block has run."""
    import gc
    import weakref

    outputs, alive = [], []
    blocks = lm._model.model.layers

    def note(module, args, output):
        outputs.append(weakref.ref(output))
        if module is blocks[-1]:
            gc.collect()
            held = [ref() for ref in outputs]
            alive.append(sum(t.numel() * t.element_size() for t in held if t is not None))

    handles = [block.register_forward_hook(note) for block in blocks]
    try:
        with lm._running(with_grad=False):
            inputs = lm._token_input_manager.get_triggered_inputs(0, few)
            selections = loss.selections().get("full_hidden_states")
            held = selections and selections.locate(
                n_layers=lm.n_layers,
                n_pos=inputs.input_ids.shape[1],
                input_slices=inputs.input_slices,
            )
            lm.invoke_from_tokens(
                inputs.input_ids,
                input_slices=inputs.input_slices,
                require_hidden_states=True,
                held_hidden_states=held,
            )
    finally:
        for handle in handles:
            handle.remove()
    return max(alive)


def test_what_is_not_read_is_not_kept(few):
    lm = prepare(tiny_llama(num_hidden_layers=8), use_prefix_cache=False)
    lm.compute_loss_from_tokens(few, StateSize((2,), "trigger"))  # finds the layers
    some = largest_kept(lm, StateSize((2,), "trigger"), few)
    whole = largest_kept(lm, StateSize((2,), "trigger", whole=True), few)
    # Of eight layers, the one that has just been computed.
    assert some <= whole / 4


def test_layers_that_cannot_be_told_are_cut_from_all(few, monkeypatch):
    from pellucid.hf import _taps

    monkeypatch.setattr(_taps, "_watch", lambda *_, **__: _taps.Sites(None, None))
    lm = prepare(tiny_llama())
    for layers, part in (((0,), "trigger"), ((-1,), "input_before")):
        some, whole = StateSize(layers, part), StateSize(layers, part, whole=True)
        close(*(lm.compute_loss_from_tokens(few, one) for one in (some, whole)))
        assert {shape[0] for shape in some.seen} == {1}


def test_nothing_stays_hooked_even_after_an_error(few):
    model = tiny_llama()
    lm = prepare(model)
    lm.compute_loss_from_tokens(few, StateSize((0,), "trigger"))
    lm._model.model.layers[1].forward = lambda *_, **__: pytest.fail("a layer too far")
    lm.compute_loss_from_tokens(few, StateSize((0,), "trigger"))
    with pytest.raises(pytest.fail.Exception):
        lm.compute_loss_from_tokens(few, StateSize((1,), "trigger"))
    own = [
        hook
        for module in model.modules()
        for hook in module._forward_hooks.values()
        if "pellucid" in hook.__module__
    ]
    assert own == []
