"""A table of all registered losses, and what each is held to; what has no meaning says why."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from closed_forms import ce, cw, distillation, dot, log_sum, mean, mellowmax, norm
from loss_samples import (
    assert_gradient_is_that_of_finite_differences,
    assert_low_precision_is_computed_in_float32,
    seeded,
)
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    Flow,
    LMBaseModel,
    LossTextAccessMixin,
    MessageTargets,
    ModelInput,
    ModelOutput,
    Provides,
    Targets,
    names,
    resolve_and_compute_loss,
)
from pellucid.losses import (
    IGNORE_INDEX,
    AttentionEnhLoss,
    FirstTokenNLLLoss,
    InputFluencyLoss,
    MisclassCELoss,
    NLLBoundLoss,
    PrefillCELoss,
    PrefillCWLoss,
    PrefillDistillationLoss,
    PrefillMellowMaxLoss,
    ResponseLMScoreLoss,
    SimilarityLoss,
    SteeringActivationLoss,
    TargetStartNLLLoss,
    TriggerPerplexityLoss,
)

TOKENS = torch.tensor([2, 0, 6, 3])
REFERENCE = seeded(4, 7, seed=5)
TRIGGERS = torch.tensor([[1, 4, 2], [3, 3, 6]])
DIRECTION = seeded(5, seed=1)
BEFORE, TRIGGER, AFTER = slice(0, 2), slice(2, 5), slice(5, 7)
SLICES = {"input_before": BEFORE, "trigger": TRIGGER, "input_after": AFTER}
PATTERNS = seeded(2, 2, 3, 7, 7, seed=2).softmax(dim=-1)


def attention(layers):
    read = [row[TRIGGER] for heads in layers for head in heads for row in head[AFTER]]
    return -mean(mean(row) for row in read)


def steering(layers):
    direction = DIRECTION.tolist()
    return -mean(dot(h, direction) / norm(direction) for layer in layers for h in layer[TRIGGER])


def similarity(vector):
    return -dot(vector, DIRECTION.tolist()) / norm(vector) / norm(DIRECTION.tolist())


class ChattyJudge(LMBaseModel):
    """Says yes the more, the longer it is asked."""

    def invoke_from_texts(self, input_texts, **kwargs):
        lengths = [len(talk[0]["content"]) for talk in input_texts]
        logprobs = [{"Yes": -1 / length, "No": -0.1 * length} for length in lengths]
        return ModelOutput(response_first_token_logprobs=logprobs)


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss, with what a model returned.

    Attributes:
        loss: The loss.
        output: The field of the output that varies.
        values: Its value.
        inputs: All other fields that the loss reads.
        expected: The closed form of the losses, one for each sample.
    """

    loss: BaseLoss
    output: str
    values: Any
    inputs: dict[str, Any]
    expected: list[float]

    def compute(self, values: Any, **inputs: Any) -> Tensor:
        given = {self.output: values, **self.inputs, **inputs}
        fields = {name: given.pop(name) for name in [*given] if hasattr(ModelOutput, name)}
        targets = {name: given.pop(name) for name in [*given] if hasattr(MessageTargets, name)}
        model_input = ModelInput(message_targets=MessageTargets(**targets), **given)
        return resolve_and_compute_loss(ModelOutput(**fields), model_input, self.loss)


def prefill_case(loss: BaseLoss, closed: Callable[..., float]) -> Case:
    logits = seeded(3, 4, 7)
    expected = [closed(rows, TOKENS.tolist()) for rows in logits.tolist()]
    given = {"target_response_toks": TOKENS}
    return Case(loss, "prefill_response_logits", logits, given, expected)


def text_case(loss: BaseLoss, field: str, values: list[Any], expected: list[float]) -> Case:
    return Case(loss, field, values, {}, expected)


def judged(text: str) -> float:
    """The negated log-odds of yes of the judge above."""
    return 1 / len(text) - 0.1 * len(text)


def prefill_cases() -> dict[str, Case]:
    prefill = seeded(3, 4, 7)
    return {
        "prefill-ce": prefill_case(PrefillCELoss(), ce),
        "prefill-cw": prefill_case(PrefillCWLoss(cw_margin=0.5), cw),
        "prefill-distillation": Case(
            PrefillDistillationLoss(),
            "prefill_response_logits",
            prefill,
            {"target_response_logits": REFERENCE},
            [distillation(rows, REFERENCE.tolist()) for rows in prefill.tolist()],
        ),
        "prefill-mellowmax": prefill_case(PrefillMellowMaxLoss(), mellowmax),
    }


