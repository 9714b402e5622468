"""Losses that a language model judges with yes or no."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, LMBaseModel, Messages, boundary, load
from pellucid.losses._text import TextBasedLoss, flatten_text


@dataclasses.dataclass(kw_only=True)
class BinaryLMJudgeLoss(TextBasedLoss):
    """The negated log-odds, in nats, that a judge answers a question with yes rather than no.

    A subclass gives `__call__`, asks its questions with `score` and negates what comes back. The
    judge is asked for the log-probabilities of its first token, so any language model serves that
    gives those, in this process or behind an API.

    Args:
        judge: The model that judges; when None, `model_name_or_path` is loaded on first use, by
            the backend that is registered as "hf-lm".
        positive_words: First tokens that mean yes.
        negative_words: First tokens that mean no.
        model_name_or_path: A Hugging Face model, or a folder that holds one.
        judge_lm_batch_size: How many questions are asked at once.
        device: Where the judge is loaded to; the backend's choice when None.

    Raises:
        ArgumentError: (a ValueError) If there are no words for an answer, or the batch size is
            less than 1.
    """

    judge: LMBaseModel | None = dataclasses.field(default=None, repr=False, compare=False)
    positive_words: Sequence[str] = ("Yes", "yes", " Yes", " yes")
    negative_words: Sequence[str] = ("No", "no", " No", " no")
    model_name_or_path: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    judge_lm_batch_size: int = 256
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.positive_words or not self.negative_words:
            raise ArgumentError("positive_words and negative_words must hold at least one word.")
        if self.judge_lm_batch_size < 1:
            raise ArgumentError(
                f"judge_lm_batch_size must be at least 1, got {self.judge_lm_batch_size!r}."
            )

    def score(self, questions: Sequence[str]) -> Float[Tensor, " batch"]:
        """Return the log-odds of yes for each question.

        Args:
            questions: Each is asked in a conversation of its own.

        Returns:
            Float32, of shape (batch,), on the CPU; 0 where the judge considers neither answer.
        """
        odds = [self._weigh(logprobs) for logprobs in self._answer(questions)]
        return torch.tensor(odds, dtype=torch.float32)

    def _answer(self, questions: Sequence[str]) -> Iterator[Mapping[str, float]]:
        judge = self._load_judge()
        for start in range(0, len(questions), self.judge_lm_batch_size):
            asked = questions[start : start + self.judge_lm_batch_size]
            talks: list[Messages] = [[{"role": "user", "content": text}] for text in asked]
            output = judge.invoke_from_texts(talks, require_first_token_logprobs=True)
            if output.response_first_token_logprobs is None:
                raise ArgumentError(
                    f"the judge {judge.get_model_name()!r} gives no first-token log-probabilities. "
                    "Use a model that sets response_first_token_logprobs."
                )
            yield from (logprobs or {} for logprobs in output.response_first_token_logprobs)

    def _load_judge(self) -> LMBaseModel:
        judge = self.judge
        if judge is None:
            backend = load("pellucid.models", "hf-lm")
            judge = backend(self.model_name_or_path, device=self.device, dtype=torch.bfloat16)
            self.judge = judge
        return judge

    def _weigh(self, logprobs: Mapping[str, float]) -> float:
        yes = _add_up(logprobs, self.positive_words)
        no = _add_up(logprobs, self.negative_words)
        if yes is None and no is None:
            return 0.0
        # What is not among the likeliest tokens is at most as likely as the least of them.
        floor = min(value for value in logprobs.values() if value > -math.inf)
        return (floor if yes is None else yes) - (floor if no is None else no)


def _add_up(logprobs: Mapping[str, float], words: Iterable[str]) -> float | None:
    values = [logprobs.get(word, -math.inf) for word in dict.fromkeys(words)]
    held = [value for value in values if value > -math.inf]
    if not held:
        return None
    highest = max(held)
    return highest + math.log(sum(math.exp(value - highest) for value in held))


@dataclasses.dataclass(kw_only=True)
class InputFluencyLoss(BinaryLMJudgeLoss):
    """How hard to read the judge finds the input.

    Args:
        question: What the judge is asked; `{text}` stands for the input.
    """

    question: str = (
        "Is the following text fluent and easy to read? Answer with Yes or No.\n\n{text}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_question(self.question, "{text}")

    @boundary
    def __call__(self, input_texts: list[str] | list[Messages]) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            input_texts: The inputs; of conversations, the messages' contents are judged.

        Returns:
            Float32, of shape (batch,), on the CPU.
        """
        texts = [flatten_text(text) for text in input_texts]
        return -self.score([self.question.replace("{text}", text) for text in texts])


class GeneratedResponseBasedLoss(TextBasedLoss):
    """Reads generated responses."""

    require_generation = True


@dataclasses.dataclass(kw_only=True)
class ResponseLMScoreLoss(BinaryLMJudgeLoss, GeneratedResponseBasedLoss):
    """How little the judge finds a property in the model's response.

    Args:
        question: What the judge is asked; `{response}` stands for the response.
        max_response_chars: How much of a response the judge is shown.
    """

    question: str = (
        "Is the following response polite and to the point? Answer with Yes or No.\n\n{response}"
    )
    max_response_chars: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_question(self.question, "{response}")

    @boundary
    def __call__(self, generated_response_strs: list[str | None]) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            generated_response_strs: The responses; None where there is none.

        Returns:
            Float32, of shape (batch,), on the CPU; +inf where there is no response.
        """
        shown = [(text or "")[: self.max_response_chars] for text in generated_response_strs]
        losses = -self.score([self.question.replace("{response}", text) for text in shown])
        is_absent = torch.tensor([text is None for text in generated_response_strs])
        return torch.where(is_absent, torch.inf, losses)


def _check_question(question: str, slot: str) -> None:
    if question.count(slot) != 1:
        raise ArgumentError(f"question must hold {slot} exactly once, got {question!r}.")
