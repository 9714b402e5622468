"""A model that has learned induction in front of our eyes: every method finds how it does it.

Two layers of attention alone learn to go on with what has followed the same token before: a head
of the first layer looks at the previous token, and one of the second finds by its keys where the
token has been (Olsson et al. 2022, "In-context learning and induction heads").
"""

import pytest
import torch

from pellucid.bridge import (
    TransformerBridge,
    attribution_patch,
    detect_head,
    edge_attribution_patch,
    evals,
    patching,
    path_patch,
)

N_POS, D_VOCAB = 32, 48


@pytest.fixture(scope="module")
def trained() -> TransformerBridge:
    """About 12 s of one core's time."""
    bridge = TransformerBridge.boot_native(
        {
            "d_model": 64, "n_layers": 2, "n_heads": 2, "d_vocab": D_VOCAB, "n_ctx": N_POS,
            "attn_only": True, "positional_embedding_type": "rotary", "seed": 0,
        }
    )  # fmt: skip
    n_steps, generator = 1000, torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(bridge.parameters(), lr=3e-3, weight_decay=0.3, betas=(0.9, 0.98))
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = (
            3e-3 * min(1, (step + 1) / 50) * (1 - step / n_steps) ** 0.5
        )
        # Periods differ, so that no position alone says where to look.
        period = int(torch.randint(N_POS // 4, N_POS // 2 + 1, (), generator=generator))
        rows = torch.randint(D_VOCAB, (32, period), generator=generator)
        rows = rows.repeat(1, N_POS // period + 1)[:, :N_POS]
        logits = bridge.original_model(input_ids=rows).logits[:, period:-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), rows[:, period + 1 :].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    return TransformerBridge(
        bridge.original_model.requires_grad_(False), bridge.adapter, config=bridge.cfg
    )


@pytest.fixture(scope="module")
def repeated() -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return evals.repeat_tokens(D_VOCAB, batch_size=32, subseq_len=N_POS // 2, generator=generator)


def second_half_loss(tokens):
    half = N_POS // 2

    def loss(logits):
        return torch.nn.functional.cross_entropy(
            logits[:, half:-1].flatten(0, 1), tokens[:, half + 1 :].flatten()
        )

    return loss


def ablate(bridge, tokens, layer, head):
    """Return how much worse the repetition is predicted without what a head tells each position."""

    def flatten(z, hook):
        z = z.clone()
        z[:, :, head] = z[:, :, head].mean((0, 1))
        return z

    loss = second_half_loss(tokens)
    with torch.no_grad():
        without = bridge.run_with_hooks(tokens, fwd_hooks=[(("z", layer), flatten)])
        return float(loss(without) - loss(bridge(tokens)))


@pytest.fixture(scope="module")
def induction_head(trained: TransformerBridge, repeated: torch.Tensor) -> int:
    """The head of the second layer without which the repetition is predicted worst."""
    lost = [ablate(trained, repeated, 1, head) for head in range(2)]
    assert max(lost) > 1.0
    assert max(lost) > 3 * min(lost)
    return lost.index(max(lost))


@pytest.fixture(scope="module")
def previous_head(trained: TransformerBridge, repeated: torch.Tensor) -> int:
    lost = [ablate(trained, repeated, 0, head) for head in range(2)]
    assert max(lost) > 1.0
    return lost.index(max(lost))


def test_it_has_learned_to_repeat(trained):
    made = evals.induction_loss(trained, batch_size=16, subseq_len=N_POS // 2)
    assert made.first_loss > 3
    assert made.second_loss < 0.5
    assert made.accuracy > 0.9


def test_the_detector_finds_the_heads(trained, repeated, induction_head, previous_head):
    scores = detect_head(trained, repeated, "induction_head")
    assert divmod(int(scores.argmax()), 2) == (1, induction_head)
    # Only in its second half is there anything to be found.
    assert scores[1, induction_head] > 0.25
    assert scores[0].max() < 0.1
    scores = detect_head(trained, repeated, "previous_token_head")
    assert divmod(int(scores.argmax()), 2) == (0, previous_head)
    assert scores[0, previous_head] > 0.4


def test_composition_finds_the_circuit(trained, induction_head, previous_head):
    keys = trained.all_composition_scores("K")
    values = keys.scores[0, :, 1]
    # It is by its keys that the second head reads what the first one writes.
    assert int(values[:, induction_head].argmax()) == previous_head
    assert values[previous_head, induction_head] > 0.95 * values.max()
    for mode in "QV":
        other = trained.all_composition_scores(mode).scores[0, previous_head, 1, induction_head]
        assert values[previous_head, induction_head] > 1.3 * other


def test_patching_finds_the_circuit(trained, repeated, induction_head, previous_head):
    corrupted = repeated.clone()
    # Another first half: nothing is repeated any more.
    corrupted[:, : N_POS // 2] = repeated[:, : N_POS // 2].roll(1, dims=0)
    loss = second_half_loss(repeated)
    with torch.no_grad():
        _, clean = trained.run_with_cache(repeated)
        _, dirty = trained.run_with_cache(corrupted)
        baseline = loss(trained(corrupted))
    given = (trained, corrupted, clean, loss)
    gained = baseline - patching.get_act_patch_attn_head_out_all_pos(*given)
    assert divmod(int(gained.argmax()), 2) == (1, induction_head)
    estimated = -attribution_patch(*given, "z", ("layer", "head"))
    assert divmod(int(estimated.argmax()), 2) == (1, induction_head)
    edges = edge_attribution_patch(trained, corrupted, clean, dirty, loss)
    source, target, _ = edges.top(1)[0]
    assert (source, target) == (f"a1.h{induction_head}", "logits")


def test_the_path_through_the_keys_is_the_circuit(trained, repeated, induction_head, previous_head):
    # Without what the previous-token head writes, and with it restored for one reader alone.
    def forget(z, hook):
        z = z.clone()
        z[:, :, previous_head] = z[:, :, previous_head].mean((0, 1))
        return z

    loss = second_half_loss(repeated)
    with torch.no_grad():
        _, clean = trained.run_with_cache(repeated)
        with trained.hooks(fwd_hooks=[(("z", 0), forget)]):
            _, dirty = trained.run_with_cache(repeated)
    restored = {
        which: float(
            loss(
                path_patch(
                    trained,
                    repeated,
                    dirty,
                    clean,
                    senders=[("z", 0, previous_head)],
                    receivers=[(which, 1, induction_head)],
                )
            )
        )
        for which in "qkv"
    }
    with torch.no_grad():
        best = float(loss(trained(repeated)))
    # Forgotten by the keys alone, it is missed; by queries and values, hardly.
    assert restored["k"] - best > 0.5
    assert restored["k"] - best > 3 * max(restored["q"] - best, restored["v"] - best)