def text_cases() -> dict[str, Case]:
    beginnings = [{"Yes": -1.0, " Yes": -0.5}, {"No": -0.1}, None]
    starts = [{"Y": -2.0, " Yes": -1.0, "N": -0.5}, {"No": -0.5, "N": -3.0}, None]
    asked = ["a", "bb", "cccc"]
    fluency = InputFluencyLoss(judge=ChattyJudge(), question="{text}?")
    score = ResponseLMScoreLoss(judge=ChattyJudge(), question="{response}?")
    judgements = [judged(f"{text}?") for text in asked]
    return {
        "first-token-nll": text_case(
            FirstTokenNLLLoss("Yes"),
            "response_first_token_logprobs",
            beginnings,
            [0.5, math.inf, math.inf],
        ),
        "input-fluency": text_case(fluency, "input_texts", asked, judgements),
        "response-lm-score": text_case(score, "generated_response_strs", asked, judgements),
        "nll-bound": Case(
            NLLBoundLoss(),
            "text_nll_bounds",
            torch.tensor([3.0, 4.0, 5.0]),
            {"text_token_counts": torch.tensor([2, 2, 2])},
            [1.5, 2.0, 2.5],
        ),
        "target-start-nll": Case(
            TargetStartNLLLoss(),
            "response_first_token_logprobs",
            starts,
            {"target_response_strs": "Yes, it is."},
            [-math.log(math.exp(-2.0) + math.exp(-1.0)), 3.0, math.inf],
        ),
    }


def inside_cases() -> dict[str, Case]:
    logits, hidden = seeded(2, 7, 7, seed=3), seeded(2, 2, 7, 5, seed=4)
    return {
        "attention-enh": Case(
            AttentionEnhLoss(),
            "full_attentions",
            PATTERNS,
            {"input_slices": SLICES},
            [attention(layers) for layers in PATTERNS.tolist()],
        ),
        "steering-activation": Case(
            SteeringActivationLoss(slc_name="trigger"),
            "full_hidden_states",
            hidden,
            {"target_directions": DIRECTION, "input_slices": SLICES},
            [steering(layers) for layers in hidden.tolist()],
        ),
        "trigger-perplexity": Case(
            TriggerPerplexityLoss(),
            "full_logits",
            logits,
            {"input_trigger_ids": TRIGGERS, "input_slices": SLICES},
            [
                ce(rows[1:4], ids)
                for rows, ids in zip(logits.tolist(), TRIGGERS.tolist(), strict=True)
            ],
        ),
    }


def vector_cases() -> dict[str, Case]:
    vectors, classes = seeded(3, 5, seed=6), seeded(3, 4, seed=7)
    return {
        "misclass-ce": Case(
            MisclassCELoss(),
            "output_class_logits",
            classes,
            {"true_class_idx": 2},
            [row[2] - log_sum(row) for row in classes.tolist()],
        ),
        "similarity": Case(
            SimilarityLoss(),
            "output_embeddings",
            vectors,
            {"target_vectors": DIRECTION},
            [similarity(vector) for vector in vectors.tolist()],
        ),
    }


CASES = {**prefill_cases(), **text_cases(), **inside_cases(), **vector_cases()}
TOKEN_TARGETS = ("prefill-ce", "prefill-cw", "prefill-mellowmax")
CLOSED = {
    "prefill-ce": ce,
    "prefill-cw": cw,
    "prefill-mellowmax": mellowmax,
    "prefill-distillation": distillation,
}


@dataclasses.dataclass(frozen=True)
class NoMeaning:
    """Why a loss is not held to something; `holds` is true of such losses alone."""

    reason: str
    holds: Callable[[BaseLoss], bool]


def reads(loss: BaseLoss, *fields: str) -> bool:
    return bool(loss.reads().required & set(fields))


