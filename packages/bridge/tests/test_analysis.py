"""Composition, singular vectors, lenses, attributions, the head detector and evaluations."""

import pytest
import torch
from tiny_cases import CASES, make_bridge

from pellucid.bridge import (
    FactoredMatrix,
    Slice,
    SVDInterpreter,
    TransformerBridge,
    composition_scores,
    detect_head,
    direct_logit_attribution,
    evals,
    logit_lens,
    read_lens,
)
from pellucid.bridge.head_detector import (
    get_duplicate_token_head_detection_pattern,
    get_induction_head_detection_pattern,
    get_previous_token_head_detection_pattern,
)
from pellucid.testing import tiny_gpt2

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])


def find(kind):
    return make_bridge(next(case for case in CASES if case.kind == kind))


# Slices.


def test_slices_are_indexing():
    held = torch.arange(24).reshape(2, 12)
    for given, expected in {
        None: held, 3: held[:, 3], (2, 5): held[:, 2:5], (None, 9, 2): held[:, :9:2],
    }.items():  # fmt: skip
        made = Slice(given).apply(held, dim=1)
        assert torch.equal(made, expected)
    assert torch.equal(Slice([1, 5]).apply(held, dim=-1), held[:, [1, 5]])
    assert torch.equal(Slice(slice(1)).apply(held), held[:1])
    assert Slice.unwrap(3).apply(held, dim=1).shape == (2, 1)
    assert Slice((2, 5)).indices(12) == [2, 3, 4]
    assert Slice(-1).indices(12) == [11]
    assert [Slice(one).mode for one in (None, 1, (1, 2), [1])] == [
        "identity", "int", "slice", "array",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a slice must be"):
        Slice("x")


# Composition.


def naive_score(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a @ b).norm() / (a.norm() * b.norm()))


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "LlamaForCausalLM", "FalconForCausalLM"])
@pytest.mark.parametrize("mode", ["Q", "K", "V"])
def test_composition_of_all_pairs(kind, mode):
    bridge = find(kind)
    made = bridge.all_composition_scores(mode)
    n = bridge.cfg.n_heads
    assert made.scores.shape == (2, n, 2, n)
    assert made.head_labels == [f"L{layer}H{head}" for layer in range(2) for head in range(n)]
    assert bridge.composition_layer_indices() == made.layer_indices == [0, 1]
    writing = bridge.OV.AB
    reading = {"Q": bridge.QK.AB, "K": bridge.QK.T.AB, "V": writing}[mode]
    for i in range(n):
        for j in range(n):
            expected = naive_score(writing[0, i], reading[1, j])
            assert float(made.scores[0, i, 1, j]) == pytest.approx(expected, rel=1e-4)
    assert made.scores[1].abs().sum() == made.scores[0, :, 0].abs().sum() == 0
    source, target, value = made.top(1)[0]
    assert value == float(made.scores.max())
    assert (source[:2], target[:2]) == ("L0", "L1")


def test_composition_of_matrices():
    left = FactoredMatrix(torch.randn(3, 6, 2), torch.randn(3, 2, 5))
    right = FactoredMatrix(torch.randn(4, 5, 3), torch.randn(4, 3, 7))
    made = composition_scores(left, right)
    assert made.shape == (3, 4)
    assert float(made[1, 2]) == pytest.approx(naive_score(left[1].AB, right[2].AB), rel=1e-4)
    one = composition_scores(left, right[:3], broadcast_dims=False)
    torch.testing.assert_close(one, made[:, :3].diagonal())
    assert composition_scores(left * 0.0, right).abs().sum() == 0
    with pytest.raises(ValueError, match="5 columns"):
        composition_scores(left, left)


def test_bad_modes(gpt2, tokens):
    with pytest.raises(ValueError, match="mode"):
        gpt2.all_composition_scores("z")
    with pytest.raises(ValueError, match="outside of the 2 blocks"):
        gpt2.accumulated_bias(2, mlp_input=True)
    with pytest.raises(ValueError, match="one stack"):
        find("T5ForConditionalGeneration").all_composition_scores("Q")


# Directions.


def test_directions_are_columns_of_the_unembedding(gpt2):
    weight = gpt2.W_U
    assert torch.equal(gpt2.tokens_to_residual_directions(7), weight[:, 7])
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(gpt2.tokens_to_residual_directions(ids), weight.T[ids])
    assert gpt2.tokens_to_residual_directions(torch.tensor([3])).shape == (1, 32)
    word = gpt2.to_single_str_token(20)
    assert torch.equal(gpt2.tokens_to_residual_directions(word), weight[:, 20])
    for bad in (1.5, torch.zeros(2), torch.zeros(1, 1, 1, dtype=torch.long), 10**6, -1):
        with pytest.raises(ValueError, match="token"):
            gpt2.tokens_to_residual_directions(bad)


