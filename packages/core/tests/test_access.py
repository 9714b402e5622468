import math

import pytest
import torch
from core_samples import TEMPLATE, EchoLM, EmbeddingSumLoss, LengthLoss, LetterEncoder, seeded
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    InputsNotSetError,
    InvokeTokenAccessMixin,
    LogitsTokenAccessMixin,
    LossResolutionError,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    ModelOutput,
    Substitutions,
    Targets,
    TemplateError,
    TextAccessMixin,
    TokenAccessMixin,
    select_topk,
)

TEMPLATES = [TEMPLATE, "{{OPTIMIZED_TRIGGER}}"]
TRIGGERS = ["a", "bb", "cab", ""]


class ValueLoss(BaseLoss):
    """Returns fixed values by the input's length."""

    def __init__(self, values):
        self.values = values

    def __call__(self, input_texts):
        return torch.tensor([self.values[len(text)] for text in input_texts])


class GradientNeedingLoss(LengthLoss):
    require_gradients = True

    def __call__(self, input_texts):
        self.saw_grad = torch.is_grad_enabled()
        return torch.tensor([1.0] * len(input_texts), requires_grad=True)


def test_losses_from_texts_are_those_of_each_template_and_candidate():
    model = LetterEncoder()
    model.set_inputs_from_texts(TEMPLATES)
    losses = model.compute_loss_from_texts(TRIGGERS, EmbeddingSumLoss(), keep_message_dim=True)
    # Letters a, b, c: one a in "Say", none in " now".
    assert losses.tolist() == [[2.0, 3.0, 4.0, 1.0], [1.0, 2.0, 3.0, 0.0]]
    mean = model.compute_loss_from_texts(TRIGGERS, EmbeddingSumLoss())
    assert mean.tolist() == [1.5, 2.5, 3.5, 0.5]


@given(st.integers(1, 6), st.lists(st.text("abcd"), min_size=1, max_size=7))
def test_the_batch_size_changes_calls_but_not_losses(batch_size, triggers):
    whole, batched = LetterEncoder(), LetterEncoder()
    batched._forward_pass_batch_size = batch_size
    for model in (whole, batched):
        model.set_inputs_from_texts(TEMPLATES)
    losses = [model.compute_loss_from_texts(triggers, LengthLoss()) for model in (whole, batched)]
    assert torch.equal(*losses)
    assert len(whole.calls) == len(TEMPLATES)
    assert all(len(call) <= batch_size for call in batched.calls)
    assert [text for call in batched.calls for text in call] == [
        text for call in whole.calls for text in call
    ]


def test_a_batch_that_does_not_fit_is_halved_and_the_size_is_kept():
    class SmallMemory(LetterEncoder):
        def invoke_from_texts(self, input_texts, **kwargs):
            if len(input_texts) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().invoke_from_texts(input_texts, **kwargs)

    model = SmallMemory()
    model.set_inputs_from_texts(TEMPLATES)
    losses = model.compute_loss_from_texts(TRIGGERS, LengthLoss(), keep_message_dim=True)
    assert losses.tolist() == [[9.0, 10.0, 11.0, 8.0], [1.0, 2.0, 3.0, 0.0]]
    assert model._forward_pass_batch_size == 2
    assert type(model)._forward_pass_batch_size == 4096


def test_a_nan_is_an_infinite_loss_in_every_template_and_in_the_mean():
    model = LetterEncoder()
    model.set_inputs_from_texts(["{{OPTIMIZED_TRIGGER}}", "+{{OPTIMIZED_TRIGGER}}"])
    loss = ValueLoss({1: math.nan, 2: 1.0, 3: 2.0})
    losses = model.compute_loss_from_texts(["a", "bb"], loss, keep_message_dim=True)
    assert losses.tolist() == [[math.inf, 1.0], [1.0, 2.0]]
    assert model.compute_loss_from_texts(["a", "bb"], loss).tolist() == [math.inf, 1.5]


