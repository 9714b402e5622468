import pytest
import torch

from pellucid.core import ContainerError, MessageTargets, ModelInput, ModelOutput

LOGITS = torch.zeros(2, 5, 7)


def test_only_what_is_set_is_passed_on():
    targets = MessageTargets(target_class_idx=1)
    given = ModelInput(input_texts=["a", "b"], message_targets=targets)
    assert given.to_dict() == {"input_texts": ["a", "b"], "message_targets": targets}
    output = ModelOutput(full_logits=LOGITS)
    assert list(output.to_dict()) == ["full_logits"]
    assert ModelInput().to_dict() == ModelOutput().to_dict() == {}


def test_inputs_may_be_conversations():
    talk = [{"role": "user", "content": "hello"}]
    assert ModelInput(input_texts=[talk, talk]).input_texts == [talk, talk]
    with pytest.raises(ContainerError, match=r"ModelInput.input_texts"):
        ModelInput(input_texts=["a", talk])


@pytest.mark.parametrize(
    "fields",
    [
        {"full_logits": torch.zeros(2, 5)},
        {"full_logits": LOGITS.long()},
        {"full_hidden_states": torch.zeros(2, 3, 5)},
        {"full_attentions": torch.zeros(2, 3, 4, 5)},
        {"output_class_logits": torch.zeros(2)},
        {"full_ids": torch.zeros(2, 3)},
        {"generated_response_strs": ["a", 1]},
        {"response_first_token_logprobs": [{"a": "b"}]},
        {"errors": ["boom"]},
        {"full_logits": LOGITS, "output_class_logits": torch.zeros(3, 2)},
        {"full_logits": LOGITS, "prefill_response_logits": torch.zeros(2, 1, 8)},
        {
            "full_hidden_states": torch.zeros(2, 3, 5, 4),
            "full_attentions": torch.zeros(2, 2, 1, 5, 5),
        },
    ],
    ids=lambda fields: "-".join(fields),
)
def test_a_misfit_in_an_output_is_refused(fields):
    with pytest.raises(ContainerError, match=f"ModelOutput.{list(fields)[-1]} expects"):
        ModelOutput(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"input_ids": torch.zeros(2, 3)},
        {"input_trigger_ids": torch.zeros(3).long()},
        {"input_slices": {"trigger": (1, 2)}},
        {"input_slices": {"input_before": slice(0, 1), "trigger": None}},
        {"input_ids": torch.zeros(2, 3).long(), "input_trigger_ids": torch.zeros(1, 1).long()},
        {"input_embeds": torch.zeros(2, 3, 4), "input_ids": torch.zeros(2, 4).long()},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_a_misfit_in_an_input_is_refused(fields):
    with pytest.raises(ContainerError, match=r"ModelInput.input_"):
        ModelInput(**fields)


def test_positions_of_a_cached_prefix_may_make_mask_and_ids_longer_than_logits():
    given = ModelInput(
        input_embeds=torch.zeros(2, 3, 4), input_attention_mask=torch.ones(2, 9, dtype=torch.int64)
    )
    assert given.input_attention_mask.shape == (2, 9)
    returned = ModelOutput(full_logits=LOGITS, full_ids=torch.zeros(2, 11, dtype=torch.int64))
    assert returned.full_ids.shape == (2, 11)


def test_responses_may_be_ragged_and_failed_ones_absent():
    output = ModelOutput(
        generated_response_ids=[torch.tensor([1]), torch.tensor([], dtype=torch.int64)],
        generated_response_logits=[torch.zeros(1, 7), torch.zeros(0, 7)],
        generated_response_strs=["a", None],
        errors=[None, TimeoutError("slow")],
    )
    assert output.generated_response_strs == ["a", None]
