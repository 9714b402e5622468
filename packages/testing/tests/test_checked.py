"""checked() holds implementations to protocols, whatever they say of themselves."""

import dataclasses
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import pytest
import torch
from jaxtyping import Float, Int
from reference_optimizer import ReferenceOptimizer
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseOptimizer,
    BaseTokenizer,
    ContractError,
    LMBaseModel,
    LossTokenAccessMixin,
    PellucidError,
    TextAccessMixin,
)
from pellucid.testing import TinyLM, TinyResponseLoss, TinyTokenizer, checked


class Ranked(NamedTuple):
    ids: Int[Tensor, "batch k"]
    scores: Float[Tensor, "batch k"]


@runtime_checkable
class Scorer(Protocol):
    limit: int
    unit: ClassVar[str] = "nats"

    @property
    def bias(self) -> Float[Tensor, " d_model"]: ...

    def score(
        self,
        left: Float[Tensor, "batch d_model"],
        right: Float[Tensor, "batch d_model"],
        *,
        scale: float = 1.0,
    ) -> Float[Tensor, " batch"]: ...

    def rank(self, scores: Float[Tensor, "batch pos"], k: int) -> Ranked: ...

    def __call__(self, rows: list[Float[Tensor, " d_model"]]) -> list[str]: ...


class Sound:
    """Keeps the protocol, without a single annotation."""

    limit = 3

    @property
    def bias(self):
        return torch.zeros(4)

    def score(self, left, right, *, scale=1.0):
        return (left * right).sum(dim=-1) * scale

    def rank(self, scores, k):
        values, ids = scores.topk(k)
        return Ranked(ids, values)

    def __call__(self, rows):
        return [str(len(row)) for row in rows]


def changed(**members):
    return type("Broken", (Sound,), members)()


ONES = torch.ones(2, 4)


def test_a_sound_implementation_passes():
    scorer = checked(Sound(), Scorer)
    assert scorer.score(ONES, ONES, scale=2).tolist() == [8.0, 8.0]
    assert scorer.rank(ONES, 2).ids.shape == (2, 2)
    assert scorer([torch.ones(3)]) == ["3"]
    assert scorer.bias.shape == (4,)
    assert scorer.limit == 3


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (
            lambda s: s.score(ONES, ONES.T),
            r"argument 'right' is a tensor of float32 with shape \(4",
        ),
        (lambda s: s.score(ONES, torch.ones(3, 4)), r"left: Float\[Tensor, 'batch d_model'\]"),
        (lambda s: s.score(ONES.int(), ONES.int()), "argument 'left' is a tensor of int32"),
        (lambda s: s.score(ONES, ONES, scale="big"), "argument 'scale' is 'big', expected float"),
        (lambda s: s.score(ONES, [1.0]), "argument 'right' is a list of 1, the first of them 1.0"),
        (lambda s: s.score(ONES), "missing a required argument: 'right'"),
        (lambda s: s.score(ONES, ONES, 2.0), "too many positional arguments"),
        (lambda s: s.score(ONES, ONES, gain=2.0), "unexpected keyword argument 'gain'"),
        (lambda s: s([torch.ones(2), torch.ones(3)]), "argument 'rows' is a list of 2"),
    ],
)
def test_wrong_arguments_are_named(use, says):
    with pytest.raises(ContractError, match=says):
        use(checked(Sound(), Scorer))


