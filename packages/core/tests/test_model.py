import pytest
import torch
from core_samples import EchoLM, LetterEncoder, ParityClassifier

from pellucid.core import (
    ArgumentError,
    BaseModel,
    ClassifierBaseModel,
    ContractError,
    EncoderBaseModel,
    LMBaseModel,
    ModelOutput,
    RequirementError,
)

ZERO = {
    "total_tokens": 0,
    "forward_calls": 0,
    "forward_samples": 0,
    "grad_calls": 0,
    "grad_samples": 0,
}


def test_each_kind_of_model_answers_with_its_own_field():
    assert EchoLM()(["ab", "c"]) == ["AB", "C"]
    assert LetterEncoder()(["aab"]).tolist() == [[2.0, 1.0, 0.0]]
    assert ParityClassifier()(["a", "aa"]).tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("model", [EchoLM(), LetterEncoder(), ParityClassifier()])
def test_the_whole_output_is_there_for_the_asking(model):
    assert isinstance(model(["ab"], return_full_output=True), ModelOutput)


def test_options_reach_the_backend_and_may_be_overridden():
    assert EchoLM()(["ab"], True, require_generation=False).to_dict() == {"full_strs": ["ab"]}
    with pytest.raises(ContractError, match=r"must set 'generated_response_strs'.*\['full_strs'\]"):
        EchoLM()(["ab"], require_generation=False)


def test_widths_are_declared():
    assert LetterEncoder("xy").d_model == 2
    assert ParityClassifier().n_classes == 2


@pytest.mark.parametrize("base", [BaseModel, LMBaseModel, EncoderBaseModel, ClassifierBaseModel])
def test_abstract_members_are_asked_for(base):
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_a_model_without_super_init_has_everything():
    model = EchoLM()
    assert model.get_usage_stats() == ZERO
    assert (model._forward_pass_batch_size, model._backward_pass_batch_size) == (4096, 512)
    assert model.provides is None
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    model.reset_usage_stats()
    assert model.get_usage_stats() == ZERO


def test_the_name_of_a_model():
    assert EchoLM().get_model_name() == "EchoLM"
    assert EchoLM("echo-1b").get_model_name() == "echo-1b"
    model = EchoLM("public")
    model._model_name = "private"
    assert model.get_model_name() == "private"


def test_usage_is_counted_where_the_raw_call_is_made():
    model = EchoLM()
    model(["abc", "de"])
    assert model.get_usage_stats() == {
        **ZERO,
        "total_tokens": 5,
        "forward_calls": 1,
        "forward_samples": 2,
    }
    model._update_invoke_stats(n_tokens=10, n_samples=3, count_backward=True)
    assert model.get_usage_stats() == {
        "total_tokens": 15,
        "forward_calls": 2,
        "forward_samples": 5,
        "grad_calls": 1,
        "grad_samples": 3,
    }
    model._update_usage_stats(tokens=1, flops=9)
    assert "total_flops" not in model.get_usage_stats()
    model.reset_usage_stats()
    assert model.get_usage_stats() == ZERO


def test_models_do_not_share_counters():
    first, second = EchoLM(), EchoLM()
    first(["abc"])
    assert second.get_usage_stats() == ZERO


def test_usage_is_restored_in_another_process():
    first, second = EchoLM(), EchoLM()
    first(["abc"])
    second.restore_usage_stats(first.get_usage_stats())
    second(["d"])
    assert second.get_usage_stats()["total_tokens"] == 4
    with pytest.raises(ArgumentError, match=r"unknown usage counters in .*tokens_total"):
        second.restore_usage_stats({"tokens_total": 1})


def test_flops_are_not_counted_for_what_is_no_hugging_face_model():
    with pytest.raises(RequirementError, match=r"transformers.PreTrainedModel alone, got NoneType"):
        EchoLM().set_flop_counting("manual")
    with pytest.raises(TypeError):
        EchoLM().set_flop_counting()
    EchoLM().set_flop_counting("none")
    with pytest.raises(ArgumentError, match=r"unknown mode 'exact'. Use 'manual' or 'none'"):
        EchoLM().set_flop_counting("exact")
