"""Models that describe themselves, modules that name values, and the lens over their passes."""

import pytest
import torch
from torch import nn

from pellucid.bridge import (
    Architecture,
    TransformerBridge,
    logit_lens,
    register_architecture,
    trace_lens,
)
from pellucid.bridge._architectures._described import read_record
from pellucid.bridge._architectures._record import Attention, Block, Stack
from pellucid.core import ActivationSource, ArgumentError, DescribedModel, NamedActivation
from pellucid.testing import tiny_gpt2, tiny_llama

WIDTH, VOCABULARY = 16, 11


class Cell(nn.Module):
    """Two heads of attention and a network, all in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.calm, self.settle = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.ask, self.merge = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.bend = nn.Identity()

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        batch, pos, _ = stream.shape
        asked = self.ask(self.calm(stream)).view(batch, pos, 3, 2, WIDTH // 2)
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        stream = stream + self.merge(found.transpose(1, 2).flatten(2))
        hidden = self.bend(self.widen(self.settle(stream)).relu())
        return stream + self.narrow(hidden)

    def named_activations(self) -> dict[str, NamedActivation]:
        named = NamedActivation(module=self.bend, shape="batch pos d_mlp", meaning="what is bent")
        return {"mlp.hook_bent": named}


class Oddity(nn.Module):
    """Takes words, gives logits of the words at their own places."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.cells = nn.ModuleList(Cell() for _ in range(2))
        self.last, self.answer = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        stream = self.table(words)
        for cell in self.cells:
            stream = cell(stream)
        return self.answer(self.last(stream))

    def describe_architecture(self) -> dict[str, object]:
        block = {
            "ln1": "calm",
            "attn": {"path": "", "qkv": "ask", "o": "merge"},
            "ln2": "settle",
            "mlp": {"path": "", "in_": "widen", "out": "narrow"},
        }
        return {
            "stacks": [{"path": "cells", "block": block}],
            "parts": {"embed": "table", "ln_final": "last", "unembed": "answer"},
            "input_name": "words",
            "is_masked": True,
            "config": {
                "hidden_size": WIDTH,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "vocab_size": VOCABULARY,
            },
        }


@pytest.fixture
def model() -> Oddity:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Oddity()
        for weight in made.parameters():
            nn.init.normal_(weight, std=0.4)
    return made.eval()


@pytest.fixture
def words() -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(0))


def test_plain_data_becomes_a_record(model: Oddity) -> None:
    assert isinstance(model, DescribedModel)
    assert isinstance(model.cells[0], ActivationSource)
    data = model.describe_architecture()
    data.pop("config")
    record = read_record({"classes": ["Oddity"], **data})
    assert isinstance(record, Architecture)
    assert isinstance(record.stacks[0], Stack)
    assert isinstance(record.stacks[0].block.attn, Attention)
    assert record.stacks[0].block.ln1 == "calm"
    assert record.input_name == "words"
    other = Block(ln1="other")
    held = {
        "classes": (),
        "parts": {},
        "stacks": [{"path": "x", "block": {}, "others": {1: other}}],
    }
    assert read_record(held).stacks[0].others == {1: other}


def test_a_model_that_describes_itself_is_bridged(model: Oddity, words: torch.Tensor) -> None:
    bridge = TransformerBridge(model)
    assert (bridge.cfg.n_layers, bridge.cfg.n_heads, bridge.cfg.d_vocab) == (2, 2, VOCABULARY)
    assert not bridge.predicts_next
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(words)
        torch.testing.assert_close(logits, model(words))
    parts = cache.decompose_resid()
    torch.testing.assert_close(parts.sum(0), cache["resid_post", 1], atol=1e-5, rtol=1e-5)
    z = torch.einsum("bhqk,bkhd->bqhd", cache["pattern", 0], cache["v", 0])
    torch.testing.assert_close(z, cache["z", 0], atol=1e-5, rtol=1e-5)
    # A block that is its own attention takes and gives the stream: that is not attention's.
    assert "blocks.0.attn.hook_out" not in bridge.hook_table()
    assert bridge.explain("blocks.0.hook_attn_out").name == "blocks.0.attn.o.hook_out"


def test_what_a_module_names_is_read_and_changed(model: Oddity, words: torch.Tensor) -> None:
    bridge = TransformerBridge(model)
    spec = bridge.explain("blocks.1.mlp.hook_bent")
    assert (spec.shape, spec.meaning, spec.layer) == ("batch pos d_mlp", "what is bent", 1)
    _, cache = bridge.run_with_cache(words)
    assert cache["blocks.1.mlp.hook_bent"].equal(cache["blocks.1.mlp.hook_post"])
    off = ("blocks.1.mlp.hook_bent", lambda bent, hook: bent * 0)
    other = ("blocks.1.mlp.hook_post", lambda post, hook: post * 0)
    assert bridge.run_with_hooks(words, fwd_hooks=[off]).equal(
        bridge.run_with_hooks(words, fwd_hooks=[other])
    )


def test_what_was_registered_comes_first(model: Oddity, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.bridge._architectures import _registry

    monkeypatch.setattr(_registry, "_registered", {})
    data = {name: held for name, held in model.describe_architecture().items() if name != "config"}
    mine = read_record({"classes": ["Oddity"], **data, "omits": ["blocks.*.hook_resid_mid"]})
    register_architecture(mine)
    assert "blocks.0.hook_resid_mid" not in TransformerBridge(model).hook_table()


def test_what_is_no_record_is_refused(model: Oddity) -> None:
    with pytest.raises(ArgumentError, match=r"Architecture has no field 'stack'\. Known are"):
        read_record({"classes": (), "parts": {}, "stack": []})
    with pytest.raises(ArgumentError, match=r"Linear has no config. Pass one: build_bridge"):
        TransformerBridge(nn.Linear(2, 2))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_the_lens_over_every_pass_of_a_sampler(make) -> None:
    bridge = TransformerBridge(make())
    ids = torch.tensor([[5, 6, 7, 8]])
    made = []

    def sample() -> None:
        options = {"max_new_tokens": 3, "do_sample": False, "use_cache": False, "pad_token_id": 0}
        made.append(bridge.original_model.generate(ids, eos_token_id=None, **options))

    passes = trace_lens(bridge, sample, k=3)
    assert [lens.tokens.shape[2] for lens in passes] == [4, 5, 6]
    for number, lens in enumerate(passes):
        expected = logit_lens(bridge, made[0][:, : 4 + number], k=3)
        assert lens.labels == expected.labels
        assert lens.input_ids.equal(expected.input_ids)
        torch.testing.assert_close(lens.probs, expected.probs, atol=1e-5, rtol=1e-4)
        assert lens.tokens[-1, 0, -1, 0] == made[0][0, 4 + number]
    # Who is given embeddings has read no tokens.
    table = bridge.original_model.get_input_embeddings()
    (lens,) = trace_lens(
        bridge, lambda: bridge.original_model(inputs_embeds=table.weight[None, :4])
    )
    assert lens.input_ids is None
    with pytest.raises(ArgumentError, match="k must lie in"):
        trace_lens(bridge, sample, k=0)
