import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_samples import resolve

import pellucid.losses._judge
from pellucid.core import ArgumentError, LMBaseModel, ModelOutput
from pellucid.losses import (
    BinaryLMJudgeLoss,
    GeneratedResponseBasedLoss,
    InputFluencyLoss,
    ResponseLMScoreLoss,
    TextBasedLoss,
)


class Judge(LMBaseModel):
    """Answers each question with log-probabilities that a function makes of it."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def invoke_from_texts(self, input_texts, require_first_token_logprobs=False, **kwargs):
        assert require_first_token_logprobs
        questions = [talk[0]["content"] for talk in input_texts]
        assert all(
            talk == [{"role": "user", "content": talk[0]["content"]}] for talk in input_texts
        )
        self.asked.append(questions)
        return ModelOutput(response_first_token_logprobs=[self.answer(text) for text in questions])


def fixed(logprobs):
    return Judge(lambda question: logprobs)


def judged(logprobs):
    return -float(InputFluencyLoss(judge=fixed(logprobs))(["text"]))


def test_the_score_is_the_log_odds_of_yes():
    assert judged({"Yes": math.log(0.6), "No": math.log(0.2)}) == pytest.approx(math.log(3))
    assert judged({"No": math.log(0.5), "yes": math.log(0.1), " Yes": math.log(0.15)}) == (
        pytest.approx(math.log(0.25 / 0.5))
    )


def test_an_answer_that_is_not_listed_is_as_likely_as_the_least_that_is():
    assert judged({"Yes": -0.1, "Perhaps": -5.0}) == pytest.approx(4.9)
    assert judged({"Perhaps": -0.1, "No": -3.0}) == pytest.approx(0.0)
    assert judged({"Yes": -math.inf, "No": -1.0, "Perhaps": -3.0}) == pytest.approx(-2.0)


@pytest.mark.parametrize("logprobs", [{"Perhaps": -0.1}, {}, None, {"Yes": -math.inf}])
def test_an_answer_that_is_neither_scores_zero(logprobs):
    assert judged(logprobs) == 0.0


def test_very_unlikely_answers_do_not_underflow():
    assert judged({"Yes": -900.0, "No": -905.0}) == pytest.approx(5.0)


@given(st.floats(-30, 0), st.floats(-30, 0))
def test_yes_and_no_are_each_others_opposite(a, b):
    assert judged({"Yes": a, "No": b}) == pytest.approx(-judged({"Yes": b, "No": a}), abs=1e-5)


def test_words_may_be_chosen():
    loss = InputFluencyLoss(
        judge=fixed({"A": -1.0, "B": -3.0}), positive_words=["B"], negative_words=["A"]
    )
    assert loss(["text"]).tolist() == [2.0]


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_questions_are_asked_in_batches_and_answered_in_order(batch_size):
    judge = Judge(lambda question: {"Yes": -float(question[-1]), "No": 0.0})
    loss = InputFluencyLoss(judge=judge, judge_lm_batch_size=batch_size, question="Is it? {text}")
    assert loss(["1", "2", "3"]).tolist() == [1.0, 2.0, 3.0]
    assert [len(batch) for batch in judge.asked] == {1: [1, 1, 1], 2: [2, 1], 256: [3]}[batch_size]
    assert judge.asked[0][0] == "Is it? 1"


def test_braces_in_a_text_are_left_alone():
    judge = fixed({"Yes": -1.0})
    InputFluencyLoss(judge=judge, question="Q: {text}")(["{0} {text} {"])
    assert judge.asked == [["Q: {0} {text} {"]]


def test_conversations_are_judged_by_their_contents():
    judge = fixed({"Yes": -1.0})
    talk = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    InputFluencyLoss(judge=judge, question="{text}")([talk])
    assert judge.asked == [["a\nb"]]


def test_a_response_is_shown_in_part_and_a_missing_one_never_wins():
    judge = Judge(lambda question: {"Yes": -1.0, "No": -2.0})
    loss = ResponseLMScoreLoss(judge=judge, question="R: {response}", max_response_chars=3)
    assert loss(["abcdef", None, ""]).tolist() == [-1.0, math.inf, -1.0]
    assert judge.asked == [["R: abc", "R: ", "R: "]]


def test_a_judge_without_logprobs_is_named():
    class Mute(Judge):
        model_name = "mute-lm"

        def invoke_from_texts(self, input_texts, **kwargs):
            return ModelOutput(generated_response_strs=["Yes"])

    with pytest.raises(ArgumentError, match="'mute-lm' gives no first-token log-probabilities"):
        InputFluencyLoss(judge=Mute(None))(["text"])


def test_the_judge_is_loaded_once_and_only_when_it_is_asked(monkeypatch):
    loaded = []

    def load(group, name):
        def backend(path, **options):
            loaded.append((group, name, path, options))
            return fixed({"Yes": -1.0, "No": -1.0})

        return backend

    monkeypatch.setattr(pellucid.losses._judge, "load", load)
    loss = InputFluencyLoss(model_name_or_path="some/judge", device="cpu")
    assert loaded == []
    assert loss(["a"]).tolist() == loss(["b"]).tolist() == [0.0]
    options = {"device": "cpu", "dtype": torch.bfloat16}
    assert loaded == [("pellucid.models", "hf-lm", "some/judge", options)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: InputFluencyLoss(positive_words=[]), "at least one word"),
        (lambda: InputFluencyLoss(negative_words=[]), "at least one word"),
        (lambda: InputFluencyLoss(judge_lm_batch_size=0), "judge_lm_batch_size must be at least 1"),
        (lambda: InputFluencyLoss(question="Is it?"), "must hold {text} exactly once, got 'Is it"),
        (lambda: ResponseLMScoreLoss(question="{response}{response}"), "exactly once"),
    ],
)
def test_bad_hyperparameters_are_refused(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        BinaryLMJudgeLoss()


def test_what_judged_losses_declare_and_how_they_are_resolved():
    fluency, response = InputFluencyLoss(judge=fixed({"Yes": -1.0})), ResponseLMScoreLoss()
    for loss in (fluency, response):
        assert isinstance(loss, BinaryLMJudgeLoss)
        assert isinstance(loss, TextBasedLoss)
        assert not loss.is_differentiable
    assert fluency.reads().required == {"input_texts"}
    assert not any(fluency.options().values())
    assert isinstance(response, GeneratedResponseBasedLoss)
    assert response.reads().required == {"generated_response_strs"}
    assert [name for name, asked in response.options().items() if asked] == ["require_generation"]
    assert "judge=" not in repr(fluency)
    assert resolve(fluency, ModelOutput(), input_texts=["a", "b"]).tolist() == [0.0, 0.0]
