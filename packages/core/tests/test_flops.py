"""FLOPs against counts by hand, on modules that only look like transformers' models."""

import types

import pytest
import torch
from core_samples import EchoLM
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pellucid.core import FlopCounterBase, ManualFlopCounter, RequirementError

# Core does not import transformers; what it accepts is told by the name of a base class.
PreTrainedModel = type(
    "PreTrainedModel", (nn.Module,), {"__module__": "transformers.modeling_utils"}
)

VOCAB, WIDTH, HIDDEN = 50, 8, 16


class TinyModel(PreTrainedModel):
    def __init__(self, *, is_tied=False, n_experts=0, has_head=True, **config):
        super().__init__()
        self.config = types.SimpleNamespace(**config)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.mlp = nn.Linear(WIDTH, HIDDEN, bias=False)
        if n_experts:
            self.block = nn.Module()
            self.block.experts = nn.ModuleList(
                nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(n_experts)
            )
            self.block.shared_experts = nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False) if has_head else None
        if is_tied:
            self.head.weight = self.embed.weight

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head


MLP, TABLE, EXPERT = WIDTH * HIDDEN, VOCAB * WIDTH, WIDTH * WIDTH


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (TinyModel(), MLP + TABLE),
        (TinyModel(is_tied=True), MLP + TABLE),
        (TinyModel(has_head=False), MLP),
        (TinyModel(n_experts=4, num_experts=4, num_experts_per_tok=1), MLP + TABLE + 2 * EXPERT),
        (TinyModel(n_experts=4, num_local_experts=4, top_k=2), MLP + TABLE + 3 * EXPERT),
        (
            TinyModel(
                n_experts=4,
                text_config=types.SimpleNamespace(n_routed_experts=4, num_experts_per_tok=3),
            ),
            MLP + TABLE + 4 * EXPERT,
        ),
        (TinyModel(n_experts=2), MLP + TABLE + 3 * EXPERT),
    ],
    ids=["dense", "tied", "headless", "moe-1of4", "moe-2of4", "moe-nested", "moe-undeclared"],
)
def test_active_parameters_against_a_count_by_hand(model, expected):
    assert ManualFlopCounter(model).n_active_params == expected


@given(st.integers(0, 10**6))
def test_2nt_forward_4nt_backward_and_2nt_through_frozen_weights(n_tokens):
    model = TinyModel()
    counter = ManualFlopCounter(model)
    assert isinstance(counter, FlopCounterBase)
    n = MLP + TABLE
    assert counter.count_forward(n_tokens) == 2 * n * n_tokens
    assert counter.count_backward(n_tokens) == 4 * n * n_tokens
    model.requires_grad_(False)
    assert counter.count_backward(n_tokens) == 2 * n * n_tokens
    model.mlp.weight.requires_grad_(True)
    assert counter.count_backward(n_tokens) == 4 * n * n_tokens


def test_four_bit_weights_count_as_two_to_a_byte():
    class Params4bit(nn.Parameter):
        pass

    model = TinyModel(has_head=False)
    packed = torch.zeros(WIDTH * HIDDEN // 2, dtype=torch.uint8)
    model.mlp.weight = Params4bit(packed, requires_grad=False)
    assert ManualFlopCounter(model).n_active_params == MLP


@pytest.mark.parametrize("model", [nn.Linear(2, 2), None, "gpt2"])
def test_anything_else_is_refused_as_a_type_error(model):
    with pytest.raises(RequirementError, match=f"got {type(model).__name__}") as caught:
        ManualFlopCounter(model)
    assert isinstance(caught.value, TypeError)


def test_a_model_adds_flops_to_its_usage_when_asked():
    model = EchoLM()
    model._model = TinyModel(has_head=False)
    model.set_flop_counting("manual")
    model._update_invoke_stats(n_tokens=10, n_samples=1)
    assert model.get_usage_stats()["total_flops"] == 2 * MLP * 10
    model._update_invoke_stats(n_tokens=10, n_samples=1, count_backward=True)
    assert model.get_usage_stats()["total_flops"] == (2 + 6) * MLP * 10
    model.set_flop_counting("none")
    assert "total_flops" not in model.get_usage_stats()
