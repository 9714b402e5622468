"""The kit is tried on a family that keeps every law, and on ones that break each of them."""

import pytest
import torch
from torch import nn

from pellucid.xlm.contracts import Collator, LossFunction, Model, Predictor
from pellucid.xlm.datamodule import SimpleSpaceTokenizer, is_token_mask, pad_rows
from pellucid.xlm.sampling import RowStreams, TokenPolicy
from pellucid.xlm.testing import (
    BaseCollatorTests,
    BaseLossTests,
    BaseModelTests,
    BasePredictorTests,
    FamilyContract,
    FamilyParts,
)

pytest_plugins = ["pytester"]

TOKENIZER = SimpleSpaceTokenizer.for_numbers(50)
PAD, MASK, EOS = TOKENIZER.pad_token_id, TOKENIZER.mask_token_id, TOKENIZER.eos_token_id
WIDTH = 6
EXAMPLES = [
    {"prompt_ids": [10, 11, 12], "input_ids": [12, 11, 10]},
    {"prompt_ids": [13], "input_ids": [13]},
    {"prompt_ids": [14, 15], "input_ids": [15, 14]},
    {"prompt_ids": [10, 12, 13, 14], "input_ids": [14, 13, 12, 10, 11]},
]


class ToyModel(Model):
    """One layer of attention, as small as can be; a defect may be built in."""

    def __init__(self, seed: int, defect: str = "") -> None:
        super().__init__()
        self.defect = defect
        # The layers draw weights, which are drawn again below, from the global generator.
        with torch.random.fork_rng():
            self.embedding = nn.Embedding(len(TOKENIZER), 32)
            self.positions = nn.Embedding(64, 32)
            self.attention = nn.Linear(32, 96)
            self.norm = nn.LayerNorm(32)
            self.head = nn.Linear(32, len(TOKENIZER))
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
        self.hidden_state = weight.data.sum() if defect == "unsaved" else 0.0

    def forward(self, ids, mask):
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        if self.defect != "padding":
            positions = (mask.cumsum(1) - 1).clamp(min=0)
        x = self.embedding(ids) + self.positions(positions)
        if self.defect == "company":
            x = x - x.mean(dim=0)
        q, k, v = self.attention(x).chunk(3, dim=-1)
        mask = torch.ones_like(mask) if self.defect == "padding" else mask
        read = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None].bool())
        logits = self.head(self.norm(x + read))
        return logits * (1 + self.hidden_state) + positions[..., None] * self.hidden_state


class ToyCollator(Collator):
    """Prompts on the left of column `prompt_width`, targets or gaps on its right."""

    def __init__(self, prompt_width: int, *, predicts: bool) -> None:
        self.prompt_width = prompt_width
        self.predicts = predicts
        self.block_size = prompt_width + WIDTH

    def __call__(self, examples):
        prompts, lengths = pad_rows(
            [row["prompt_ids"] for row in examples], self.prompt_width, pad=PAD, pad_side="left"
        )
        targets, _ = pad_rows([[*row["input_ids"], EOS] for row in examples], WIDTH, pad=PAD)
        is_prompt = is_token_mask(lengths, self.prompt_width, pad_side="left")
        suffix = torch.full_like(targets, MASK) if self.predicts else targets
        return {
            "input_ids": torch.cat([prompts, suffix], dim=1),
            "attention_mask": torch.cat([is_prompt.long(), torch.ones_like(targets)], dim=1),
            "target_ids": targets,
        }


