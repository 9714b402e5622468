"""Fixtures that the suites of a family's parts share."""

from typing import Any

import pytest
import torch

from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.noise import ContinuousTimeLogLinear, DummyNoiseSchedule

N_WORDS = 50
"""Ordinary words of the tokenizer that the suites use."""


EXAMPLES: list[dict[str, list[int]]] = [
    {"prompt_ids": [10, 11, 12], "input_ids": [20, 21]},
    {"prompt_ids": [13], "input_ids": [22, 23, 24]},
    {"prompt_ids": [14, 15, 16, 17], "input_ids": [25]},
]
"""Prompts and suffixes of several lengths, ordinary words of the tokenizer above."""


class SharedFixtures:
    """Fixtures for tests of a family's parts; override what does not fit."""

    @pytest.fixture
    def small_vocab(self) -> list[str]:
        """The words "0" to "49"."""
        return [str(number) for number in range(N_WORDS)]

    @pytest.fixture
    def simple_tokenizer(self, small_vocab: list[str]) -> SimpleSpaceTokenizer:
        """Their tokenizer, with 57 ids."""
        return SimpleSpaceTokenizer(small_vocab)

    @pytest.fixture
    def dummy_noise_schedule(self) -> DummyNoiseSchedule:
        """A schedule that must not be asked."""
        return DummyNoiseSchedule()

    @pytest.fixture
    def real_loglinear_schedule(self) -> ContinuousTimeLogLinear:
        """A schedule that answers."""
        return ContinuousTimeLogLinear(sigma_max=4.0, eps=1e-3, antithetic_sampling=True)

    @pytest.fixture(params=[16, 32])
    def block_size(self, request: pytest.FixtureRequest) -> int:
        """How long rows are."""
        return request.param

    @pytest.fixture
    def batch_size(self) -> int:
        """How many rows there are."""
        return 4

    @pytest.fixture
    def random_input_ids(
        self, simple_tokenizer: SimpleSpaceTokenizer, batch_size: int, block_size: int
    ) -> torch.Tensor:
        """Ordinary tokens, (batch, pos)."""
        generator = torch.Generator().manual_seed(0)
        least = len(simple_tokenizer) - N_WORDS
        shape = (batch_size, block_size)
        return torch.randint(least, len(simple_tokenizer), shape, generator=generator)

    @pytest.fixture
    def ones_attention_mask(self, batch_size: int, block_size: int) -> torch.Tensor:
        """A mask without padding, (batch, pos)."""
        return torch.ones(batch_size, block_size, dtype=torch.int64)

    @pytest.fixture
    def zeros_token_type_ids(self, batch_size: int, block_size: int) -> torch.Tensor:
        """One type of tokens, (batch, pos)."""
        return torch.zeros(batch_size, block_size, dtype=torch.int64)

    @pytest.fixture
    def base_batch(
        self,
        random_input_ids: torch.Tensor,
        ones_attention_mask: torch.Tensor,
        zeros_token_type_ids: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """What every batch holds."""
        return {
            "input_ids": random_input_ids,
            "attention_mask": ones_attention_mask,
            "token_type_ids": zeros_token_type_ids,
        }

    @pytest.fixture
    def tiny_model_kwargs(self, simple_tokenizer: SimpleSpaceTokenizer) -> dict[str, Any]:
        """Settings of a transformer of milliseconds."""
        return {
            "num_embeddings": len(simple_tokenizer),
            "d_model": 32,
            "num_layers": 1,
            "nhead": 2,
            "dropout": 0.0,
            "rotary_emb_dim": 16,
            "max_length": 64,
        }
