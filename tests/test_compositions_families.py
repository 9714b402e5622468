"""Denoisers of pellucid.families under a bridge, and families as judges of how likely a text is."""

import itertools
from typing import Any

import pytest
import torch

from pellucid.bridge import TransformerBridge, logit_lens, trace_lens
from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import CombinedLoss, Targets
from pellucid.families.arlm import ARLMLoss, DefaultARLMCollator, RotaryTransformerARLMModel
from pellucid.families.flexmdm import FlexMDMModel, FlexMDMPredictor
from pellucid.families.ilm import (
    ILMLossWithMaskedCE,
    ILMPredictor,
    ILMPredictorWithStoppingClassification,
    ILMSeq2SeqCollator,
    RotaryTransformerILMModelWithStoppingClassification,
)
from pellucid.families.mdlm import MDLMModel, MDLMPredictor
from pellucid.families.mlm import (
    DefaultMLMCollator,
    MLMLoss,
    MLMPredictor,
    RotaryTransformerMLMModel,
)
from pellucid.hf import LMHFModel
from pellucid.losses import NLLBoundLoss, TargetStartNLLLoss
from pellucid.optimizers import RandomSearchOptimizer
from pellucid.testing import tiny_llama, tiny_tokenizer
from pellucid.xlm import SimpleSpaceTokenizer, TextScorer

TOKENIZER = SimpleSpaceTokenizer.for_numbers(10)
COUNTING = [" ".join(str((start + n) % 10) for n in range(8)) for start in range(10)]