class ToyLoss(LossFunction):
    """Cross-entropy of tokens that are masked at a rate drawn per row."""

    def __init__(self, defect: str = "") -> None:
        self.defect = defect

    def loss_fn(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        ids, target = batch["input_ids"], batch["target_ids"]
        generator = None if self.defect == "global noise" else self.generator
        rate = torch.rand(len(ids), 1, generator=generator)
        is_masked = torch.rand(target.shape, generator=generator) < 0.2 + 0.8 * rate
        noisy = torch.cat([ids[:, :-WIDTH], target.masked_fill(is_masked, MASK)], dim=1)
        if self.defect == "wrong targets":
            target = target.roll(1, dims=0)
        if self.defect == "writes":
            ids[:, -WIDTH:] = MASK
        logits = self.model(noisy, batch["attention_mask"])[:, -WIDTH:]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        losses = {
            "no axes": loss[None],
            "infinite": loss / 0,
            "detached": loss.detach(),
            "elsewhere": (loss.detach() * torch.ones((), requires_grad=True)),
        }
        return {"other" if self.defect == "no key" else "loss": losses.get(self.defect, loss)}


class ToyPredictor(Predictor):
    """Fills all gaps at once with the best tokens, or with what it draws."""

    def __init__(self, defect: str = "", *, draws: bool = False) -> None:
        self.defect = defect
        self.draws = draws and defect != "draws nothing"

    def choose(self, logits, batch):
        if not self.draws:
            return logits.argmax(dim=-1)
        places = batch["attention_mask"].cumsum(1)[:, -WIDTH:]
        uniforms = RowStreams.of(batch, self.generator).uniforms(places)
        if self.defect == "draws in sequence":
            uniforms = torch.rand(uniforms.shape, generator=self.generator, dtype=torch.float64)
        if self.defect == "draws by column":
            columns = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
            uniforms = RowStreams.of(batch, self.generator).uniforms(columns[:, -WIDTH:])
        if self.defect == "draws without seed":
            uniforms = RowStreams.of(batch, None).uniforms(places)
        return TokenPolicy().draw(logits, uniforms)

    def predict(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        was_training = self.model.training
        self.model.eval()
        logits = self.model(batch["input_ids"], batch["attention_mask"])
        if self.defect == "grads":
            logits.sum().backward()
        logits[..., MASK] = -torch.inf
        ids = batch["input_ids"] if self.defect == "writes" else batch["input_ids"].clone()
        ids[:, -WIDTH:] = self.choose(logits[:, -WIDTH:], batch)
        if self.defect == "prompt":
            ids[:, :-WIDTH][ids[:, :-WIDTH] == 10] = 11
        if self.defect == "mask":
            ids[:, -1] = MASK
        if self.defect == "range":
            ids[:, -1] = len(TOKENIZER)
        if self.defect != "mode":
            self.model.train(was_training)
        n_rows = len(ids)
        n_texts = 1 if self.defect == "rows" else n_rows
        preds = {
            "text": TOKENIZER.batch_decode(ids[:n_texts, -WIDTH:].clamp(max=56), True),
            "ids": ids,
            "output_start_idx": ids.shape[1] - WIDTH,
            "time_taken": [0.0] * n_rows,
            "steps_taken": [0 if self.defect == "steps" else 1] * n_rows,
        }
        if self.defect == "keys":
            del preds["time_taken"]
        return preds

    def to_dict(self, batch, preds, *_):
        records = [{"text": text, "ids": ids} for text, ids in zip(
            preds["text"], preds["ids"].tolist(), strict=True)]  # fmt: skip
        if self.defect == "json":
            records[0]["ids"] = preds["ids"][0]
        return records[1:] if self.defect == "records" else records


class ToyContract(FamilyContract):
    def __init__(self, defect: str = "") -> None:
        self.defect = defect

    def make_family(self, *, seed: int, extra_padding: int = 0) -> FamilyParts:
        return FamilyParts(
            tokenizer=TOKENIZER,
            model=ToyModel(seed, self.defect),
            loss=ToyLoss(self.defect),
            predictor=ToyPredictor(self.defect),
            collator=ToyCollator(4, predicts=False),
            prediction_collator=ToyCollator(4 + extra_padding, predicts=True),
            examples=EXAMPLES,
        )

    def make_sampler(self, parts: FamilyParts) -> ToyPredictor:
        return ToyPredictor(self.defect, draws=True)


LAWS = sorted(name for name in dir(FamilyContract) if name.startswith("test_"))


@pytest.mark.parametrize("law", LAWS)
def test_a_sound_family_keeps_every_law(law) -> None:
    state = torch.get_rng_state()
    getattr(ToyContract(), law)()
    assert torch.equal(torch.get_rng_state(), state)


BREACHES = {
    "test_it_learns_examples_by_heart": ("wrong targets", "of 4 examples are right"),
    "test_prompts_are_never_altered": ("prompt", "a token of a prompt was altered"),
    "test_no_mask_is_left": ("mask", "4 mask tokens are left"),
    "test_padding_changes_nothing": ("padding", "depend on the padding"),
    "test_a_batch_equals_its_rows": ("company", "depends on the rows beside it"),
    "test_a_checkpoint_holds_everything": ("unsaved", "after loading"),
    "test_noise_follows_from_the_generators": ("global noise", "and then"),
    "test_a_sample_belongs_to_its_row": ("draws in sequence", "depends on its batch"),
}


@pytest.mark.parametrize("law", LAWS)
def test_each_law_catches_its_defect(law) -> None:
    defect, message = BREACHES[law]
    with pytest.raises(AssertionError, match=message):
        getattr(ToyContract(defect), law)()


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ("draws nothing", "the sampler draws nothing"),
        ("draws by column", "depends on the padding of its prompt"),
        ("draws without seed", "do not depend on the seed"),
    ],
)
def test_a_sample_that_does_not_belong_to_its_row_is_caught(defect, message) -> None:
    with pytest.raises(AssertionError, match=message):
        ToyContract(defect).test_a_sample_belongs_to_its_row()