@pytest.mark.parametrize(
    ("members", "use", "says"),
    [
        (
            {"score": lambda self, left, right, *, scale=1.0: left * right},
            lambda s: s.score(ONES, ONES),
            r"Broken.score breaks Scorer: the result is a tensor of float32 with shape \(2, 4\)",
        ),
        (
            {"score": lambda self, left, right, *, scale=1.0: left.sum(dim=0)},
            lambda s: s.score(ONES, ONES),
            r"shape \(4,\), expected Float\[Tensor, 'batch'\]. Axis names agree",
        ),
        (
            {"score": lambda self, left, right, *, scale=1.0: left.sum(dim=1).long()},
            lambda s: s.score(ONES, ONES),
            "a tensor of int64",
        ),
        (
            {"rank": lambda self, scores, k: Ranked(torch.zeros(2, 1).long(), torch.zeros(2, 2))},
            lambda s: s.rank(ONES, 1),
            "Broken.rank breaks Scorer: the result",
        ),
        ({"rank": lambda self, scores, k: None}, lambda s: s.rank(ONES, 1), "result is None"),
        (
            {"__call__": lambda self, rows: ["x", 7]},
            lambda s: s([ONES[0]]),
            "Broken.__call__ breaks Scorer: the result is a list",
        ),
        ({"bias": torch.zeros(2, 2)}, lambda s: s.bias, "Broken.bias breaks Scorer is a tensor"),
        ({"limit": "three"}, lambda s: s.limit, "'three', expected int"),
    ],
)
def test_wrong_results_are_named(members, use, says):
    with pytest.raises(ContractError, match=says):
        use(checked(changed(**members), Scorer))


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (lambda self, left, right: 0, "does not take 'scale'"),
        (lambda self, right, left, *, scale=1.0: 0, "does not take 'left' as argument 1"),
        (lambda self, left, *, right, scale=1.0: 0, "does not take 'right' as argument 2"),
        (lambda self, left, right, *, scale: 0, "requires 'scale', which callers may leave out"),
        (lambda self, left, right, *, scale=1.0, unit: 0, "requires 'unit'"),
        (5, "score breaks Scorer: it is 5"),
    ],
)
def test_a_signature_that_cannot_be_called_is_refused_at_once(score, says):
    with pytest.raises(ContractError, match=says):
        checked(changed(score=score), Scorer)


@pytest.mark.parametrize(
    "score",
    [
        lambda self, left, right, *, scale=1.0, more=None: left.sum(1),
        lambda self, left, right, **options: left.sum(1),
        lambda self, *operands, **options: operands[0].sum(1),
        lambda self, left, right, scale=1.0: left.sum(1),
    ],
)
def test_a_signature_that_takes_more_is_fine(score):
    assert checked(changed(score=score), Scorer).score(ONES, ONES).shape == (2,)


def test_missing_members_are_named():
    class Empty:
        limit = 3

    with pytest.raises(ContractError, match=r"Empty\.(__call__|bias)"):
        checked(Empty(), Scorer)
    with pytest.raises(ContractError, match="at least one protocol"):
        checked(Empty())


def test_the_error_is_of_builtin_kinds_too():
    for kind in (PellucidError, TypeError, ValueError):
        with pytest.raises(kind):
            checked(Sound(), Scorer).score(1, 2)


def test_the_proxy_is_an_instance_and_shares_its_state():
    @dataclasses.dataclass
    class Counter(Sound):
        count: int = 0

        def score(self, left, right, *, scale=1.0):
            self.count += 1
            return super().score(left, right, scale=scale)

    own = Counter()
    proxy = checked(own, Scorer)
    proxy.score(ONES, ONES)
    proxy.count += 1
    assert own.count == proxy.count == vars(proxy)["count"] == 2
    assert isinstance(proxy, Counter)
    assert issubclass(type(proxy), Counter)
    assert proxy.__class__ is Counter
    assert proxy == Counter(2)
    assert repr(proxy) == repr(own)
    assert dataclasses.replace(proxy, count=5) == Counter(5)
    del proxy.count
    assert "count" not in vars(own)


def test_a_method_set_on_the_object_is_checked_too():
    own = Sound()
    proxy = checked(own, Scorer)
    own.score = lambda left, right, scale=1.0: left
    with pytest.raises(ContractError, match="the result"):
        proxy.score(ONES, ONES)


def test_what_the_object_calls_on_itself_is_left_alone():
    class Lenient(Sound):
        def score(self, left, right, *, scale=1.0, wide=False):
            return left if wide else self.score(left, right, wide=True).sum(dim=-1)

    assert checked(Lenient(), Scorer).score(ONES, ONES).shape == (2,)


def test_an_object_without_a_dict():
    class Slotted:
        __slots__ = ("weight",)

        def __init__(self):
            self.weight = 2

        def scale(self, x):
            return x * self.weight

    class Scale(Protocol):
        def scale(self, x: int) -> int: ...

    own = Slotted()
    proxy = checked(own, Scale)
    proxy.weight = 3
    assert proxy.scale(2) == 6
    assert own.weight == 3
    assert isinstance(proxy, Slotted)
    with pytest.raises(ContractError):
        proxy.scale("a")


