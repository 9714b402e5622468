"""The compatibility matrix is true: what it admits runs, what it refuses is refused."""

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
)

from pellucid.api import (
    EncoderGeminiModel,
    EncoderOpenAIModel,
    EncoderVoyageModel,
    LiteLLMModel,
    PassOnModel,
)
from pellucid.bridge import HookLoss, TransformerBridge
from pellucid.core import (
    BaseLoss,
    BaseModel,
    ClassifierBaseModel,
    EncoderBaseModel,
    Flow,
    GradientTokenAccessMixin,
    RequirementError,
    Targets,
    Verdict,
    as_tokenizer,
    check_compatibility,
    load,
    names,
)
from pellucid.families.mlm import DefaultMLMCollator, MLMLoss, RotaryTransformerMLMModel
from pellucid.hf import ClassifierHFModel, CLIPTextEncoderHFModel, EncoderHFModel, LMHFModel
from pellucid.losses import MisclassCELoss, PrefillCELoss, SimilarityLoss
from pellucid.testing import (
    TinyEncoder,
    TinyLM,
    TinyTokenizer,
    tiny_bert,
    tiny_llama,
    tiny_tokenizer,
    tiny_wordpiece_tokenizer,
)
from pellucid.tptt import TpttConfig, TpttModel
from pellucid.xlm import SimpleSpaceTokenizer, TextScorer

# voyageai defines classes in a way that a library it uses warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

SERVER = Path(__file__).parent.parent / "packages/api/tests/loopback.py"
SERVED = SimpleNamespace(url=None, openai_url=None)
"""Where the models behind an API are served; on loopback, while this module's tests run."""

WIDTH = 8
KEY = "sk-loopback-0123456789"
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


def make_bridged_lm(*, use_eager_attention: bool = False) -> LMHFModel:
    kind = "eager" if use_eager_attention else "sdpa"
    bridge = TransformerBridge(tiny_llama(attn_implementation=kind), tokenizer=tiny_tokenizer())
    return LMHFModel(bridge, use_eager_attention=use_eager_attention)


def make_linear(kind: str) -> TpttModel:
    base = tiny_llama(attn_implementation=kind)
    return TpttModel(
        TpttConfig(base.config, force_attn_implementation=kind, attn_implementation=kind),
        backbone=base,
    ).eval()


def make_linear_lm(*, use_eager_attention: bool = False) -> LMHFModel:
    model = make_linear("eager" if use_eager_attention else "sdpa")
    return LMHFModel(model, tokenizer=tiny_tokenizer(), use_eager_attention=use_eager_attention)


def make_bridged_linear_lm(*, use_eager_attention: bool = False) -> LMHFModel:
    model = make_linear("eager" if use_eager_attention else "sdpa")
    bridge = TransformerBridge(model, tokenizer=tiny_tokenizer())
    return LMHFModel(bridge, use_eager_attention=use_eager_attention)


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


def make_hf_clip() -> CLIPTextEncoderHFModel:
    tokenizer = tiny_wordpiece_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        max_position_embeddings=40,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = CLIPTextModelWithProjection(config).eval()
    return CLIPTextEncoderHFModel(module, tokenizer=tokenizer)


def make_litellm() -> LiteLLMModel:
    return LiteLLMModel("openai/tiny", SERVED.openai_url)


def make_openai_encoder() -> EncoderOpenAIModel:
    return EncoderOpenAIModel("tiny", WIDTH, base_url=SERVED.openai_url, tokenizer=TinyTokenizer())


def make_gemini_encoder() -> EncoderGeminiModel:
    return EncoderGeminiModel("tiny", WIDTH, api_key=KEY, base_url=SERVED.url)


def make_voyage_encoder() -> EncoderVoyageModel:
    return EncoderVoyageModel("tiny", WIDTH, KEY, base_url=SERVED.openai_url)