def test_a_family_without_a_sampler_is_told_so() -> None:
    class Silent(ToyContract):
        make_sampler = FamilyContract.make_sampler

    with pytest.raises(pytest.fail.Exception, match="Silent needs make_sampler"):
        Silent().test_a_sample_belongs_to_its_row()


# ---- suites of the parts -------------------------------------------------------------------------


def wired(part):
    part.model, part.tokenizer = ToyModel(0), TOKENIZER
    part.generator = torch.Generator().manual_seed(0)
    return part


class TestToyModel(BaseModelTests):
    @pytest.fixture
    def model(self):
        return ToyModel(0)

    @pytest.fixture
    def run_forward(self, model):
        def run(batch_size=2, seq_len=16, partial_mask=False):
            mask = torch.ones(batch_size, seq_len, dtype=torch.int64)
            if partial_mask:
                mask[:, -4:] = 0
            return model(torch.full((batch_size, seq_len), 7), mask)

        return run


class TestToyLoss(BaseLossTests):
    @pytest.fixture
    def loss_fn(self):
        return wired(ToyLoss())

    @pytest.fixture
    def batch(self):
        return ToyCollator(4, predicts=False)(EXAMPLES)


class TestToyCollator(BaseCollatorTests):
    @pytest.fixture
    def collator(self):
        return ToyCollator(4, predicts=False)

    @pytest.fixture
    def raw_examples(self):
        return EXAMPLES


class TestToyPredictor(BasePredictorTests):
    @pytest.fixture
    def predictor(self):
        return wired(ToyPredictor())

    @pytest.fixture
    def batch(self):
        return ToyCollator(4, predicts=True)(EXAMPLES)


class TestSharedFixtures(BaseModelTests):
    """The fixtures fit each other; the laws are those of the model above."""

    model = TestToyModel.model
    run_forward = TestToyModel.run_forward

    def test_fixtures_fit(
        self,
        base_batch,
        batch_size,
        block_size,
        simple_tokenizer,
        tiny_model_kwargs,
        dummy_noise_schedule,
        real_loglinear_schedule,
    ) -> None:
        assert simple_tokenizer.vocab_size == 57 == tiny_model_kwargs["num_embeddings"]
        assert {held.shape for held in base_batch.values()} == {(batch_size, block_size)}
        assert int(base_batch["input_ids"].min()) >= 7
        assert real_loglinear_schedule.total_noise(torch.ones(1)).item() == pytest.approx(4.0)
        assert dummy_noise_schedule is not None


@pytest.mark.parametrize(
    ("law", "defect", "message"),
    [
        ("test_returns_loss_key", "no key", "without 'loss'"),
        ("test_loss_is_scalar", "no axes", r"has the shape \(1,\)"),
        ("test_loss_is_finite", "infinite", "the loss is inf"),
        ("test_loss_requires_grad", "detached", "requires no gradient"),
        ("test_gradients_reach_model", "elsewhere", "no weight of the model has a gradient"),
        ("test_batch_stays_as_it_is", "writes", "the loss changed 'input_ids'"),
    ],
)
def test_each_law_of_losses_catches_its_defect(law, defect, message) -> None:
    loss, batch = wired(ToyLoss(defect)), ToyCollator(4, predicts=False)(EXAMPLES)
    with pytest.raises(AssertionError, match=message):
        getattr(BaseLossTests(), law)(loss, batch)


