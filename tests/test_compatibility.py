"""The compatibility matrix is true: what it admits runs, what it refuses is refused."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from pellucid.core import (
    BaseLoss,
    BaseModel,
    ClassifierBaseModel,
    EncoderBaseModel,
    RequirementError,
    Targets,
    Verdict,
    as_tokenizer,
    check_compatibility,
    load,
    names,
)
from pellucid.hf import ClassifierHFModel, EncoderHFModel, LMHFModel
from pellucid.losses import MisclassCELoss, PrefillCELoss, SimilarityLoss
from pellucid.testing import (
    TinyEncoder,
    TinyLM,
    tiny_bert,
    tiny_llama,
    tiny_tokenizer,
    tiny_wordpiece_tokenizer,
)

TEMPLATE = "say {{OPTIMIZED_TRIGGER}} now"
TRIGGER = "the cat"
TARGET = "yes you"


def make_hf_lm(*, use_eager_attention: bool = False) -> LMHFModel:
    kind = "eager" if use_eager_attention else "sdpa"
    return LMHFModel(
        tiny_llama(attn_implementation=kind),
        tokenizer=tiny_tokenizer(),
        use_eager_attention=use_eager_attention,
    )


def make_hf_encoder() -> EncoderHFModel:
    return EncoderHFModel(tiny_bert(), tokenizer=tiny_wordpiece_tokenizer())


def make_hf_classifier() -> ClassifierHFModel:
    tokenizer = tiny_wordpiece_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = BertForSequenceClassification(config).eval()
    return ClassifierHFModel(module, tokenizer=tokenizer)


# A tiny object for each registered name. Whoever registers a component adds a line here.
MODELS: dict[str, Callable[..., BaseModel]] = {
    "hf-classifier": make_hf_classifier,
    "hf-encoder": make_hf_encoder,
    "hf-lm": make_hf_lm,
}
# Not registered, and all the same: a second implementation of everything.
UNREGISTERED: dict[str, Callable[..., BaseModel]] = {
    "tiny-encoder": TinyEncoder,
    "tiny-lm": TinyLM,
}
FEW: dict[str, Any] = {"num_steps": 2, "n_candidates": 4}
FEW_OFFERS: dict[str, Any] = {**FEW, "sample_topk": 4}
FEW_FLIPS: dict[str, Any] = {**FEW, "n_flip": 2}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "arca": {**FEW_OFFERS, "n_grad_avg": 2},
    "auto-prompt": FEW_OFFERS,
    "beam-search": {"num_steps": 2, "beam_size": 2, "branching_factor": 2},
    "gaslite": {**FEW_FLIPS, "n_grad": 2},
    "gaslite-plus": {**FEW_FLIPS, "n_grad": 2, "buffer_size": 2, "n_bulk_flips": 2},
    "gbda": {"num_steps": 2, "n_grad_samples": 2, "n_final_gumbel_samples": 2},
    "gcg": FEW_OFFERS,
    "gcg-plus": FEW_OFFERS,
    "hot-flip": {"num_steps": 2},
    "pal": FEW_OFFERS,
    "pez": {"num_steps": 2},
    "pgd": {"num_steps": 2},
    "probe-sampling-gcg": FEW_OFFERS,
    "qcg": {
        "num_steps": 2,
        "n_proxy_candidates": 4,
        "n_target_candidates": 2,
        "buffer_size": 2,
    },
    "random-search": FEW,
    "raslite-plus": {**FEW_FLIPS, "buffer_size": 2, "n_bulk_flips": 2},
    "soft-prompt": {"num_steps": 2},
}
JUDGED: dict[str, Any] = {"positive_words": ["a", "e"], "negative_words": ["i", "o"]}
LOSSES: dict[str, dict[str, Any]] = {
    "attention-enh": {},
    "first-token-nll": {"missing_logprob_value": -30.0},
    "input-fluency": JUDGED,
    "misclass-ce": {},
    "prefill-ce": {},
    "prefill-cw": {},
    "prefill-distillation": {},
    "prefill-mellowmax": {},
    "response-lm-score": JUDGED,
    "similarity": {},
    "steering-activation": {},
    "trigger-perplexity": {},
}


@functools.cache
def model_of(name: str, **options: Any) -> BaseModel:
    return {**MODELS, **UNREGISTERED}[name](**options)


@functools.cache
def loss_of(name: str) -> BaseLoss:
    judge = {"judge": make_hf_lm()} if LOSSES[name] is JUDGED else {}
    return load("pellucid.losses", name)(**LOSSES[name], **judge)


def own_loss_of(model: BaseModel) -> BaseLoss:
    """Return a differentiable loss that a model can compute from token ids."""
    if isinstance(model, EncoderBaseModel):
        return SimilarityLoss()
    return MisclassCELoss() if isinstance(model, ClassifierBaseModel) else PrefillCELoss()


def targets_of(model: Any, *losses: BaseLoss) -> Targets:
    """Return what losses compare with, and the response, which all language models take."""
    tokenizer = as_tokenizer(model.tokenizer)
    length = len(tokenizer.encode_trigger(TARGET))
    width = model.embedding_matrix.shape[1]
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator)
    held = {
        "target_response_logits": [draw(length, model.vocab_size)],
        "target_vectors": draw(1, width),
        "target_directions": draw(1, width),
        "target_class_idx": [1],
        "true_class_idx": [0],
    }
    read = set().union(*(loss.reads().required for loss in losses))
    return Targets(
        target_response_strs=[TARGET], **{name: held[name] for name in held if name in read}
    )


def what_to_give(argument: str, model: BaseModel) -> Any:
    """Return what meets a condition of an optimizer."""
    language_model = model if hasattr(model, "compute_logits_from_tokens") else TinyLM(seed=1)
    makers: dict[str, Callable[[], Any]] = {
        "draft_loss": lambda: own_loss_of(model),
        "draft_model": lambda: model,
        "proxy_loss": lambda: own_loss_of(model),
        "proxy_model": lambda: model,
        "tokenizer": lambda: TinyLM().tokenizer,
        "util_lm": lambda: language_model,
    }
    if argument not in makers:
        pytest.fail(f"nothing is known to meet the condition {argument}=; add it here.")
    return makers[argument]()


@pytest.mark.parametrize(
    ("group", "known"),
    [
        ("pellucid.models", MODELS),
        ("pellucid.optimizers", OPTIMIZERS),
        ("pellucid.losses", LOSSES),
    ],
)
def test_every_registered_component_has_a_tiny_builder(group, known):
    lacking = sorted(set(names(group)) - set(known))
    gone = sorted(set(known) - set(names(group)))
    assert not lacking, f"{group}: {lacking} are registered; add tiny builders to this file."
    assert not gone, f"{group}: {gone} are not registered any more; remove their builders."


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", [*MODELS, *UNREGISTERED])
def test_a_cell_says_the_truth(model, optimizer, loss):
    kind = load("pellucid.optimizers", optimizer)
    target, lowered = model_of(model), loss_of(loss)
    report = check_compatibility(type(target), kind, type(lowered))
    settings = {**OPTIMIZERS[optimizer], "seed": 0}
    if report.verdict is Verdict.NO:
        every_option = dict.fromkeys(type(target).optional_fields.values(), True)
        for made in (target, model_of(model, **every_option)):
            expect_refusal(kind, made, lowered, settings)
    elif report.verdict is Verdict.CONDITIONAL:
        expect_condition(kind, target, lowered, settings)
        target, settings = meet(report.conditions, model, settings)
    if report.compatible:
        own = [settings[name] for name in ("draft_loss", "proxy_loss") if name in settings]
        take_two_steps(kind(target, lowered, **settings), targets_of(target, lowered, *own))


def expect_refusal(kind, target, lowered, settings):
    """What is refused as classes is refused as objects, for the reasons that the report gives."""
    reasons = check_compatibility(target, kind, lowered).reasons
    assert reasons
    beside = {role.argument: target for role in kind.roles if role.is_required}
    with pytest.raises(RequirementError) as caught:
        kind(target, lowered, **beside, **settings)
    assert str(caught.value) == " ".join(reasons)


def expect_condition(kind, target, lowered, settings):
    """What is admitted under conditions is refused as long as none of them is met."""
    required = [role.argument for role in kind.roles if role.is_required]
    if required:
        with pytest.raises(TypeError, match=required[0]):
            kind(target, lowered, **settings)
    else:
        with pytest.raises(RequirementError, match=r"reads|requires|has none|gives no|does not"):
            kind(target, lowered, **settings)


def meet(conditions, model, settings):
    """Return a model and an optimizer's settings that meet conditions."""
    owner = type(model_of(model)).__name__
    made_with = {each.argument: True for each in conditions if each.owner == owner}
    target = model_of(model, **made_with)
    given = {
        each.argument: what_to_give(each.argument, target)
        for each in conditions
        if each.owner != owner
    }
    return target, {**settings, **given}


def take_two_steps(optimizer, targets):
    run = optimizer.iterate([TEMPLATE], TRIGGER, targets)
    steps = [step.step for step in run]
    assert steps == [1, 2]
    assert len(run.result().losses) == 2
