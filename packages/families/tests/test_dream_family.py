"""The family dream against the kit that every family is held to.

The family has no loss. That of mlm is taken, which asks a network for the tokens under masks and
knows not how it answers: so a tiny Qwen2 that sees both sides learns, one position early.
"""

import json
import sys

import pytest
import torch
from family_tools import CollatorTests, forward_of
from torch.testing import assert_close

from pellucid.core import RequirementError
from pellucid.families.dream import (
    DreamModel,
    DreamPredCollator,
    DreamPredictor,
    load_backbone,
    qwen2_backbone,
)
from pellucid.families.dream._blocks import block_causal_mask
from pellucid.families.mlm import MLMLoss, MLMSeq2SeqTrainCollator
from pellucid.xlm._app import run
from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.sampling import block_numbers
from pellucid.xlm.testing import (
    EXAMPLES,
    BaseLossTests,
    BaseModelTests,
    BasePredictorTests,
    FamilyContract,
    FamilyParts,
)

BLOCK_CAUSAL = {"attention": "block_causal", "use_cache": True, "block_size": 3}
WAYS = {
    "surest first": {},
    "until EOS in small blocks": {"block_size": 2, "threshold": 0.5},
    "in random order": {"confidence": None},
    "block causal and kept": BLOCK_CAUSAL,
}


def tiny(tokenizer, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = qwen2_backbone(len(tokenizer), 32, 2, 4, num_kv_heads=2, max_length=64)
        with torch.no_grad():
            for name, weight in backbone.named_parameters():
                if "norm" in name or "bias" in name:
                    weight.add_(0.1 * torch.randn_like(weight))
    return DreamModel(backbone)


class TestDreamModel(BaseModelTests):
    @pytest.fixture
    def model(self, simple_tokenizer):
        return tiny(simple_tokenizer)

    @pytest.fixture
    def run_forward(self, model, simple_tokenizer):
        return forward_of(model, simple_tokenizer)


class TestTheLossOfOthers(BaseLossTests):
    @pytest.fixture
    def loss_fn(self, simple_tokenizer):
        return MLMLoss(model=tiny(simple_tokenizer), tokenizer=simple_tokenizer)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return MLMSeq2SeqTrainCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestDreamPredCollator(CollatorTests):
    @pytest.fixture
    def collator(self, simple_tokenizer):
        return DreamPredCollator(simple_tokenizer, 6, input_block_size=8)

    def test_other_fields_are_handed_on(self, simple_tokenizer, raw_examples):
        """Such as what an evaluator needs."""
        collator = DreamPredCollator(
            simple_tokenizer, 6, input_block_size=8, pass_through_fields=["prompt_ids"]
        )
        assert collator(raw_examples)["prompt_ids"] == [row["prompt_ids"] for row in EXAMPLES]


class TestDreamPredictor(BasePredictorTests):
    @pytest.fixture(params=WAYS.values(), ids=WAYS)
    def predictor(self, request, simple_tokenizer):
        model = tiny(simple_tokenizer)
        return DreamPredictor(6, 6, tokenizer=simple_tokenizer, model=model, **request.param)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return DreamPredCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestDreamFamily(FamilyContract):
    overfit_steps = 150
    way = WAYS["surest first"]
    way_of_sampler = WAYS["in random order"]

    def make_family(self, *, seed, extra_padding=0):
        tokenizer = SimpleSpaceTokenizer.for_numbers(30)
        return FamilyParts(
            tokenizer=tokenizer,
            model=tiny(tokenizer, seed),
            loss=MLMLoss(),
            predictor=DreamPredictor(6, 6, temperature=0.0, **self.way),
            collator=MLMSeq2SeqTrainCollator(tokenizer, 6, input_block_size=8),
            prediction_collator=DreamPredCollator(
                tokenizer, 6, input_block_size=8 + extra_padding, add_bos="output"
            ),
            examples=EXAMPLES,
        )

    def make_sampler(self, parts):
        return DreamPredictor(6, 6, **self.way_of_sampler)


class TestDreamFamilyInSmallBlocks(TestDreamFamily):
    way = way_of_sampler = WAYS["until EOS in small blocks"]


class BlockCausalCollator(MLMSeq2SeqTrainCollator):
    """Texts in which no block sees a later one."""

    def __call__(self, examples):
        batch = super().__call__(examples)
        blocks = block_numbers(~batch["fixed_positions_mask"], BLOCK_CAUSAL["block_size"])
        return {**batch, "attention_mask": block_causal_mask(blocks, batch["attention_mask"])}


class TestDreamFamilyBlockCausal(TestDreamFamily):
    way = way_of_sampler = BLOCK_CAUSAL

    def make_family(self, *, seed, extra_padding=0):
        parts = super().make_family(seed=seed, extra_padding=extra_padding)
        parts.collator = BlockCausalCollator(parts.tokenizer, 6, input_block_size=8)
        return parts


def test_a_model_of_random_weights_is_evaluated_and_completes_prompts(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    named = ["job_name=d", "experiment=dream_star_easy", "debug=smoke", "trainer_strategy=cpu"]
    assert run(["job_type=eval", *named]) == 0
    assert "test/prediction/exact_match" in capsys.readouterr().out
    files = []
    for size in (3, 8):
        drawn = ["predictor.temperature=1.0", f"per_device_batch_size={size}"]
        assert run(["job_type=generate", *drawn, *named]) == 0
        (path,) = (tmp_path / "logs/d/predictions/predict/prediction").glob("*.jsonl")
        lines = path.read_text(encoding="utf-8").splitlines()
        files.append([json.loads(line)["text"] for line in lines])
    assert len(set(files[0])) == 8
    assert files[0] == files[1]
    assert run(["job_type=eval", "eval.ckpt_path=x.ckpt", *named]) != 0
    assert "weights=built loads nothing" in capsys.readouterr().err


def test_backbones_are_found_by_name_or_not_at_all(tmp_path, monkeypatch):
    backbone = qwen2_backbone(20, 16, 1, 2)
    backbone.save_pretrained(tmp_path)
    ids = torch.randint(7, 20, (1, 4))
    loaded = DreamModel(load_backbone(str(tmp_path)))
    assert_close(loaded(ids), DreamModel(backbone)(ids))
    monkeypatch.setitem(sys.modules, "transformers", None)
    for make in (lambda: load_backbone("x"), lambda: qwen2_backbone(20, 16, 1, 2)):
        with pytest.raises(RequirementError, match="pellucid-families\\[dream\\]"):
            make()