TEXT_ALONE = NoMeaning(
    "it reads text, and has no gradient", lambda loss: not loss.is_differentiable
)
NO_IDS = NoMeaning("it reads no target ids", lambda loss: not reads(loss, "target_response_toks"))
NO_POSITIONS = NoMeaning(
    "what it reads has no axis of positions",
    lambda loss: (
        not reads(
            loss, "full_logits", "full_hidden_states", "full_attentions", "prefill_response_logits"
        )
    ),
)
NO_PADDING = NoMeaning(
    "its reference has a row of logits for each target token, and none for another",
    lambda loss: reads(loss, "target_response_logits"),
)
NO_TOKENS_OF_A_TARGET = NoMeaning(
    "it has no target, or one that is not a sequence",
    lambda loss: (
        not reads(loss, "target_response_toks", "target_response_logits", "target_response_strs")
    ),
)

FINITE, LOW, IGNORED = "finite differences", "bf16", "ignore index"
PADDING, ONE, RAGGED = "padding", "one-token target", "ragged targets"
OF_TEXT = {FINITE: TEXT_ALONE, IGNORED: NO_IDS, PADDING: NO_POSITIONS}
JUDGED = {**OF_TEXT, ONE: NO_TOKENS_OF_A_TARGET, RAGGED: NO_TOKENS_OF_A_TARGET}
OF_VECTORS = {IGNORED: NO_IDS, PADDING: NO_POSITIONS, RAGGED: NO_TOKENS_OF_A_TARGET}
OF_STATES = {IGNORED: NO_IDS, RAGGED: NO_TOKENS_OF_A_TARGET}
WITHOUT_MEANING: dict[str, dict[str, NoMeaning]] = {
    "attention-enh": OF_STATES,
    "first-token-nll": JUDGED,
    "input-fluency": JUDGED,
    "misclass-ce": {**OF_VECTORS, ONE: NO_TOKENS_OF_A_TARGET},
    "prefill-distillation": {IGNORED: NO_IDS, PADDING: NO_PADDING},
    "nll-bound": JUDGED,
    "response-lm-score": JUDGED,
    "similarity": {**OF_VECTORS, ONE: NO_TOKENS_OF_A_TARGET},
    "steering-activation": OF_STATES,
    "target-start-nll": OF_TEXT,
    "trigger-perplexity": OF_STATES,
}


def check_closed_form(name: str, case: Case) -> None:
    found = case.compute(case.values)
    torch.testing.assert_close(found, torch.tensor(case.expected).to(found))


def check_finite_differences(name: str, case: Case) -> None:
    assert_gradient_is_that_of_finite_differences(case.compute, case.values)


def check_low_precision(name: str, case: Case) -> None:
    """Arithmetic is in float32; where numbers come as text, so is what comes of it."""
    if isinstance(case.values, Tensor):
        assert_low_precision_is_computed_in_float32(case.compute, case.values)
    else:
        assert case.compute(case.values).dtype == torch.float32


def check_ignore_index(name: str, case: Case) -> None:
    """An ignored position counts for nothing, whatever it holds: the others are the target."""
    for ignored in range(len(TOKENS)):
        tokens, values = TOKENS.clone(), case.values.clone()
        tokens[ignored], values[:, ignored] = IGNORE_INDEX, torch.nan
        found = case.compute(values, target_response_toks=tokens)
        kept = [i for i in range(len(TOKENS)) if i != ignored]
        rest = case.compute(case.values[:, kept], target_response_toks=TOKENS[kept])
        torch.testing.assert_close(found, rest)


def check_padding(name: str, case: Case) -> None:
    """What stands beside the positions that count has no influence, not even where it is NaN."""
    values = case.values
    if name in TOKEN_TARGETS:
        values = torch.cat([values, torch.full_like(values[:, :2], torch.nan)], dim=1)
        tokens = torch.cat([TOKENS, torch.full((2,), IGNORE_INDEX)])
        found = case.compute(values, target_response_toks=tokens)
    else:
        counted = {
            "attention-enh": (..., AFTER, TRIGGER),
            "steering-activation": (..., TRIGGER, slice(None)),
            "trigger-perplexity": (slice(None), slice(1, 4)),
        }[name]
        padded = torch.full_like(values, torch.nan)
        padded[counted] = values[counted]
        found = case.compute(padded)
    torch.testing.assert_close(found, case.compute(case.values))


