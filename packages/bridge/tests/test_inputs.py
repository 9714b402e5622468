"""Text in and out, models with an encoder, and models that take pictures as well."""

from typing import Any

import pytest
import torch
from tiny_cases import CASES, make_bridge, make_model

from pellucid.bridge import TransformerBridge
from pellucid.testing import tiny_wordpiece_tokenizer

TEXTS = ["Tell me about the weather.", "Hi."]


def case(name: str) -> Any:
    return next(one for one in CASES if one.name == name)


def test_texts_are_padded_on_the_side_that_is_asked_for(llama: TransformerBridge) -> None:
    alone = [llama.to_tokens(text)[0] for text in TEXTS]
    n_missing = len(alone[0]) - len(alone[1])
    assert n_missing > 0
    left = llama.to_tokens(TEXTS, padding_side="left")
    right = llama.to_tokens(TEXTS, padding_side="right")
    assert left.shape == right.shape == (2, len(alone[0]))
    assert torch.equal(left[1, n_missing:], alone[1])
    assert torch.equal(right[1, : len(alone[1])], alone[1])
    pad = llama.tokenizer.pad_token_id
    assert (left[1, :n_missing] == pad).all()
    assert (right[1, len(alone[1]) :] == pad).all()
    with pytest.raises(ValueError, match="padding_side"):
        llama.to_tokens(TEXTS, padding_side="top")


def test_the_first_token_is_the_callers_choice(llama: TransformerBridge) -> None:
    bare, begun = (llama.to_tokens("Hi.", prepend_bos=b)[0].tolist() for b in (False, True))
    assert begun == [llama.tokenizer.bos_token_id, *bare]
    assert llama.to_tokens("Hi." * 999).shape[1] == llama.cfg.n_ctx
    assert llama.to_tokens("Hi." * 999, truncate=False).shape[1] > llama.cfg.n_ctx


def test_text_and_tokens_lead_back_to_each_other(llama: TransformerBridge) -> None:
    text = "Tell me about it."
    tokens = llama.to_tokens(text, prepend_bos=False)
    assert llama.to_string(tokens) == [text]
    assert llama.to_string(tokens[0]) == text
    parts = llama.to_str_tokens(text, prepend_bos=False)
    assert len(parts) == tokens.shape[1]
    assert "".join(parts) == text
    assert llama.to_str_tokens(tokens[0]) == parts
    assert llama.to_str_tokens([text, text], prepend_bos=False) == [parts, parts]
    with pytest.raises(ValueError, match="at most 2 axes"):
        llama.to_string(tokens[None])
    with pytest.raises(ValueError, match="one row"):
        llama.to_str_tokens(llama.to_tokens(TEXTS))


def test_single_tokens(llama: TransformerBridge) -> None:
    first = int(llama.to_tokens("Tell me", prepend_bos=False)[0, 0])
    text = llama.to_single_str_token(first)
    assert llama.to_single_token(text) == first
    with pytest.raises(AssertionError, match="not one"):
        llama.to_single_token("Tell me about it.")
    tokens = torch.tensor([7, 9, 7])
    assert llama.get_token_position(7, tokens) == 0
    assert llama.get_token_position(7, tokens, mode="last") == 2
    with pytest.raises(AssertionError, match="8"):
        llama.get_token_position(8, tokens)


def test_text_needs_a_tokenizer(tokens: torch.Tensor) -> None:
    bridge = TransformerBridge(make_model(case("LlamaForCausalLM")))
    with pytest.raises(AssertionError, match="tokenizer"):
        bridge("Hi.")
    assert bridge(tokens % 90).shape == (2, 7, 97)


def test_predictions_are_the_likeliest_words_at_masks() -> None:
    tokenizer = tiny_wordpiece_tokenizer()
    model = make_model(case("BertForMaskedLM"))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    bridge = TransformerBridge(model.eval(), tokenizer=tokenizer)
    mask = tokenizer.mask_token
    one, two = f"tell me {mask} it", f"{mask} me {mask} it"
    logits = bridge(one, return_type="logits")
    tokens = bridge.to_tokens(one)
    expected = logits[0][tokens[0] == tokenizer.mask_token_id].argmax(-1)
    predicted = bridge(one, return_type="predictions")
    assert predicted == tokenizer.decode(expected.tolist())
    both = bridge([one, two], return_type="predictions")
    assert isinstance(both, list)
    assert both[0] == predicted
    assert len(both) == 2