@pytest.fixture(scope="module")
def denoiser() -> RotaryTransformerMLMModel:
    """A masked language model that has learnt to count, in three seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = RotaryTransformerMLMModel(len(TOKENIZER), 32, 2, 4, dropout=0.0, mix_neighbours=True)
    collator = DefaultMLMCollator(TOKENIZER, block_size=8)
    collator.generator = torch.Generator().manual_seed(0)
    loss = MLMLoss(model=net, tokenizer=TOKENIZER)
    learning = torch.optim.Adam(net.parameters(), lr=1e-2)
    rows = [{"input_ids": TOKENIZER.encode(text)} for text in COUNTING]
    for _ in range(300):
        learning.zero_grad()
        loss(collator(rows))["loss"].backward()
        learning.step()
    return net.eval()


def make_predictor(net: Any) -> MLMPredictor:
    return MLMPredictor(max_steps=6, tokenizer=TOKENIZER, model=net, confidence="top_prob")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MASKED = "3 4 [MASK] [MASK] [MASK] [MASK] [MASK] 0"
FULL = "3 4 5 6 7 8 9 0"


def test_the_lens_follows_a_denoiser_step_by_step(denoiser: Any) -> None:
    bridge, predictor = TransformerBridge(denoiser), make_predictor(denoiser)
    said: list[list[str]] = []
    passes = trace_lens(bridge, lambda: said.append(predictor.generate([MASKED], generator=draw())))
    # Looking changes nothing, and leaves nothing behind.
    assert said == [predictor.generate([MASKED], generator=draw())] == [[FULL]]
    assert 1 < len(passes) <= predictor.max_steps
    goal = torch.tensor(TOKENIZER.encode(FULL))
    shares = [
        [float((lens.tokens[layer, 0, :, 0] == goal).float().mean()) for layer in range(3)]
        for lens in passes
    ]
    assert passes[0].labels == ("0_pre", "1_pre", "final_post")
    # The last layer knows more than the embeddings, and the last step has it all.
    assert shares[0][-1] > shares[0][0]
    assert shares[-1][-1] == 1.0
    ids = torch.tensor([TOKENIZER.encode(MASKED)])
    torch.testing.assert_close(passes[0].tokens, logit_lens(bridge, ids).tokens)
    assert not any(module._forward_hooks for module in denoiser.modules())


def make_flexmdm(*shape: int) -> FlexMDMModel:
    return FlexMDMModel(*shape, dropout=0.0, max_gap=4)


def make_stopping_ilm(*shape: int) -> RotaryTransformerILMModelWithStoppingClassification:
    return RotaryTransformerILMModelWithStoppingClassification(*shape, dropout=0.0)


SAMPLERS: dict[str, tuple[Any, Any]] = {
    "mdlm": (
        MDLMModel,
        lambda net: MDLMPredictor(6, 6, TOKENIZER, model=net, confidence="entropy"),
    ),
    "ilm": (
        make_stopping_ilm,
        lambda net: ILMPredictorWithStoppingClassification(6, 12, TOKENIZER, model=net),
    ),
    "flexmdm": (make_flexmdm, lambda net: FlexMDMPredictor(6, 6, TOKENIZER, model=net)),
}


@pytest.mark.parametrize("family", SAMPLERS)
def test_the_lens_reads_what_every_pass_of_a_sampler_read(family: str) -> None:
    make, sample_from = SAMPLERS[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make(len(TOKENIZER), 16, 2, 2).eval()
        for weight in net.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    predictor, prompts = sample_from(net), ["3 4", "5 6 7"]
    unseen = predictor.generate(prompts, generator=draw())
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def keep(net: Any, args: Any, kwargs: Any, output: Any) -> None:
        logits = output[0] if isinstance(output, tuple) else output
        calls.append((args[0], kwargs["where"], logits))

    with net.register_forward_hook(keep, with_kwargs=True):
        seen: list[list[str]] = []
        passes = trace_lens(
            TransformerBridge(net),
            lambda: seen.append(predictor.generate(prompts, generator=draw())),
            k=3,
        )
    assert seen == [unseen]
    assert len(passes) == len(calls) > 1
    for lens, (ids, where, logits) in zip(passes, calls, strict=True):
        assert lens.input_ids is not None
        assert lens.input_ids.equal(ids)
        best = logits.softmax(-1).topk(3)
        assert lens.tokens[-1][where].equal(best.indices)
        torch.testing.assert_close(lens.probs[-1][where], best.values, atol=1e-5, rtol=1e-4)
    widths = [ids.shape[1] for ids, _, _ in calls]
    assert (widths[-1] > widths[0]) == (family != "mdlm")
    assert not any(module._forward_hooks for module in net.modules())


def test_the_lens_follows_a_text_that_grows() -> None:
    """What an insertion model is going to say is seen in the slot where it stands a step later."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = RotaryTransformerILMModelWithStoppingClassification(
            len(TOKENIZER), 32, 2, 4, dropout=0.0, mix_neighbours=True
        )
        loss = ILMLossWithMaskedCE(net, TOKENIZER)
        collator = ILMSeq2SeqCollator(TOKENIZER, 4, input_block_size=4)
        learning = torch.optim.Adam(net.parameters(), lr=1e-2)
        texts = [TOKENIZER.encode(text) for text in COUNTING]
        rows = [{"prompt_ids": text[:2], "input_ids": text[2:5]} for text in texts]
        for _ in range(80):
            learning.zero_grad()
            loss(collator(rows * 2))["loss"].backward()
            learning.step()
    # Three tokens, whatever the network says of when to stop.
    predictor = ILMPredictor(3, 12, TOKENIZER, model=net.eval(), temperature=0.0)
    said: list[list[str]] = []
    passes = trace_lens(TransformerBridge(net), lambda: said.append(predictor.generate(["3 4"])))
    assert said == [["5 6 7"]]
    assert len(passes) == 3
    for lens, later in itertools.pairwise(passes):
        before, after = lens.input_ids[0].tolist(), later.input_ids[0].tolist()
        slot = next(at for at, token in enumerate([*before, None]) if token != after[at]) - 1
        assert lens.tokens[-1, 0, slot, 0] == after[slot + 1]


def test_a_denoiser_is_hooked_and_patched(denoiser: Any) -> None:
    bridge = TransformerBridge(denoiser)
    ids, other = (
        torch.tensor([TOKENIZER.encode(text)]) for text in (MASKED, MASKED.replace("3", "5"))
    )
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(ids)
        torch.testing.assert_close(logits, denoiser(ids), atol=1e-5, rtol=1e-5)
        _, corrupted = bridge.run_with_cache(other)
        patch = ("blocks.0.hook_resid_pre", lambda stream, hook: corrupted[hook.name])
        patched = bridge.run_with_hooks(ids, fwd_hooks=[patch])
        torch.testing.assert_close(patched, denoiser(other), atol=1e-5, rtol=1e-5)
    z = torch.einsum("bhqk,bkhd->bqhd", cache["pattern", 0], cache["v", 0])
    torch.testing.assert_close(z, cache["z", 0], atol=1e-5, rtol=1e-5)
    parts, labels = cache.decompose_resid(return_labels=True)
    torch.testing.assert_close(parts.sum(0), cache["resid_post", 1], atol=1e-4, rtol=1e-4)
    assert labels[0] == "embed"
    assert not bridge.predicts_next


