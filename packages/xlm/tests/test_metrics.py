import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, RequirementError, UnknownNameError
from pellucid.xlm.contracts import NLLBound
from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.metrics import (
    CompositePostHocEvaluator,
    ExactMatch,
    MeanMetricWithComputedValue,
    MetricWrapper,
    NatsPerToken,
    Perplexity,
    SyntacticEvaluator,
    TokenAccuracy,
    UnigramEntropy,
    end_at_eos,
    exact_match_update_fn,
    infill_token_accuracy_update_fn,
    mean_metric_update_fn,
    nll_bound_update_fn,
    seq2seq_exact_match_update_fn,
    seq2seq_token_accuracy_update_fn,
    steps_taken_update_fn,
    token_mean_update_fn,
)

TOKENIZER = SimpleSpaceTokenizer.for_numbers(4)
PAD, MASK, EOS = TOKENIZER.pad_token_id, TOKENIZER.mask_token_id, TOKENIZER.eos_token_id
ROWS = st.lists(st.sampled_from([PAD, EOS, 7, 8]), min_size=1, max_size=6)


@pytest.fixture
def unchecked():
    """Turn the type hook of the tests off: what a user without it sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def ids(*rows):
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def match(generated, target, *, prompt=(8, 8)) -> float:
    wrapper = MetricWrapper("em", ExactMatch(), seq2seq_exact_match_update_fn)
    output = {"ids": ids([*prompt, *generated]), "output_start_idx": len(prompt)}
    wrapper.update({"target_ids": ids(target)}, output, TOKENIZER)
    return float(wrapper.compute())


@pytest.mark.parametrize(
    ("generated", "target", "expected"),
    [
        ([7, 8, EOS], [7, 8], 1),
        ([7, 8], [7, 8, EOS], 1),
        ([7, 8, EOS, 9, 9], [7, 8, EOS, PAD], 1),
        ([7, 8, PAD, PAD, PAD], [7, 8], 1),
        ([7, 8], [7, 8, -100, -100], 1),
        ([7], [7, 8], 0),  # stopped early
        ([7, EOS], [7, 8, EOS], 0),
        ([7, 8, 9], [7, 8], 0),  # went on
        ([7, PAD, 8], [7], 0),  # padding is no end
        ([7, 9], [7, 8], 0),
    ],
)
def test_a_row_is_right_from_its_prompt_to_its_end(generated, target, expected) -> None:
    assert match(generated, target) == expected


def naive_end(row):
    return row[: row.index(EOS)] + [PAD] * (len(row) - row.index(EOS)) if EOS in row else row


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_nothing_counts_after_eos(rows) -> None:
    padded = ids(*rows)
    before = padded.clone()
    assert end_at_eos(padded, TOKENIZER).tolist() == [naive_end(row) for row in padded.tolist()]
    assert torch.equal(padded, before)


@given(st.lists(ROWS, min_size=1, max_size=4), st.lists(ROWS, min_size=1, max_size=4))
def test_exact_match_is_the_share_of_equal_rows(pred, target) -> None:
    n_rows = min(len(pred), len(target))
    pred, target = pred[:n_rows], target[:n_rows]
    metric = ExactMatch()
    held = seq2seq_exact_match_update_fn(
        {"target_ids": ids(*target)}, {"ids": ids(*pred), "output_start_idx": 0}, TOKENIZER
    )
    metric.update(**held)
    strip = [[_strip(naive_end(row)) for row in rows] for rows in (pred, target)]
    expected = [float(one == other) for one, other in zip(*strip, strict=True)]
    assert metric.computed_value == expected
    assert float(metric.compute()) == pytest.approx(sum(expected) / n_rows)


def _strip(row):
    while row and row[-1] == PAD:
        row = row[:-1]
    return row


def test_token_accuracy_counts_what_the_target_has() -> None:
    wrapper = MetricWrapper("acc", TokenAccuracy(), seq2seq_token_accuracy_update_fn)
    output = {"ids": ids([8, 7, 9, EOS], [8, 7]), "output_start_idx": 1}
    wrapper.update({"target_ids": ids([7, 8, EOS, PAD], [7, 8, 9, 9])}, output, TOKENIZER)
    # Row 0: one of two; row 1: one of four. EOS and padding do not count.
    assert float(wrapper.compute()) == pytest.approx(2 / 6)
    assert wrapper.computed_value == pytest.approx([1 / 2, 1 / 4])


def test_gaps_are_what_counts_in_infilling() -> None:
    batch = {"input_ids": ids([7, MASK, MASK, 8]), "target_ids": ids([7, 9, 10, 8])}
    output = {"ids": ids([7, 9, 9, 8])}
    wrapper = MetricWrapper("acc", TokenAccuracy(), infill_token_accuracy_update_fn)
    wrapper.update(batch, output, TOKENIZER)
    assert float(wrapper.compute()) == 0.5
    exact = MetricWrapper("em", ExactMatch(), exact_match_update_fn)
    exact.update(batch, output, TOKENIZER)
    exact.update(batch, {"ids": batch["target_ids"]}, TOKENIZER)
    assert float(exact.compute()) == 0.5


def test_a_batch_weighs_as_many_as_its_rows() -> None:
    wrapper = MetricWrapper("loss", MeanMetricWithComputedValue(), mean_metric_update_fn, "val/lm")
    assert wrapper.log_name == "val/lm/loss"
    loss = torch.tensor(1.0, requires_grad=True)
    wrapper.update({"input_ids": ids([7], [7], [7])}, {"loss": loss})
    wrapper.update({"input_ids": ids([7])}, {"loss": torch.tensor(5.0)})
    assert float(wrapper.compute()) == pytest.approx(2.0)
    assert wrapper.computed_value is None
    wrapper.reset()
    wrapper.update({"input_ids": ids([7])}, {"loss": torch.tensor(5.0)})
    assert float(wrapper.compute()) == 5.0


def test_a_batch_weighs_as_many_as_its_tokens() -> None:
    wrapper = MetricWrapper("loss", MeanMetricWithComputedValue(), token_mean_update_fn)
    loss = torch.tensor(1.0, requires_grad=True)
    wrapper.update({}, {"loss": loss, "tokens": torch.tensor([4, 2])})
    wrapper.update({}, {"loss": torch.tensor(5.0), "tokens": torch.tensor([2])})
    wrapper.update({}, {"loss": torch.tensor(0.0), "tokens": torch.tensor([0, 0])})
    assert float(wrapper.compute()) == pytest.approx(2.0)
    with pytest.raises(UnknownNameError, match="tokens"):
        wrapper.update({}, {"loss": loss})


def test_settings_reach_the_update_function(unchecked) -> None:
    wrapper = MetricWrapper(
        "length",
        MeanMetricWithComputedValue(),
        "pellucid.xlm.metrics.mean_metric_update_fn",
        key="lengths",
    )
    wrapper.update({}, {"lengths": torch.tensor([1.0, 2.0])})
    assert wrapper.computed_value == [1.0, 2.0]
    with pytest.raises(ArgumentError, match="the metric 'x' has no update_fn"):
        MetricWrapper("x", ExactMatch(), None)
    with pytest.raises(ArgumentError, match="cannot be imported"):
        MetricWrapper("x", ExactMatch(), "pellucid.xlm.metrics.no_such_fn")


def test_steps_are_averaged_over_rows() -> None:
    held = steps_taken_update_fn({}, {"steps_taken": [1, 4]})
    assert held["value"].tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("metric", "expected"), [(NatsPerToken(), 7 / 4 * math.log(2)), (Perplexity(), 2 ** (7 / 4))]
)
def test_likelihoods_are_those_of_all_tokens(metric, expected) -> None:
    bound = NLLBound(nats=torch.tensor([math.log(2), 3 * math.log(4)]), tokens=torch.tensor([1, 3]))
    metric.update(**nll_bound_update_fn({}, {"nll_bound": bound}))
    assert float(metric.compute()) == pytest.approx(expected)
    metric.update(**nll_bound_update_fn({}, {"nats": bound.nats, "tokens": bound.tokens}))
    assert float(metric.compute()) == pytest.approx(expected)


def test_what_is_missing_is_named(unchecked) -> None:
    with pytest.raises(UnknownNameError, match=r"field of the output 'ids'"):
        seq2seq_exact_match_update_fn({"target_ids": ids([7])}, {"text": []}, TOKENIZER)
    with pytest.raises(RequirementError, match="the batch has no targets"):
        exact_match_update_fn({"target_ids": None}, {"ids": ids([7])}, TOKENIZER)
    for metric in (ExactMatch(), TokenAccuracy()):
        with pytest.raises(ArgumentError, match=r"the shape \(1, 1\) and targets \(1, 2\)"):
            metric.update(ids([7]), ids([7, 8]))


def test_a_wrapper_is_logged_under_its_name() -> None:
    class Module:
        def log(self, name, value, **settings) -> None:
            self.logged = (name, value, settings)

    module, metric = Module(), ExactMatch()
    MetricWrapper("em", metric, exact_match_update_fn, "val", prog_bar=True).log(module, 3)
    name, value, settings = module.logged
    assert (name, value) == ("val/em", metric)
    assert settings["prog_bar"]
    assert settings["batch_size"] == 3


# ---- post hoc ------------------------------------------------------------------------------------


class Constant:
    def __init__(self, **values) -> None:
        self.values = values

    def eval(self, predictions, tokenizer=None, dataloader_name=None):
        seen = [{**record, **self.values} for record in predictions]
        return seen, dict(self.values)


def test_the_first_pattern_in_a_loaders_name_is_the_one() -> None:
    composite = CompositePostHocEvaluator(
        {"infill": Constant(a=1.0), "prediction": [Constant(b=1.0), Constant(c=2.0)], "": {}}
    )
    records = [{"text": "x"}]
    assert composite.eval(records, dataloader_name="infill_prediction")[1] == {"a": 1.0}
    judged, values = composite.eval(records, dataloader_name="prediction")
    assert values == {"b": 1.0, "c": 2.0}
    assert judged == [{"text": "x", "b": 1.0, "c": 2.0}]
    assert records == [{"text": "x"}]
    assert composite.eval(records, dataloader_name="other") == (records, {})
    assert CompositePostHocEvaluator().eval(records) == (records, {})


def test_no_value_is_lost_to_another_of_its_name() -> None:
    composite = CompositePostHocEvaluator(
        {"": {"first": Constant(score=1.0), "second": Constant(score=2.0)}}
    )
    assert composite.eval([{"text": ""}])[1] == {"score": 1.0, "second/score": 2.0}
    with pytest.raises(ArgumentError, match="'int' is int, which has no eval"):
        CompositePostHocEvaluator({"": 3})


def test_sentences_are_judged_by_their_grammar() -> None:
    records = [{"text": text} for text in ("( )", "( ) [ ]", "( ]", "( )", "")]
    judged, values = SyntacticEvaluator("brackets").eval(records)
    assert [record["is_valid"] for record in judged] == [True, True, False, True, False]
    assert values == {"validity": 3 / 5, "uniqueness": 2 / 3}
    assert SyntacticEvaluator("brackets").eval([])[1] == {"validity": 0.0, "uniqueness": 0.0}
    by_function = SyntacticEvaluator(accepts=str.isdigit)
    assert by_function.eval([{"text": "12"}])[1]["validity"] == 1.0
    with pytest.raises(UnknownNameError, match="Did you mean 'brackets'"):
        SyntacticEvaluator("bracket")
    with pytest.raises(ArgumentError, match="one of them"):
        SyntacticEvaluator()


def test_repetition_has_no_entropy() -> None:
    records = [{"text": "0 0 0 0"}, {"text": "0 1 2 3"}, {"text": ""}]
    judged, values = UnigramEntropy().eval(records, tokenizer=TOKENIZER)
    assert [record["entropy"] for record in judged] == pytest.approx([0, math.log(4), 0])
    assert [record["length"] for record in judged] == [4, 4, 0]
    assert values["unigram_entropy"] == pytest.approx(math.log(4) / 3)
    p = torch.tensor([5 / 8, 1 / 8, 1 / 8, 1 / 8])
    assert values["corpus_entropy"] == pytest.approx(float(-(p * p.log()).sum()))
    assert values["length"] == pytest.approx(8 / 3)


@pytest.mark.parametrize("weight", [3, 0.5, torch.tensor(3)], ids=["count", "share", "tensor"])
def test_one_number_counts_as_a_row_of_it(weight) -> None:
    numbers, rows = MeanMetricWithComputedValue(), MeanMetricWithComputedValue()
    for value in (0.1, 2.5, -1.25):
        numbers.update(torch.tensor(value), weight)
        rows.update(torch.tensor([value]), torch.as_tensor(weight).reshape(-1))
    assert torch.equal(numbers.total, rows.total)
    assert torch.equal(numbers.weight, rows.weight)
    assert numbers.computed_value is None
