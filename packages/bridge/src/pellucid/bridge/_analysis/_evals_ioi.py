"""Who was given the thing: sentences of two people, of whom one is named twice."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.core import ArgumentError

_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "John", "Mary")
_PLACES = ("park", "library", "school", "garden", "shop", "station")
_OBJECTS = ("book", "drink", "flower", "letter", "ball", "basket")
_TEMPLATES = (
    "When {first} and {second} went to the {place}, {subject} gave the {object} to",
    "After {first} and {second} met at the {place}, {subject} handed the {object} to",
    "While {first} and {second} were at the {place}, {subject} passed the {object} to",
)


class IOIDataset(Dataset[dict[str, Any]]):
    """Prompts, and the first tokens of the right name and of the wrong one.

    Wang et al. 2022, "Interpretability in the wild". Sentences are made of templates on the spot.

    Args:
        tokenizer: Of the model.
        num_samples: How many prompts.
        symmetric: Whether each prompt is followed by the one in which the people change places.
        names: Of people; those that begin with the same token as another one are left out.
        seed: Decides which sentences.
        prepend_bos: Whether prompts begin with the BOS token, if there is one.

    Raises:
        ArgumentError: (a ValueError) If the tokenizer does not tell two names apart.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_samples: int = 100,
        symmetric: bool = False,
        names: Sequence[str] = _NAMES,
        *,
        seed: int = 0,
        prepend_bos: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._bos = getattr(tokenizer, "bos_token_id", None) if prepend_bos else None
        self._firsts = {name: self._encode(" " + name)[0] for name in names}
        counts = list(self._firsts.values())
        self.names = [name for name, first in self._firsts.items() if counts.count(first) == 1]
        if len(self.names) < 2:
            raise ArgumentError(
                f"the tokenizer begins all of {list(names)!r} with one token. Pass names= that it "
                "tells apart."
            )
        drawn = self._draw(random.Random(seed), symmetric)
        self.samples = [next(drawn) for _ in range(num_samples)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `text`, `prompt`, its ids of shape (pos), and the ids `IO` and `S`."""
        text, right, wrong = self.samples[index]
        ids = [*([] if self._bos is None else [self._bos]), *self._encode(text)]
        return {
            "text": text,
            "prompt": torch.tensor(ids),
            "IO": torch.tensor(self._firsts[right]),
            "S": torch.tensor(self._firsts[wrong]),
        }

    def _draw(self, chooser: random.Random, symmetric: bool) -> Iterator[tuple[str, str, str]]:
        while True:
            right, wrong = chooser.sample(self.names, 2)
            facts = {"place": chooser.choice(_PLACES), "object": chooser.choice(_OBJECTS)}
            template = chooser.choice(_TEMPLATES)
            first, second = chooser.sample([right, wrong], 2)
            yield template.format(first=first, second=second, subject=wrong, **facts), right, wrong
            if symmetric:
                text = template.format(first=second, second=first, subject=right, **facts)
                yield text, wrong, right

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def ioi_eval(
    model: Any,
    tokenizer: Any = None,
    *,
    num_samples: int = 100,
    symmetric: bool = False,
    dataset: IOIDataset | None = None,
) -> dict[str, float]:
    """Return how well a model tells who is given the thing.

    Args:
        model: A bridge.
        tokenizer: Its tokenizer; the bridge's own if None.
        num_samples: How many prompts.
        symmetric: Whether each comes with the people's places changed as well.
        dataset: In place of one that is made here.

    Returns:
        "Logit Difference", the mean of the right name's logit less the wrong one's, and "Accuracy",
        how often it is positive.

    Raises:
        ArgumentError: (a ValueError) If there is no tokenizer.
    """
    chosen = tokenizer or model.tokenizer
    if dataset is None:
        if chosen is None:
            raise ArgumentError("ioi_eval makes text, which needs a tokenizer; pass tokenizer=.")
        dataset = IOIDataset(chosen, num_samples, symmetric)
    gaps: list[Tensor] = []
    with torch.no_grad():
        for number in range(len(dataset)):
            sample = dataset[number]
            logits = model(sample["prompt"].to(model.device))[0, -1].float()
            gaps.append((logits[sample["IO"]] - logits[sample["S"]]).cpu())
    held = torch.stack(gaps)
    return {
        "Logit Difference": float(held.mean()),
        "Accuracy": float((held > 0).float().mean()),
    }