@pytest.mark.parametrize(
    ("law", "defect", "message"),
    [
        ("test_returns_expected_keys", "keys", r"lacks \['time_taken'\]"),
        ("test_returns_expected_keys", "rows", "4 rows have 1 of 'text'"),
        ("test_returns_expected_keys", "steps", "took no evaluation"),
        ("test_ids_are_of_the_vocabulary", "range", "not in 0 to 56"),
        ("test_no_mask_is_left", "mask", "4 mask tokens"),
        ("test_records_are_json", "records", "other texts than the prediction"),
        ("test_batch_stays_as_it_is", "writes", "the predictor changed 'input_ids'"),
        ("test_model_stays_as_it_is", "mode", "left the model with training=False"),
        ("test_model_stays_as_it_is", "grads", "left gradients behind"),
    ],
)
def test_each_law_of_predictors_catches_its_defect(law, defect, message) -> None:
    predictor, batch = wired(ToyPredictor(defect)), ToyCollator(4, predicts=True)(EXAMPLES)
    with torch.set_grad_enabled(defect == "grads"), pytest.raises(AssertionError, match=message):
        getattr(BasePredictorTests(), law)(predictor, batch)


def test_a_record_that_is_no_json_is_caught() -> None:
    predictor, batch = wired(ToyPredictor("json")), ToyCollator(4, predicts=True)(EXAMPLES)
    with pytest.raises(TypeError, match="not JSON serializable"):
        BasePredictorTests().test_records_are_json(predictor, batch)


def spoil(change):
    """Return a collator whose batch is changed."""
    sound = ToyCollator(4, predicts=False)

    class Spoilt(Collator):
        block_size = sound.block_size

        def __call__(self, examples):
            return change(sound(examples), examples)

    return Spoilt()


def without_targets(batch, examples):
    return {name: held for name, held in batch.items() if name != "target_ids"}


def without_a_row(batch, examples):
    return {name: held[1:] for name, held in batch.items()}


def narrow_mask(batch, examples):
    return {**batch, "attention_mask": batch["attention_mask"][:, 1:]}


def too_wide(batch, examples):
    return {name: torch.cat([held, held], dim=1) for name, held in batch.items()}


def writes(batch, examples):
    examples[0]["input_ids"].append(EOS)
    return batch


@pytest.mark.parametrize(
    ("law", "change", "message"),
    [
        ("test_output_has_target_ids", without_targets, "no 'target_ids'"),
        ("test_output_shapes_consistent", without_a_row, "4 examples gave 3 rows"),
        ("test_output_shapes_consistent", narrow_mask, "and their mask"),
        ("test_output_shapes_consistent", too_wide, "rows have 20 tokens, and the block 10"),
        ("test_examples_stay_as_they_are", writes, "the collator changed 'input_ids'"),
    ],
)
def test_each_law_of_collators_catches_its_defect(law, change, message) -> None:
    examples = [{name: list(ids) for name, ids in row.items()} for row in EXAMPLES]
    with pytest.raises(AssertionError, match=message):
        getattr(BaseCollatorTests(), law)(spoil(change), examples)


def test_each_law_of_models_catches_its_defect() -> None:
    laws, tokenizer = BaseModelTests(), TOKENIZER
    with pytest.raises(AssertionError, match="logits have"):
        laws.test_forward_output_shape(lambda **_: torch.zeros(2, 16, 7), tokenizer)
    with pytest.raises(AssertionError, match="beside padding are bad"):
        laws.test_forward_with_partial_mask(
            lambda **_: torch.full((2, 16, 57), torch.nan), tokenizer
        )
    model = ToyModel(0)
    with pytest.raises(AssertionError, match="all gradients are zero"):
        laws.test_gradient_flows(model, lambda: sum(w.sum() for w in model.parameters()) * 0)
    with pytest.raises(AssertionError, match="no weight has a gradient"):
        laws.test_gradient_flows(ToyModel(0), lambda: torch.zeros(2, requires_grad=True))
    model.get_named_params_for_weight_decay = model.named_parameters
    with pytest.raises(AssertionError, match="no partition"):
        laws.test_weight_decay_param_split(model)


def test_a_suite_says_which_fixture_it_lacks(pytester) -> None:
    pytester.makepyfile(
        """
        from pellucid.xlm.testing import BaseCollatorTests

        class TestMine(BaseCollatorTests):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*TestMine needs a fixture 'collator'; define it in the class*"])
