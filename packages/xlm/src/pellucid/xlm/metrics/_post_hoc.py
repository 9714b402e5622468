"""Evaluators that look at all predictions of a loader once they are written."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Any, Protocol, runtime_checkable

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._preprocessing import resolve_callable
from pellucid.xlm.sources import GRAMMARS, Grammar

Records = list[dict[str, Any]]


@runtime_checkable
class PostHocEvaluator(Protocol):
    """Judges predictions."""

    def eval(
        self, predictions: Records, tokenizer: Any = None, dataloader_name: str | None = None
    ) -> tuple[Records, dict[str, float]]:
        """Return the predictions, each with what was found, and values for all together."""
        ...


class CompositePostHocEvaluator:
    """Sends the predictions of each loader to the evaluators that are meant for it.

    Args:
        evaluators: Part of a loader's name to an evaluator, a list of them, or a mapping of names
            to them. The first part that the loader's name holds is the one; "" is in every name.
            A value that two evaluators give is logged as `evaluator/value` for the later one.
    """

    def __init__(self, evaluators: Mapping[str, Any] | None = None) -> None:
        self.evaluators = {
            pattern: _by_name(given) for pattern, given in dict(evaluators or {}).items()
        }

    def eval(
        self, predictions: Records, tokenizer: Any = None, dataloader_name: str | None = None
    ) -> tuple[Records, dict[str, float]]:
        """Judge the predictions of a loader.

        Args:
            predictions: One record per sample, with at least `text`.
            tokenizer: Of the run.
            dataloader_name: Chooses the evaluators.

        Returns:
            The records, each with what was found, and values for all together; none if no
            evaluator is meant for the loader.
        """
        name = dataloader_name or ""
        chosen = next((held for part, held in self.evaluators.items() if part in name), {})
        values: dict[str, float] = {}
        for label, evaluator in chosen.items():
            predictions, found = evaluator.eval(
                predictions, tokenizer=tokenizer, dataloader_name=dataloader_name
            )
            values |= {(f"{label}/{key}" if key in values else key): v for key, v in found.items()}
        return predictions, values


class SyntacticEvaluator:
    """The share of predictions that a judge accepts, and how varied those are.

    Args:
        grammar: One of `GRAMMARS`, or a grammar; None if `accepts` judges.
        accepts: Says of a text whether it is right; may be given by its dotted name.

    Raises:
        ArgumentError: Not exactly one judge is given.
        UnknownNameError: There is no such grammar.
    """

    def __init__(
        self,
        grammar: str | Grammar | None = None,
        *,
        accepts: Callable[[str], bool] | str | None = None,
    ) -> None:
        if (grammar is None) == (accepts is None):
            raise ArgumentError("give a grammar or accepts, one of them")
        if isinstance(grammar, str):
            if grammar not in GRAMMARS:
                raise UnknownNameError("grammar", grammar, GRAMMARS)
            grammar = GRAMMARS[grammar]
        self._grammar = grammar
        self._accepts = resolve_callable(accepts)

    def eval(
        self, predictions: Records, tokenizer: Any = None, dataloader_name: str | None = None
    ) -> tuple[Records, dict[str, float]]:
        """Add `is_valid` to each record, and return `validity`, `uniqueness` of what is valid."""
        del tokenizer, dataloader_name
        judged = [{**record, "is_valid": self._judge(record["text"])} for record in predictions]
        valid = [record["text"] for record in judged if record["is_valid"]]
        values = {
            "validity": _share(len(valid), len(judged)),
            "uniqueness": _share(len(set(valid)), len(valid)),
        }
        return judged, values

    def _judge(self, text: str) -> bool:
        if self._accepts is not None:
            return bool(self._accepts(text))
        return self._grammar is not None and self._grammar.accepts(text.split())


class UnigramEntropy:
    """How varied the tokens of a prediction are: low values betray repetition.

    To be read beside any measure of quality that repetition can please.
    """

    def eval(
        self, predictions: Records, tokenizer: Any = None, dataloader_name: str | None = None
    ) -> tuple[Records, dict[str, float]]:
        """Add `entropy` to each record, and return its mean, the mean length, and the corpus's.

        Entropies are in nats, of the tokens of a text and of those of all texts.
        """
        del dataloader_name
        tokens = [_tokens(record["text"], tokenizer) for record in predictions]
        judged = [
            {**record, "entropy": _entropy(words), "length": len(words)}
            for record, words in zip(predictions, tokens, strict=True)
        ]
        n_records = len(judged)
        values = {
            "unigram_entropy": _share(sum(record["entropy"] for record in judged), n_records),
            "corpus_entropy": _entropy([word for words in tokens for word in words]),
            "length": _share(sum(map(len, tokens)), n_records),
        }
        return judged, values


def _by_name(given: Any) -> dict[str, PostHocEvaluator]:
    named: dict[str, Any]
    if isinstance(given, Mapping):
        named = dict(given)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        named = {_label(evaluator, number): evaluator for number, evaluator in enumerate(given)}
    else:
        named = {_label(given, 0): given}
    for label, evaluator in named.items():
        if not isinstance(evaluator, PostHocEvaluator):
            raise ArgumentError(
                f"the evaluator {label!r} is {type(evaluator).__name__}, which has no eval"
            )
    return named


def _label(evaluator: Any, number: int) -> str:
    return type(evaluator).__name__ if number == 0 else f"{type(evaluator).__name__}{number}"


def _tokens(text: str, tokenizer: Any) -> Sequence[Any]:
    return text.split() if tokenizer is None else tokenizer.tokenize(text)


def _entropy(words: Sequence[Any]) -> float:
    total = len(words)
    return sum(-n / total * log(n / total) for n in Counter(words).values())


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