def test_an_object_whose_class_cannot_be_derived_from():
    class Call(Protocol):
        def __call__(self, x: int) -> int: ...

    class Sized(Protocol):
        def count(self, value: int, /) -> int: ...

    double = checked(lambda x: x * 2, Call)
    assert double(3) == 6
    with pytest.raises(ContractError):
        double("ab")
    row = checked((1, 2, 1), Sized)
    assert row.count(1) == 2
    assert len(row) == 3
    assert isinstance(row, tuple)


def test_several_protocols_at_once():
    class Narrow(Protocol):
        def score(
            self, left: Float[Tensor, "2 4"], right: Float[Tensor, "2 4"], *, scale: float = 1.0
        ) -> Float[Tensor, "2"]: ...

    scorer = checked(Sound(), Scorer, Narrow)
    assert scorer.score(ONES, ONES).shape == (2,)
    with pytest.raises(ContractError, match="breaks Narrow"):
        scorer.score(torch.ones(3, 4), torch.ones(3, 4))


def test_axis_names_are_free_again_at_the_next_call():
    scorer = checked(Sound(), Scorer)
    for n in (2, 3):
        scorer.score(torch.ones(n, 5), torch.ones(n, 5))


def test_errors_of_the_implementation_pass_unchanged():
    def fail(self, left, right, *, scale=1.0):
        raise ZeroDivisionError("inner")

    with pytest.raises(ZeroDivisionError, match="inner"):
        checked(changed(score=fail), Scorer).score(ONES, ONES)


def test_an_annotation_that_cannot_be_read_is_an_error():
    class Absent(Protocol):
        def use(self, x: "NotThere") -> int: ...

    class User:
        def use(self, x):
            return 1

    with pytest.raises(ContractError, match=r"Absent\.use cannot be read"):
        checked(User(), Absent)


def test_variable_arguments_and_mappings():
    class Taker(Protocol):
        def take(
            self, *rows: Float[Tensor, " pos"], **named: int
        ) -> Mapping[str, tuple[int, ...]]: ...

    class Takes:
        def take(self, *rows, **named):
            return {"sizes": tuple(len(row) for row in rows)} if named else {"sizes": (1, "2")}

    taker = checked(Takes(), Taker)
    assert taker.take(ONES[0], ONES[1], a=1) == {"sizes": (4, 4)}
    for use in (
        lambda: taker.take(ONES[0], torch.ones(3), a=1),
        lambda: taker.take(a="x"),
        lambda: taker.take(),
    ):
        with pytest.raises(ContractError):
            use()


def test_a_context_manager_is_not_held_to_its_generator():
    class Holder(Protocol):
        @contextmanager
        def hold(self) -> Any: ...

    class Holds:
        @contextmanager
        def hold(self):
            yield 1

    with checked(Holds(), Holder).hold() as held:
        assert held == 1


def test_a_third_party_model_without_annotations():
    class Foreign(LMBaseModel, TextAccessMixin):
        def invoke_from_texts(self, input_texts, **kwargs):
            return {"generated_response_strs": input_texts}

    model = checked(Foreign(), LMBaseModel, TextAccessMixin)
    with pytest.raises(ContractError, match="the result is a dict, expected ModelOutput"):
        model.invoke_from_texts(["a"])


def test_checked_parts_work_together():
    model = checked(TinyLM(), LMBaseModel, LossTokenAccessMixin)
    loss = checked(TinyResponseLoss(), BaseLoss)
    optimizer = checked(ReferenceOptimizer(model, loss, seed=1, num_steps=2), BaseOptimizer)
    from pellucid.core import Targets

    result = optimizer.optimize_trigger(
        ["Say {{OPTIMIZED_TRIGGER}}"], "abc", Targets(target_response_strs=["yes"])
    )
    assert result.best_loss <= result.initial_loss
    assert optimizer.model is model


def test_equality_of_checked_tokenizers():
    one, two = (checked(TinyTokenizer(), BaseTokenizer) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