def test_every_family_of_networks_is_bridged() -> None:
    """One that writes from left to right, and one that is told the time."""
    ids = torch.randint(7, 17, (2, 6), generator=draw())
    causal = TransformerBridge(RotaryTransformerARLMModel(17, 16, 2, 2, dropout=0.0).eval())
    _, cache = causal.run_with_cache(ids)
    assert causal.predicts_next
    assert cache["pattern", 1].triu(1).abs().max() == 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        timed = MDLMModel(17, 16, 2, 2, dropout=0.0).eval()
        for weight in timed.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    bridge, noise = TransformerBridge(timed), torch.tensor([0.5, 0.9])
    with torch.no_grad():
        plain = timed(ids, noise)
        logits, cache = bridge.run_with_cache(ids, noise=noise)
        (lens,) = trace_lens(bridge, lambda: timed(ids, noise), k=2)
    torch.testing.assert_close(logits, plain, atol=1e-4, rtol=1e-4)
    # The last norm is told the time, too: the lens reads with what this pass was given.
    assert lens.tokens[-1].equal(plain.topk(2).indices)
    assert "blocks.0.hook_attn_out" not in bridge.hook_table()


def make_scorer(net: Any, *, samples: int = 4, **settings: Any) -> TextScorer:
    loss = MLMLoss(model=net, tokenizer=TOKENIZER, n_bound_samples=samples)
    return TextScorer(loss, DefaultMLMCollator(TOKENIZER, block_size=8), **settings)


def test_a_family_scores_texts(denoiser: Any) -> None:
    scorer = make_scorer(denoiser)
    likely, unlikely = scorer([FULL, "7 1 1 0 5 2 2 9"]).tolist()
    assert likely < 8 < unlikely
    # A score is the text's own, whatever stands beside it, and no generator is used up.
    before = torch.get_rng_state()
    assert scorer(["7 1 1 0 5 2 2 9"]).tolist() == [unlikely]
    assert torch.get_rng_state().equal(before)
    assert scorer.get_usage_stats()["total_tokens"] == 3 * 8


def test_an_autoregressive_bound_is_the_likelihood() -> None:
    net = RotaryTransformerARLMModel(len(TOKENIZER), 16, 1, 2, dropout=0.0).eval()
    loss = ARLMLoss(model=net, tokenizer=TOKENIZER)
    scorer = TextScorer(loss, DefaultARLMCollator(TOKENIZER, block_size=8))
    (text,) = ["3 4 5"]
    batch = DefaultARLMCollator(TOKENIZER, block_size=8)([{"input_ids": TOKENIZER.encode(text)}])
    torch.testing.assert_close(scorer([text]), loss.nll_bound(batch).nats.float())


def encode_letters(text: str) -> list[int]:
    """Every letter a digit."""
    return TOKENIZER.encode(" ".join(str(ord(letter) % 10) for letter in text[:8]))


def test_a_trigger_is_searched_that_a_family_finds_likely(denoiser: Any) -> None:
    """The family is the model that is optimised against."""
    scorer = make_scorer(denoiser, samples=2, encode=encode_letters)
    search = RandomSearchOptimizer(
        scorer, NLLBoundLoss(), num_steps=10, n_candidates=8, seed=0, tokenizer=tiny_tokenizer()
    )
    result = search.optimize_trigger([P], "a a a a a a a a", None)
    assert result.best_loss < 0.8 * result.initial_loss


def test_a_family_judges_beside_another_models_loss(denoiser: Any) -> None:
    """The answer of one model, and how likely the prompt is to another."""

    fluent = NLLBoundLoss(scorer=make_scorer(denoiser, samples=2, encode=encode_letters))
    model = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())
    search = RandomSearchOptimizer(model, fluent, num_steps=4, n_candidates=8, seed=0)
    alone = search.optimize_trigger([f"{P} now"], "a b c")
    assert alone.best_loss < alone.initial_loss
    both = CombinedLoss([TargetStartNLLLoss(), fluent], weights=[1.0, 0.1])
    search = RandomSearchOptimizer(model, both, num_steps=4, n_candidates=8, seed=0)
    targets = Targets(target_response_strs=["Yes."])
    result = search.optimize_trigger([f"{P} now"], "a b c", targets)
    assert result.best_loss < result.initial_loss
    assert set(both.get_loss_log_dict()) >= {"NLLBoundLoss", "TargetStartNLLLoss"}