@pytest.mark.parametrize("which", ["OV", "w_in", "w_out"])
@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_singular_vectors(kind, which):
    bridge = find(kind)
    made = SVDInterpreter(bridge).get_singular_vectors(
        which, 1, num_vectors=3, head_index=2 if which == "OV" else None
    )
    assert made.shape == (bridge.cfg.d_vocab, 1, 3)
    norm = bridge.original_model.get_submodule(
        "transformer.ln_f" if kind.startswith("GPT2") else "model.norm"
    )
    block = bridge.blocks[1].ln2.original_component
    matrix = {
        "OV": lambda: bridge.OV.AB[1, 2],
        "w_in": lambda: (bridge.W_in[1] * block.weight[:, None]).T,
        "w_out": lambda: bridge.W_out[1],
    }[which]()
    vectors = torch.linalg.svd(matrix).Vh[:3].T
    unembed = bridge.W_U * norm.weight[:, None]
    unembed = unembed - unembed.mean(0) if kind.startswith("GPT2") else unembed
    torch.testing.assert_close(
        made.squeeze(1).abs(), (unembed.T @ vectors).abs(), atol=1e-4, rtol=1e-3
    )


def test_bad_singular_vectors(gpt2):
    svd = SVDInterpreter(gpt2)
    for given, match in (
        (("qk", 0), "vector_type"),
        (("OV", 0), "head_index"),
        (("OV", 5), "layer_index"),
        (("w_in", 0, 1000), "num_vectors"),
    ):
        with pytest.raises(ValueError, match=match):
            svd.get_singular_vectors(*given)


# Lenses and attributions.


@pytest.mark.parametrize(
    "kind", ["GPT2LMHeadModel", "Gemma2ForCausalLM", "CohereForCausalLM", "GraniteForCausalLM"]
)
def test_the_lens_is_the_cache_read_out(kind):
    bridge = find(kind)
    targets = IDS.roll(-1, dims=1)
    made = logit_lens(bridge, IDS, k=3, targets=targets)
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(IDS)
    log_probs = cache.logit_lens().log_softmax(-1)
    assert made.labels == ("0_pre", "1_pre", "final_post")
    best = log_probs.topk(3)
    torch.testing.assert_close(made.probs, best.values.exp(), atol=1e-5, rtol=1e-4)
    assert (made.tokens == best.indices).float().mean() > 0.9
    expected = log_probs.gather(-1, targets.expand(3, -1, -1)[..., None]).squeeze(-1)
    torch.testing.assert_close(made.target_log_probs, expected, atol=1e-4, rtol=1e-4)
    assert made.target_ranks is not None
    assert int(made.target_ranks.max()) < bridge.cfg.d_vocab
    torch.testing.assert_close(log_probs[-1], logits.log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_the_lens_of_some_layers(gpt2, tokens, unchanged):
    with unchanged(gpt2.original_model):
        labels, found = read_lens(gpt2, tokens, lambda logits: logits.shape, layers=[1])
    assert labels == ("1_pre", "final_post")
    assert found == [(2, 7, gpt2.cfg.d_vocab)] * 2
    with pytest.raises(ValueError, match="layers"):
        logit_lens(gpt2, tokens, layers=[2])
    with pytest.raises(ValueError, match="k must"):
        logit_lens(gpt2, tokens, k=0)
    with pytest.raises(ValueError, match="targets"):
        logit_lens(gpt2, tokens, targets=tokens[0])


def test_the_lens_refuses_what_it_does_not_know(gpt2, tokens):
    def twist(logits, hook):
        return logits * 2

    with (
        gpt2.hooks(fwd_hooks=[("hook_unembed", twist)]),
        pytest.raises(ValueError, match="differ by"),
    ):
        logit_lens(gpt2, tokens)


@pytest.mark.parametrize("parts", ["layers", "heads", "neurons"])
def test_attributions_sum(bridge, tokens, parts):
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens)
    whole = cache.logit_attrs(cache["resid_post", -1][None], 5, 9)[0]
    made = direct_logit_attribution(cache, 5, 9, parts=parts)
    assert len(made.labels) == len(made.values)
    torch.testing.assert_close(made.values.sum(0), whole, atol=1e-4, rtol=1e-4)
    last = direct_logit_attribution(cache, 5, 9, parts=parts, pos_slice=-1)
    torch.testing.assert_close(last.values, made.values[..., -1], atol=1e-5, rtol=1e-4)
    assert len(last.top(3)) == 3