SEVERAL = ["T5ForConditionalGeneration", "BartForConditionalGeneration", "MarianMTModel"]


@pytest.mark.parametrize("name", SEVERAL)
def test_an_encoder_decoder_generates_as_transformers_does(name: str) -> None:
    bridge = make_bridge(case(name))
    ids = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 11, 12, 2]])
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    greedy = {"eos_token_id": None, "forced_eos_token_id": None, "bad_words_ids": None}
    expected = bridge.original_model.generate(
        ids, num_beams=1, min_new_tokens=5, **options, **greedy
    )
    made = bridge.generate(ids, stop_at_eos=False, verbose=False, **options)
    slow = bridge.generate(
        ids, stop_at_eos=False, verbose=False, use_past_kv_cache=False, **options
    )
    assert torch.equal(made, slow)
    assert torch.equal(made, expected)
    edit = ("decoder_blocks.1.cross_attn.hook_z", lambda z, hook: z * -3)
    with bridge.hooks([edit]):
        edited = bridge.generate(ids, stop_at_eos=False, verbose=False, **options)
        again = bridge.generate(
            ids, stop_at_eos=False, verbose=False, use_past_kv_cache=False, **options
        )
    assert torch.equal(edited, again)


def test_a_loss_of_an_encoder_decoder_is_that_of_its_labels() -> None:
    bridge = make_bridge(case("T5ForConditionalGeneration"))
    ids, labels = torch.tensor([[5, 6, 7, 8, 2]]), torch.tensor([[9, 10, 2, -100]])
    with torch.no_grad():
        expected = bridge.original_model(input_ids=ids, labels=labels).loss
        loss = bridge(ids, labels=labels, return_type="loss")
    torch.testing.assert_close(loss, expected)
    with pytest.raises(ValueError, match="labels="):
        bridge(ids, return_type="loss")


def test_a_model_of_pictures_and_text_is_hooked_where_both_meet() -> None:
    model = make_model(case("LlavaForConditionalGeneration"))
    bridge = TransformerBridge(model.requires_grad_(False))
    config = model.config
    # The tiny vocabulary ends before the token that stands for pictures.
    config.image_token_id = model.model.config.image_token_id = 96
    picture = torch.full((4,), config.image_token_id)  # 16 / 8, each way.
    ids = torch.cat([torch.tensor([5, 6]), picture, torch.tensor([7, 8])])[None]
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, *[config.vision_config.image_size] * 2, generator=draw)
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=pixels).logits
        logits, cache = bridge.run_with_cache(ids, pixel_values=pixels)
        assert torch.equal(logits, expected)
        _, other = bridge.run_with_cache(ids, pixel_values=pixels.flip(-1))
    stream, changed = cache["resid_pre", 0], other["resid_pre", 0]
    at_picture = (ids == config.image_token_id)[0]
    assert not torch.allclose(stream[:, at_picture], changed[:, at_picture])
    assert torch.equal(stream[:, ~at_picture], changed[:, ~at_picture])
    edited = bridge.run_with_hooks(
        ids, [(("resid_pre", 0), lambda v, hook: v * ~at_picture[:, None])], pixel_values=pixels
    )
    assert not torch.allclose(edited, logits)
    made = bridge.generate(
        ids, max_new_tokens=3, do_sample=False, stop_at_eos=False, verbose=False,
        pixel_values=pixels,
    )  # fmt: skip
    plain = model.generate(
        ids, pixel_values=pixels, max_new_tokens=3, min_new_tokens=3, do_sample=False
    )
    assert torch.equal(made, plain)
    with pytest.raises(ValueError, match="processor"):
        bridge.prepare_multimodal_inputs("Hi.", [])