def test_gradients_are_off_unless_the_loss_needs_them_and_never_returned():
    model = LetterEncoder()
    model.set_inputs_from_texts(TEMPLATES)
    loss = GradientNeedingLoss()
    losses = model.compute_loss_from_texts(["a"], loss)
    assert loss.saw_grad
    assert not losses.requires_grad
    assert torch.is_grad_enabled()

    class Looking(LengthLoss):
        def __call__(self, input_texts):
            self.saw_grad = torch.is_grad_enabled()
            return super().__call__(input_texts)

    quiet = Looking()
    model.compute_loss_from_texts(["a"], quiet)
    assert not quiet.saw_grad


def test_each_template_is_computed_with_its_own_targets():
    seen = []

    class Looking(LetterEncoder):
        def invoke_from_texts(self, input_texts, message_targets=None, **kwargs):
            seen.append(message_targets.target_response_strs)
            return super().invoke_from_texts(input_texts)

    model = Looking()
    model.set_inputs_from_texts(TEMPLATES, Targets(target_response_strs=["yes", "no"]))
    model.compute_loss_from_texts(["a"], LengthLoss())
    assert seen == ["yes", "no"]


def test_only_accepted_keyword_arguments_are_passed():
    seen = {}

    class Strict(LetterEncoder):
        def invoke_from_texts(self, input_texts, require_generation=False):
            seen.update(require_generation=require_generation)
            return super().invoke_from_texts(input_texts)

    class Lenient(LetterEncoder):
        def invoke_from_texts(self, input_texts, **kwargs):
            seen.update(kwargs)
            return super().invoke_from_texts(input_texts)

    class GeneratingLoss(LengthLoss):
        require_generation = True

    for kind, expected in (
        (Strict, {"require_generation"}),
        (
            Lenient,
            {
                "message_targets",
                "require_target_prefill",
                "require_generation",
                "require_hidden_states",
                "require_attentions",
                "require_first_token_logprobs",
            },
        ),
    ):
        seen.clear()
        model = kind()
        model.set_inputs_from_texts(TEMPLATES)
        model.compute_loss_from_texts(["a"], GeneratingLoss())
        assert seen.keys() == expected
        assert seen["require_generation"] is True


def test_inputs_must_be_set_and_can_be_forgotten():
    model = LetterEncoder()
    with pytest.raises(
        InputsNotSetError, match=r"LetterEncoder has no inputs. Call set_inputs_from"
    ):
        model.compute_loss_from_texts(["a"], LengthLoss())
    model.set_inputs_from_texts(TEMPLATES)
    model.compute_loss_from_texts(["a"], LengthLoss())
    model.reset_inputs_from_texts()
    with pytest.raises(InputsNotSetError) as caught:
        model.compute_loss_from_texts(["a"], LengthLoss())
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, RuntimeError)


def test_bad_inputs_are_refused_when_set_and_leave_the_old_ones():
    model = LetterEncoder()
    model.set_inputs_from_texts(TEMPLATES)
    with pytest.raises(TemplateError, match="expected at least once"):
        model.set_inputs_from_texts(["no slot"])
    assert model.compute_loss_from_texts(["a"], LengthLoss()).shape == (1,)


def test_no_candidates_are_refused():
    model = LetterEncoder()
    model.set_inputs_from_texts(TEMPLATES)
    with pytest.raises(ArgumentError, match="candidate_trigger_strs is empty"):
        model.compute_loss_from_texts([], LengthLoss())


def test_a_field_that_the_model_does_not_set_is_a_resolution_error():
    model = EchoLM()
    model.set_inputs_from_texts(TEMPLATES)
    with pytest.raises(LossResolutionError, match="output_embeddings"):
        model.compute_loss_from_texts(["a"], EmbeddingSumLoss())


def test_token_access_grants_the_tokenizer_and_the_templates():
    model = EchoLM()
    for call in (
        lambda: model.encode_trigger("a"),
        lambda: model.decode_triggers(torch.tensor([[65]])),
        lambda: model.retokenization_mask(torch.tensor([[65]])),
    ):
        with pytest.raises(InputsNotSetError, match="Call set_inputs_from_tokens"):
            call()
    assert model.vocab_size == model.tokenizer.vocab_size
    model.set_inputs_from_tokens(TEMPLATES)
    assert model.encode_trigger("é!").tolist() == [0xE9, 33]
    assert model.decode_triggers(torch.tensor([[65, 66], [67, 1]])) == ["AB", "C"]
    assert model.retokenization_mask(torch.tensor([[65, 66], [67, 1]])).tolist() == [True, False]
    model.reset_inputs_from_tokens()
    with pytest.raises(InputsNotSetError):
        model.encode_trigger("a")