def make_xlm_scorer() -> TextScorer:
    """A random masked language model of letters."""
    tokenizer = SimpleSpaceTokenizer(list("abcdefghijklmnopqrstuvwxyz"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = RotaryTransformerMLMModel(len(tokenizer), 16, 1, 2, dropout=0.0)
    loss = MLMLoss(model=net.eval(), tokenizer=tokenizer, n_bound_samples=2)
    return TextScorer(
        loss,
        DefaultMLMCollator(tokenizer, block_size=48),
        encode=lambda text: tokenizer.encode(" ".join(filter(str.isalpha, text.lower()))),
    )


def make_pass_on() -> PassOnModel:
    return PassOnModel(TinyTokenizer())


def answer(body: dict[str, Any]) -> tuple[str, list[tuple[str, float]]]:
    """Return what a tiny model says to a conversation, and how likely it begins with what."""
    text = "\n".join(message["content"] for message in body["messages"])
    output: Any = model_of("tiny-lm").invoke_from_texts(
        [text], require_generation=True, require_first_token_logprobs=True
    )
    return output.generated_response_strs[0], [*output.response_first_token_logprobs[0].items()]


@pytest.fixture(scope="module", autouse=True)
def served():
    spec = importlib.util.spec_from_file_location("loopback", SERVER)
    loopback = importlib.util.module_from_spec(spec)
    sys.modules["loopback"] = loopback  # its dataclasses look themselves up
    spec.loader.exec_module(loopback)
    with loopback.LoopbackServer(chat=answer) as server:
        SERVED.url, SERVED.openai_url = server.url, server.openai_url
        yield
    model_of.cache_clear()


# A tiny object for each registered name. Whoever registers a component adds a line here.
MODELS: dict[str, Callable[..., BaseModel]] = {
    "gemini-encoder": make_gemini_encoder,
    "hf-classifier": make_hf_classifier,
    "hf-clip-text-encoder": make_hf_clip,
    "hf-encoder": make_hf_encoder,
    "hf-lm": make_hf_lm,
    "litellm": make_litellm,
    "openai-encoder": make_openai_encoder,
    "pass-on": make_pass_on,
    "voyage-encoder": make_voyage_encoder,
    "xlm-scorer": make_xlm_scorer,
}
# Not registered, and all the same: a second implementation of everything.
UNREGISTERED: dict[str, Callable[..., BaseModel]] = {
    "tiny-encoder": TinyEncoder,
    "tiny-lm": TinyLM,
}
# Models of one package as backends of another.
COMPOSED: dict[str, Callable[..., BaseModel]] = {
    "bridge": make_bridged_lm,
    "bridged tptt": make_bridged_linear_lm,
    "tptt": make_linear_lm,
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
    "variable-length-gcg": {**FEW_OFFERS, "max_length": 8},
}
JUDGED: dict[str, Any] = {"positive_words": ["a", "e"], "negative_words": ["i", "o"]}
LOSSES: dict[str, dict[str, Any]] = {
    "attention-enh": {},
    "first-token-nll": {"missing_logprob_value": -30.0},
    "input-fluency": JUDGED,
    "misclass-ce": {},
    "nll-bound": {},
    "prefill-ce": {},
    "prefill-cw": {},
    "prefill-distillation": {},
    "prefill-mellowmax": {},
    "response-lm-score": JUDGED,
    "similarity": {},
    "steering-activation": {},
    "target-start-nll": {},
    "trigger-perplexity": {},
}
HOOK = "hook"
"""A loss on an activation by its name, which is registered under none."""


@functools.cache
def model_of(name: str, **options: Any) -> BaseModel:
    return {**MODELS, **UNREGISTERED, **COMPOSED}[name](**options)


@functools.cache
def loss_of(name: str) -> BaseLoss:
    if name == HOOK:
        return HookLoss("blocks.0.hook_resid_post", lambda held: held.flatten(1).norm(dim=-1))
    judge = {"judge": make_hf_lm()} if LOSSES[name] is JUDGED else {}
    return load("pellucid.losses", name)(**LOSSES[name], **judge)


def own_loss_of(model: BaseModel) -> BaseLoss:
    """Return a differentiable loss that a model can compute from token ids."""
    if isinstance(model, EncoderBaseModel):
        return SimilarityLoss()
    return MisclassCELoss() if isinstance(model, ClassifierBaseModel) else PrefillCELoss()


def targets_of(model: Any, *losses: BaseLoss) -> Targets:
    """Return what losses compare with, and the response, which all language models take."""
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator)
    made: dict[str, Callable[[], Any]] = {
        "target_response_logits": lambda: [draw(count_target_tokens(model), model.vocab_size)],
        "target_vectors": lambda: draw(1, model.d_model),
        "target_directions": lambda: draw(1, model.embedding_matrix.shape[1]),
        "target_class_idx": lambda: [1],
        "true_class_idx": lambda: [0],
    }
    read = set().union(*(loss.reads().required for loss in losses))
    held = {name: make() for name, make in made.items() if name in read}
    return Targets(target_response_strs=[TARGET], **held)


def count_target_tokens(model: Any) -> int:
    return len(as_tokenizer(model.tokenizer).encode_trigger(TARGET))


def white_box_of(model: Any) -> BaseModel:
    """Return a model with gradients that computes the losses that a model computes."""
    if isinstance(model, GradientTokenAccessMixin):
        return model
    return TinyEncoder(d_model=WIDTH) if isinstance(model, EncoderBaseModel) else TinyLM(seed=1)


def what_to_give(argument: str, model: BaseModel) -> Any:
    """Return what meets a condition of an optimizer."""
    makers: dict[str, Callable[[], Any]] = {
        "draft_loss": lambda: own_loss_of(white_box_of(model)),
        "draft_model": lambda: white_box_of(model),
        "proxy_loss": lambda: own_loss_of(white_box_of(model)),
        "proxy_model": lambda: white_box_of(model),
        "tokenizer": TinyTokenizer,
        "util_lm": lambda: TinyLM(seed=1),
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
    target, lowered = model_of(model), loss_of(loss)
    kind = load("pellucid.optimizers", optimizer)
    try_cell(model, optimizer, loss, check_compatibility(type(target), kind, type(lowered)))


def goes(optimizer, loss):
    parts = load("pellucid.optimizers", optimizer), load("pellucid.losses", loss)
    return check_compatibility(LMHFModel, *parts).verdict is not Verdict.NO


def cover_composed():
    """Every composed model with each optimizer and with each loss that a language model takes.

    Their class is that of a plain model, with which every optimizer meets every loss above.
    """
    for model in COMPOSED:
        for place, optimizer in enumerate(OPTIMIZERS):
            fitting = [loss for loss in LOSSES if goes(optimizer, loss)]
            if fitting:
                yield model, optimizer, fitting[place % len(fitting)]
        for loss in LOSSES:
            fitting = (one for one in ("gcg", "random-search") if goes(one, loss))
            yield model, next(fitting, "gcg"), loss
    for place, optimizer in enumerate(OPTIMIZERS):
        yield ("bridge", "bridged tptt", "tptt")[place % 3], optimizer, HOOK


@pytest.mark.parametrize(("model", "optimizer", "loss"), list(dict.fromkeys(cover_composed())))
def test_composed_models_keep_to_the_matrix(model, optimizer, loss):
    target, lowered = model_of(model), loss_of(loss)
    asked = (target, lowered) if loss == HOOK else (type(target), type(lowered))
    kind = load("pellucid.optimizers", optimizer)
    report = check_compatibility(asked[0], kind, asked[1])
    if loss == HOOK:
        scores_texts = kind.flow is Flow.TEXTS or optimizer in ("gcg-plus", "pal", "qcg")
        reads_hooks = model != "tptt" and not scores_texts
        assert reads_hooks == (report.verdict is not Verdict.NO)
    try_cell(model, optimizer, loss, report)


def try_cell(model, optimizer, loss, report):
    """What a report admits takes two steps, what it refuses is refused."""
    kind = load("pellucid.optimizers", optimizer)
    target, lowered = model_of(model), loss_of(loss)
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
        with pytest.raises(RequirementError, match=r"reads|requires|has no|does not"):
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
    assert [step.step for step in run] == [1, 2]
    assert len(run.result().losses) == 2