def check_one_token(name: str, case: Case) -> None:
    """A target, or a part of the input, of one token."""
    if name == "target-start-nll":
        found = case.compute(case.values[:1], target_response_strs="Y")
        torch.testing.assert_close(found, torch.tensor([2.0]))
        return
    if name in CLOSED:
        wanted = REFERENCE[:1] if name == "prefill-distillation" else TOKENS[:1]
        field = next(iter(case.inputs))
        found = case.compute(case.values[:, :1], **{field: wanted})
        expected = [CLOSED[name](rows[:1], wanted.tolist()) for rows in case.values.tolist()]
    else:
        single = {**SLICES, "trigger": slice(3, 4), "input_after": slice(4, 5)}
        read = case.values
        ids = {"input_trigger_ids": TRIGGERS[:, :1]} if name == "trigger-perplexity" else {}
        found = case.compute(read, input_slices=single, **ids)
        direction = (DIRECTION / DIRECTION.norm()).to(read)
        expected = {
            "attention-enh": lambda: -read[:, :, :, 4, 3].flatten(1).mean(dim=1),
            "steering-activation": lambda: -(read[:, :, 3] @ direction).mean(dim=1),
            "trigger-perplexity": lambda: -read[:, 2].log_softmax(-1)[[0, 1], TRIGGERS[:, 0]],
        }[name]().tolist()
    torch.testing.assert_close(found, torch.tensor(expected).to(found))


class RaggedLM(LMBaseModel, LossTextAccessMixin):
    """Answers with logits, as long as the target, and beginnings that are fixed by the text."""

    provides: ClassVar[Provides] = {
        Flow.TEXTS: {
            "prefill_response_logits": ("require_target_prefill",),
            "response_first_token_logprobs": ("require_first_token_logprobs",),
        }
    }

    def invoke_from_texts(self, input_texts, message_targets=None, **wanted):
        if wanted.get("require_first_token_logprobs"):
            rows = [{text[0]: -0.5, "no": -1.0} for text in input_texts]
            return ModelOutput(response_first_token_logprobs=rows)
        target = message_targets.target_response_toks
        target = message_targets.target_response_logits if target is None else target
        rows = [seeded(len(target), 7, seed=sum(map(ord, text))) for text in input_texts]
        return ModelOutput(prefill_response_logits=torch.stack(rows))


def check_ragged_targets(name: str, case: Case) -> None:
    """Templates with targets of other lengths: each has the loss of its own target."""
    templates = [f"{first}{{{{OPTIMIZED_TRIGGER}}}}" for first in ("x", "no", "a")]
    triggers, lengths = ["p", "qq"], [3, 1, 2]
    model = RaggedLM()
    if name == "target-start-nll":
        starts = ["xyz", "n", "no way"]
        model.set_inputs_from_texts(templates, Targets(target_response_strs=starts))
        expected = [0.5, 0.5, 1.0]
        found = model.compute_loss_from_texts(triggers, case.loss, keep_message_dim=True)
        assert found[:, 0].tolist() == found[:, 1].tolist() == expected
        return
    field = next(iter(case.inputs))
    whole = {"target_response_toks": TOKENS, "target_response_logits": REFERENCE}[field]
    wanted = [whole[:length] for length in lengths]
    model.set_inputs_from_texts(templates, Targets(**{field: wanted}))
    found = model.compute_loss_from_texts(triggers, case.loss, keep_message_dim=True)
    for template, own, row in zip(templates, wanted, found, strict=True):
        for trigger, loss in zip(triggers, row.tolist(), strict=True):
            text = template.replace("{{OPTIMIZED_TRIGGER}}", trigger)
            rows = seeded(len(own), 7, seed=sum(map(ord, text))).tolist()
            assert loss == pytest.approx(CLOSED[name](rows, own.tolist()), rel=1e-5)


CHECKS: dict[str, Callable[[str, Case], None]] = {
    "closed form": check_closed_form,
    FINITE: check_finite_differences,
    LOW: check_low_precision,
    IGNORED: check_ignore_index,
    PADDING: check_padding,
    ONE: check_one_token,
    RAGGED: check_ragged_targets,
}


def test_the_table_has_every_registered_loss():
    assert set(CASES) == set(names("pellucid.losses"))
    assert set(WITHOUT_MEANING) <= set(CASES)
    assert all(set(row) <= set(CHECKS) for row in WITHOUT_MEANING.values())


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_held_to_what_has_a_meaning(name, check):
    case = CASES[name]
    exempt = WITHOUT_MEANING.get(name, {}).get(check)
    if exempt is None:
        CHECKS[check](name, case)
    else:
        assert exempt.holds(case.loss), f"{name} and {check}: it is not so that {exempt.reason}"