@pytest.mark.parametrize(
    "mixin",
    [
        TokenAccessMixin,
        InvokeTokenAccessMixin,
        LossTokenAccessMixin,
        LogitsTokenAccessMixin,
        GradientTokenAccessMixin,
        GradientEmbedAccessMixin,
    ],
)
def test_abstract_members_are_asked_for(mixin):
    with pytest.raises(TypeError, match="abstract"):
        type("Incomplete", (mixin,), {})()


def test_text_access_asks_for_nothing():
    assert isinstance(type("Complete", (LossTextAccessMixin,), {})(), TextAccessMixin)


@given(
    st.integers(0, 2**16),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(2, 12),
    st.data(),
)
def test_topk_against_a_sort(seed, n_candidates, n_trigger, n_vocab, data):
    grad = seeded(n_candidates, n_trigger, n_vocab, seed=seed)
    allowed = data.draw(st.sets(st.integers(0, n_vocab - 1), min_size=1).map(sorted))
    k = data.draw(st.integers(1, len(allowed)))
    chosen = select_topk(grad, k, torch.tensor(allowed))
    assert isinstance(chosen, Substitutions)
    assert chosen.token_ids.shape == chosen.scores.shape == (n_candidates, n_trigger, k)
    for c in range(n_candidates):
        for p in range(n_trigger):
            expected = sorted(allowed, key=lambda i, row=grad[c, p]: float(row[i]))[:k]
            assert chosen.token_ids[c, p].tolist() == expected
            assert torch.equal(chosen.scores[c, p], grad[c, p, expected])
    whole = select_topk(grad, n_vocab)
    assert torch.equal(whole.token_ids, grad.argsort(dim=-1))


@pytest.mark.parametrize(("k", "allowed"), [(0, None), (-1, None), (6, None), (3, [1, 2]), (1, [])])
def test_k_lies_between_one_and_what_there_is_to_choose_from(k, allowed):
    ids = None if allowed is None else torch.tensor(allowed, dtype=torch.int64)
    with pytest.raises(ArgumentError, match=f"tokens to choose from, got {k}"):
        select_topk(torch.zeros(1, 2, 5), k, ids)


def test_a_nan_gradient_is_chosen_last():
    grad = torch.tensor([[[math.nan, 3.0, 1.0]]])
    assert select_topk(grad, 3).token_ids.tolist() == [[[2, 1, 0]]]


class LinearModel(EchoLM, GradientTokenAccessMixin):
    """Its gradient is a table of fixed numbers, one row for each token at a position."""

    grad = seeded(2, 3, 8)

    def invoke_from_tokens(self, *args, **kwargs):
        return ModelOutput()

    def compute_grad_from_tokens(self, loss_func, candidate_trigger_ids=None, **kwargs):
        return self.grad


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_default_scorer_is_the_topk_of_the_gradient(average, normalize):
    ids = torch.zeros(2, 3, dtype=torch.int64)
    allowed = torch.tensor([0, 2, 3, 7])
    chosen = LinearModel().compute_topk_from_tokens(
        LengthLoss(), ids, 2, allowed, average=average, normalize=normalize
    )
    grad = LinearModel.grad
    if normalize:
        grad = grad / (grad.square().sum(dim=-1, keepdim=True).sqrt() + 1e-10)
    if average:
        grad = ((grad[0] + grad[1]) / 2)[None]
    expected = select_topk(grad, 2, allowed)
    assert torch.equal(chosen.token_ids, expected.token_ids)
    torch.testing.assert_close(chosen.scores, expected.scores)


def test_a_zero_gradient_can_be_normalized():
    class Flat(LinearModel):
        grad = torch.zeros(1, 1, 4)

    ids = torch.zeros(1, 1, dtype=torch.int64)
    chosen = Flat().compute_topk_from_tokens(LengthLoss(), ids, 4, normalize=True)
    assert chosen.scores.tolist() == [[[0.0] * 4]]
