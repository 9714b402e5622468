import itertools

import pytest
from core_samples import EmbeddingSumLoss, LengthLoss, LetterEncoder

from pellucid.core import (
    LossTextAccessMixin,
    LossTokenAccessMixin,
    MissingDependencyError,
    RequirementError,
    UnknownNameError,
    Verdict,
    check_compatibility,
    compatibility_matrix,
)


class TextSearch:
    model_requirements = (LossTextAccessMixin,)


class TokenSearch:
    model_requirements = (LossTokenAccessMixin,)


@pytest.fixture
def registered(register, monkeypatch):
    monkeypatch.setattr("core_samples.TextSearch", TextSearch, raising=False)
    monkeypatch.setattr("core_samples.TokenSearch", TokenSearch, raising=False)
    register("pellucid.models", letters="core_samples:LetterEncoder", echo="core_samples:EchoLM")
    register(
        "pellucid.optimizers", text="core_samples:TextSearch", token="core_samples:TokenSearch"
    )
    register(
        "pellucid.losses", total="core_samples:EmbeddingSumLoss", length="core_samples:LengthLoss"
    )
    return register


@pytest.mark.usefixtures("registered")
def test_every_triple_is_there_once_in_order():
    matrix = compatibility_matrix()
    triples = itertools.product(["echo", "letters"], ["text", "token"], ["length", "total"])
    assert [(c.model, c.optimizer, c.loss) for c in matrix.cells] == list(triples)
    assert matrix.unavailable == {}


@pytest.mark.usefixtures("registered")
def test_a_cell_is_what_the_classes_say():
    matrix = compatibility_matrix(models=["letters"])
    assert matrix.models == {"letters": LetterEncoder}
    assert matrix.losses == {"length": LengthLoss, "total": EmbeddingSumLoss}
    for cell in matrix.cells:
        assert matrix.cell(cell.model, cell.optimizer, cell.loss) is cell
        kind = matrix.optimizers[cell.optimizer]
        assert cell.report == check_compatibility(LetterEncoder, kind, matrix.losses[cell.loss])
    assert matrix.cell("letters", "text", "total").report.verdict is Verdict.YES
    assert matrix.cell("letters", "token", "total").report.verdict is Verdict.NO
    with pytest.raises(KeyError, match="echo"):
        matrix.cell("echo", "text", "total")


def test_what_cannot_be_imported_is_named_unless_it_was_asked_for(registered):
    registered("pellucid.models", far="no_such_module_xyz:M")
    matrix = compatibility_matrix()
    assert list(matrix.models) == ["echo", "letters"]
    assert "no_such_module_xyz" in matrix.unavailable["model far"]
    with pytest.raises(MissingDependencyError, match="no_such_module_xyz"):
        compatibility_matrix(models=["far"])


def test_unknown_names_and_what_is_no_class_are_refused(registered):
    with pytest.raises(UnknownNameError, match="lettres"):
        compatibility_matrix(models=["lettres"])
    registered("pellucid.models", function="core_samples:seeded")
    with pytest.raises(RequirementError, match="is no class"):
        compatibility_matrix()
