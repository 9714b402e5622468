"""Directions: found, added and taken away."""

from typing import Any

import pytest
import torch

from pellucid.bridge import (
    TransformerBridge,
    ablate_direction,
    add_direction,
    difference_in_means,
)
from pellucid.testing import tiny_gpt2, tiny_llama

PLEASED = ["What a fine day it is", "How kind of you", "Lovely"]
CALM = ["It is a day", "The table is made of wood, and so is the door", "A list of names"]


@pytest.fixture(params=[tiny_llama, tiny_gpt2])
def bridge(request: pytest.FixtureRequest, tokenizer: Any) -> TransformerBridge:
    return TransformerBridge(request.param(), tokenizer=tokenizer)


def last_activation(bridge: Any, text: str, name: str) -> torch.Tensor:
    return bridge.run_with_cache(text)[1][name][0, -1]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_it_is_the_difference_of_the_means_of_single_runs(bridge: Any, batch_size: int) -> None:
    name = "blocks.1.hook_resid_post"
    found = difference_in_means(bridge, PLEASED, CALM, ("resid_post", 1), batch_size=batch_size)
    means = [
        torch.stack([last_activation(bridge, text, name) for text in texts]).mean(0)
        for texts in (PLEASED, CALM)
    ]
    torch.testing.assert_close(found, means[0] - means[1], atol=1e-5, rtol=1e-4)
    assert float(found.norm()) > 1e-3


def test_other_positions_are_counted_from_the_end(bridge: Any) -> None:
    found = difference_in_means(
        bridge, PLEASED[:1], CALM[:1], "blocks.0.hook_resid_post", position=-3
    )
    held = [
        bridge.run_with_cache(text)[1]["blocks.0.hook_resid_post"][0, -3]
        for text in (PLEASED[0], CALM[0])
    ]
    torch.testing.assert_close(found, held[0] - held[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", [None, 2, [0, 3], slice(1, 3)])
def test_adding_changes_the_activation_by_so_much_and_only_within_the_context(
    bridge: Any, positions: Any
) -> None:
    name, text = "blocks.0.hook_resid_post", PLEASED[0]
    before_logits, before = bridge.run_with_cache(text)
    direction = torch.randn(before[name].shape[-1], generator=torch.Generator().manual_seed(0))
    expected = before[name].clone()
    expected[:, slice(None) if positions is None else positions] += 2.5 * direction
    with add_direction(bridge, name, direction, coefficient=2.5, positions=positions):
        after_logits, after = bridge.run_with_cache(text)
    torch.testing.assert_close(after[name], expected)
    assert not after_logits.allclose(before_logits)
    assert bridge(text).equal(before_logits)


def test_nothing_of_an_ablated_direction_is_left_in_the_stream(bridge: Any) -> None:
    text = CALM[1]
    logits = bridge(text)
    direction = difference_in_means(bridge, PLEASED, CALM, "blocks.0.hook_resid_post")
    unit = direction / direction.norm()
    with ablate_direction(bridge, direction):
        after_logits, cache = bridge.run_with_cache(text)
        with ablate_direction(bridge, 3 * direction):
            torch.testing.assert_close(bridge(text), after_logits, atol=1e-4, rtol=1e-4)
    for name in ("resid_pre", "resid_mid", "resid_post"):
        for layer in (0, 1):
            share = (cache[name, layer] @ unit).abs().max()
            assert float(share) < 1e-4 * float(cache[name, layer].norm(dim=-1).max())
    assert not after_logits.allclose(logits)


def test_only_named_activations_are_ablated(bridge: Any) -> None:
    direction = torch.ones(bridge.cfg.d_model)
    with ablate_direction(bridge, direction, hook_names=[("mlp_out", 0)]):
        _, cache = bridge.run_with_cache(CALM[0])
    assert float(cache["mlp_out", 0].sum(-1).abs().max()) < 1e-4
    assert float(cache["mlp_out", 1].sum(-1).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"positive": []}, "positive holds no prompt"),
        ({"negative": []}, "negative holds no prompt"),
        ({"position": 0}, "position must be negative"),
        ({"position": -50}, "has .* tokens, so none at position -50"),
        ({"hook_name": "blocks.0.hook_resid_prost"}, "hook_resid_pre"),
    ],
)
def test_what_means_nothing_is_refused(bridge: Any, change: Any, complaint: str) -> None:
    given = {
        "positive": PLEASED, "negative": CALM, "hook_name": "blocks.0.hook_resid_post", **change
    }  # fmt: skip
    with pytest.raises((ValueError, KeyError), match=complaint):
        difference_in_means(bridge, **given)


def test_directions_of_another_width_are_refused_and_leave_nothing(bridge: Any) -> None:
    narrow = torch.ones(3)
    with (
        pytest.raises(ValueError, match=r"shape \(3,\), and 'blocks.0.hook_out' is"),
        add_direction(bridge, ("resid_post", 0), narrow),
    ):
        bridge(CALM[0])
    with (
        pytest.raises(ValueError, match="direction is zero"),
        ablate_direction(bridge, torch.zeros(bridge.cfg.d_model)),
    ):
        pytest.fail("not reached")
    assert bridge.list_hooks() == {}
