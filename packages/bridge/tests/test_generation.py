"""Generation: against transformers, against naive references, with hooks, in all its options."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.bridge import GenerateOutput, TransformerBridge, sample_logits


def greedy(bridge: TransformerBridge, given: Any, n: int = 5, **options: Any) -> Any:
    return bridge.generate(
        given, max_new_tokens=n, do_sample=False, stop_at_eos=False, verbose=False, **options
    )


def naive_greedy(bridge: TransformerBridge, tokens: torch.Tensor, n: int) -> torch.Tensor:
    for _ in range(n):
        tokens = torch.cat([tokens, bridge(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


def test_greedy_equals_recomputation_and_transformers(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    expected = naive_greedy(bridge, tokens, 5)
    assert torch.equal(greedy(bridge, tokens), expected)
    assert torch.equal(greedy(bridge, tokens, use_past_kv_cache=False), expected)
    theirs = bridge.original_model.generate(
        tokens, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(theirs, expected)
    ours = bridge.hf_generate(tokens, 5, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(ours, expected)


def test_hooks_act_on_every_step_with_and_without_keys_and_values(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    edit = ("blocks.0.hook_attn_out", lambda value, hook: value * -2)
    with bridge.hooks([edit]):
        expected = naive_greedy(bridge, tokens, 4)
        for use in (True, False):
            assert torch.equal(greedy(bridge, tokens, 4, use_past_kv_cache=use), expected)
        theirs = bridge.hf_generate(tokens, 4, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert torch.equal(theirs, expected)
    assert not torch.equal(expected, greedy(bridge, tokens, 4))


def test_a_hook_knows_its_step(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    seen: list[tuple[Any, int]] = []

    def note(value: torch.Tensor, hook: Any) -> None:
        seen.append((hook.step, value.shape[1]))

    with bridge.hooks([("hook_embed", note)]):
        greedy(bridge, tokens, 3)
        bridge(tokens)
    assert seen == [(0, 7), (1, 1), (2, 1), (None, 7)]


def test_a_batch_of_texts_equals_texts_alone(bridge: TransformerBridge) -> None:
    texts = ["Tell me about the weather.", "Hi.", "What is a word"]
    assert greedy(bridge, texts) == [greedy(bridge, text) for text in texts]


def test_prompts_of_all_kinds(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    text = "Tell me"
    made = greedy(bridge, text, 2)
    assert isinstance(made, str)
    assert greedy(bridge, text, 2, return_type="tokens").shape[0] == 1
    # One row of tokens without the axis of a batch.
    assert torch.equal(greedy(bridge, tokens[0], 3), greedy(bridge, tokens[:1], 3))
    embeds = bridge.original_model.get_input_embeddings()(tokens)
    assert torch.equal(greedy(bridge, embeds, 3), greedy(bridge, tokens, 3)[:, 7:])
    sequence, prompt = greedy(bridge, tokens, 2, return_input_tokens=True)
    assert torch.equal(prompt, tokens)
    assert torch.equal(sequence[:, :7], tokens)


def test_no_new_tokens_return_the_prompt(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    assert torch.equal(greedy(bridge, tokens, 0), tokens)
    sequence, cache = greedy(bridge, tokens, 0, return_cache=True)
    assert torch.equal(sequence, tokens)
    assert cache["resid_post", 0].shape[1] == 7


@pytest.mark.parametrize("use_past", [True, False])
def test_the_cache_is_that_of_the_whole_sequence(
    bridge: TransformerBridge, tokens: torch.Tensor, use_past: bool
) -> None:
    sequences, cache = greedy(bridge, tokens, 4, return_cache=True, use_past_kv_cache=use_past)
    _, expected = bridge.run_with_cache(sequences)
    assert list(cache) == list(expected)
    for name, held in expected.items():
        torch.testing.assert_close(cache[name], held, atol=1e-4, rtol=1e-4, msg=name)


def test_the_logits_are_those_of_each_step(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    output = greedy(bridge, tokens, 3, output_logits=True)
    assert isinstance(output, GenerateOutput)
    expected = bridge(output.sequences)[:, 6:-1]
    torch.testing.assert_close(torch.stack(output.logits, 1), expected, atol=1e-4, rtol=1e-4)


def test_a_generator_makes_draws_repeat_and_leaves_the_global_one_alone(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    def draw(seed: int) -> torch.Tensor:
        return bridge.generate(
            tokens, 8, stop_at_eos=False, generator=torch.Generator().manual_seed(seed)
        )

    state = torch.get_rng_state()
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_end_with_any_of_the_end_tokens(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    free = greedy(bridge, tokens, 6)[:, 7:]
    ends = [int(free[0, 1]), int(free[1, 3])]
    made = bridge.generate(tokens, 6, do_sample=False, eos_token_id=ends, verbose=False)[:, 7:]
    for row, expected in zip(made, free, strict=True):
        stop = next(p for p, token in enumerate(expected.tolist()) if token in ends)
        assert torch.equal(row[: stop + 1], expected[: stop + 1])
        assert set(row[stop + 1 :].tolist()) <= {bridge.tokenizer.eos_token_id}


def test_strings_and_criteria_end_rows(bridge: TransformerBridge) -> None:
    text = "Tell me about"
    whole = greedy(bridge, text, 8, return_type="tokens")[0]
    n_prompt = bridge.to_tokens(text).shape[1]
    piece = bridge.to_string(whole[n_prompt + 1 : n_prompt + 2])
    stopped = greedy(bridge, text, 8, return_type="tokens", stop_strings=piece)[0]
    assert n_prompt < len(stopped) <= n_prompt + 2
    assert torch.equal(stopped, whole[: len(stopped)])

    def at_three(tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return torch.full((len(tokens),), tokens.shape[1] >= n_prompt + 3)

    made = greedy(bridge, text, 8, return_type="tokens", stopping_criteria=at_three)[0]
    assert len(made) == n_prompt + 3
    assert torch.equal(made, whole[: n_prompt + 3])


def test_a_stream_joins_up_to_the_whole(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    whole = greedy(bridge, tokens, 7)
    pieces = list(
        bridge.generate_stream(
            tokens, 7, max_tokens_per_yield=3, stop_at_eos=False, do_sample=False
        )
    )
    assert [piece.shape[1] for piece in pieces] == [10, 3, 1]
    assert torch.equal(torch.cat(pieces, 1), whole)


def test_between_pieces_of_a_stream_the_model_is_as_it_was(
    bridge: TransformerBridge, tokens: torch.Tensor, unchanged: Any
) -> None:
    with unchanged(bridge.original_model):
        bridge.add_hook("blocks.0.hook_attn_out", lambda value, hook: value * 0)
        stream = bridge.generate_stream(tokens, 4, max_tokens_per_yield=1, stop_at_eos=False)
        next(stream)
        assert not torch.is_inference_mode_enabled()
        assert not any(m._forward_hooks for m in bridge.original_model.modules())
        stream.close()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": -1.0}, "temperature"),
        ({"freq_penalty": -1.0}, "freq_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"return_type": "song"}, "return_type"),
        ({"padding_side": "right"}, "padding_side"),
        ({"stopping_criteria": [3]}, "stopping_criteria"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask"),
    ],
)
def test_options_out_of_range_are_refused(
    llama: TransformerBridge, tokens: torch.Tensor, options: Any, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        llama.generate(tokens, **{"max_new_tokens": 2, **options})


def test_an_end_must_be_known(tokens: torch.Tensor, llama: TransformerBridge) -> None:
    llama.cfg.eos_token_id = None
    llama.tokenizer = None
    with pytest.raises(ValueError, match="stop_at_eos"):
        llama.generate(tokens, 2)
    with pytest.raises(AssertionError, match="tokenizer"):
        llama.generate("text", 2)


# Sampling.


def naive_keep(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> set[int]:
    """Return which tokens may be drawn, one at a time."""
    order = sorted(range(len(logits)), key=lambda i: -float(logits[i]))
    order = order[:top_k] if top_k is not None else order
    chances = torch.tensor([float(logits[i]) for i in order], dtype=torch.float64).softmax(0)
    kept, total = set(), 0.0
    for token, chance in zip(order, chances.tolist(), strict=True):
        if top_p is not None and top_p < 1 and total >= top_p - 1e-9 and kept:
            break
        kept.add(token)
        total += chance
    return kept


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 1000),
    st.none() | st.integers(1, 12),
    st.none() | st.floats(0.05, 0.95),
)
def test_only_tokens_of_the_nucleus_among_the_top_are_drawn(
    seed: int, top_k: int | None, top_p: float | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(10, generator=generator) * 2
    drawn = sample_logits(logits.expand(400, -1), top_k=top_k, top_p=top_p, generator=generator)
    assert set(drawn.tolist()) <= naive_keep(logits, top_k, top_p)


def test_draws_follow_the_probabilities_of_what_is_left() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    drawn = sample_logits(
        logits.expand(20_000, -1), top_k=3, temperature=0.7,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    expected = torch.cat([(logits[:3] / 0.7).softmax(0), torch.zeros(2)])
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


def test_penalties_take_from_what_has_occurred() -> None:
    logits = torch.tensor([[1.0, 0.9, -0.5]])
    seen = torch.tensor([[0, 0, 2]])
    assert sample_logits(logits, temperature=0.0).tolist() == [0]
    penalised = sample_logits(logits, temperature=0.0, repetition_penalty=2.0, tokens=seen)
    assert penalised.tolist() == [1]
    drawn = sample_logits(
        logits.expand(500, -1), freq_penalty=100.0, tokens=seen.expand(500, -1),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert set(drawn.tolist()) == {1}
    with pytest.raises(ValueError, match="tokens="):
        sample_logits(logits, freq_penalty=1.0)