def test_attribution_of_streams(gpt2, tokens):
    with torch.no_grad():
        _, cache = gpt2.run_with_cache(tokens)
    made = direct_logit_attribution(cache, 5, parts="streams")
    assert made.labels == ("0_pre", "1_pre", "final_post")
    with pytest.raises(ValueError, match="parts"):
        direct_logit_attribution(cache, 5, parts="blocks")
    with pytest.raises(ValueError, match="one shape"):
        cache.logit_attrs(cache.decompose_resid(), 5, torch.tensor([5]))


# The head detector.


def test_named_patterns():
    tokens = torch.tensor([4, 5, 6, 4, 5])
    previous = get_previous_token_head_detection_pattern(tokens)
    assert previous.nonzero().tolist() == [[1, 0], [2, 1], [3, 2], [4, 3]]
    duplicate = get_duplicate_token_head_detection_pattern(tokens)
    assert duplicate.nonzero().tolist() == [[3, 0], [4, 1]]
    induction = get_induction_head_detection_pattern(tokens)
    assert induction.nonzero().tolist() == [[3, 1], [4, 2]]


def test_scores_of_heads(llama, tokens):
    with torch.no_grad():
        _, cache = llama.run_with_cache(tokens)
    wanted = torch.rand(7, 7).tril()
    made = detect_head(llama, tokens, wanted)
    for layer in range(2):
        pattern = cache["pattern", layer]
        torch.testing.assert_close(
            made[layer], (pattern * wanted).sum((-1, -2)).div(7).mean(0), atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(made, detect_head(llama, tokens, wanted, cache=cache))
    exact = detect_head(llama, tokens[0], cache["pattern", 0][0, 1], error_measure="abs")
    assert float(exact[0, 1]) == pytest.approx(1.0, abs=1e-5)
    assert float(exact.flatten().sort().values[-2]) < 1
    some = detect_head(llama, tokens, wanted, heads=[(1, 2)])
    assert (some == -1).sum() == 7
    assert torch.equal(some, detect_head(llama, tokens, wanted, heads={1: [2]}))
    torch.testing.assert_close(some[1, 2], made[1, 2])
    bare = detect_head(
        llama, tokens, "previous_token_head", exclude_bos=True, exclude_current_token=True
    )
    assert float(bare.min()) >= 0
    text = detect_head(llama, ["The cat sees music.", "A dog."], "duplicate_token_head")
    assert text.shape == (2, 4)


def test_bad_detection(llama, tokens):
    for given, match in (
        ({"detection_pattern": "sideways"}, "previous_token_head"),
        ({"detection_pattern": torch.ones(7, 7)}, "above its diagonal"),
        ({"detection_pattern": "induction_head", "error_measure": "x"}, "error_measure"),
        ({"detection_pattern": "induction_head", "heads": [(0, 9)]}, "no head 9"),
    ):
        with pytest.raises(ValueError, match=match):
            detect_head(llama, tokens, **given)


# Evaluations.


def test_induction_of_a_random_model_is_nothing(gpt2):
    made = evals.induction_loss(gpt2, batch_size=2, subseq_len=10)
    assert made == evals.induction_loss(gpt2, batch_size=2, subseq_len=10)
    assert made.first_loss == pytest.approx(made.second_loss, abs=1.5)
    tokens = evals.repeat_tokens(50, batch_size=3, subseq_len=4, bos=7)
    assert tokens.shape == (3, 9)
    assert torch.equal(tokens[:, 1:5], tokens[:, 5:])
    with pytest.raises(ValueError, match="d_vocab"):
        evals.repeat_tokens(1)


def test_ioi(gpt2, tokenizer):
    made = evals.IOIDataset(tokenizer, 6, symmetric=True, names=("cat", "dog"))
    assert len(made) == 6
    first, second = made[0], made[1]
    assert first["IO"] == second["S"] != first["S"]
    assert first["text"].count(made.samples[0][1]) == 1
    assert first["text"].count(made.samples[0][2]) == 2
    scores = evals.ioi_eval(gpt2, dataset=made)
    gaps = []
    for number in range(6):
        sample = made[number]
        with torch.no_grad():
            logits = gpt2(sample["prompt"])[0, -1]
        gaps.append(float(logits[sample["IO"]] - logits[sample["S"]]))
    assert scores["Logit Difference"] == pytest.approx(sum(gaps) / 6, abs=1e-4)
    assert scores["Accuracy"] == sum(gap > 0 for gap in gaps) / 6
    with pytest.raises(ValueError, match="tells apart"):
        evals.IOIDataset(tokenizer, names=("Anna", "Anna"))
    with pytest.raises(ValueError, match="needs a tokenizer"):
        evals.ioi_eval(TransformerBridge(tiny_gpt2()))
