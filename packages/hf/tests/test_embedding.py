"""Effective embeddings: what the model makes of a token, scaling included."""

import weakref

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.hf._embedding import EmbeddingTable
from pellucid.testing import tiny_llama, tiny_tokenizer


def tiny_gemma3():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Gemma3ForCausalLM(
            Gemma3TextConfig(
                vocab_size=384,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                max_position_embeddings=512,
                sliding_window=16,
            )
        )


def test_a_plain_table_is_not_copied():
    model = tiny_llama()
    table = EmbeddingTable(model.get_input_embeddings())
    weight = model.get_input_embeddings().weight
    assert table.matrix.data_ptr() == weight.data_ptr()
    assert table.rows(5, 9).data_ptr() == weight[5:].data_ptr()
    assert not table.matrix.requires_grad


def test_a_scaled_table_is_what_the_module_computes(made, candidates):
    lm = LMHFModel(tiny_gemma3(), tokenizer=tiny_tokenizer())
    scaled = lm.effective_embedding_matrix
    torch.testing.assert_close(scaled, lm.embedding_layer.weight * 32**0.5)
    assert lm.embedding_matrix is scaled
    lm.set_inputs_from_tokens(made.templates[:1], Targets(target_response_strs=["Yes"]))
    at_embeds = lm.compute_grad_from_embeds(made.PrefillCE(), scaled[candidates])
    at_tokens = lm.compute_grad_from_tokens(made.PrefillCE(), candidates)
    torch.testing.assert_close(at_tokens, at_embeds @ scaled.mT, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scaled_table_is_held_once(dtype):
    layer = tiny_gemma3().to(dtype).get_input_embeddings()
    table = EmbeddingTable(layer)
    assert table._scale is not None
    expected = layer(torch.arange(384)).detach()
    assert torch.equal(table.rows(100, 200), expected[100:200])
    matrix = table.matrix
    assert torch.equal(matrix, expected)
    assert table.matrix is matrix
    held = weakref.ref(matrix)
    del matrix
    assert held() is None, "a second copy of the table is kept"


def test_new_weights_make_a_new_table():
    lm = LMHFModel(tiny_gemma3(), tokenizer=tiny_tokenizer())
    before = lm.effective_embedding_matrix
    with torch.no_grad():
        lm.embedding_layer.weight.mul_(2)
    torch.testing.assert_close(lm.effective_embedding_matrix, 2 * before)


def test_a_lookup_that_does_more_than_scale_is_asked():
    class Shifted(torch.nn.Embedding):
        embed_scale = 2.0

        def forward(self, ids):
            return 2.0 * super().forward(ids) + ids[..., None]

    layer = Shifted(100, 4)
    table = EmbeddingTable(layer)
    assert table._scale is None
    expected = layer(torch.arange(100)).detach()
    assert torch.equal(table.rows(3, 9), expected[3:9])
    assert torch.equal(table.matrix, expected)


def test_padded_rows_belong_to_the_vocabulary():
    lm = LMHFModel(tiny_llama(padded_rows=16), tokenizer=tiny_tokenizer())
    assert lm.vocab_size == 400
    assert lm.effective_embedding_matrix.shape[0] == 400


def test_what_is_no_table_is_refused():
    with pytest.raises(TypeError, match=r"must be an nn.Embedding, got Linear"):
        EmbeddingTable(torch.nn.Linear(2, 2))
