import inspect
import pickle

import pytest

from pellucid.core import (
    ArgumentError,
    BudgetError,
    CheckpointError,
    ContainerError,
    ContractError,
    InputsNotSetError,
    LossResolutionError,
    MissingDependencyError,
    NotDifferentiableError,
    PellucidError,
    RequirementError,
    RetokenizationError,
    TemplateError,
    UnknownNameError,
    _errors,
)

BUILTIN_KINDS = {
    ArgumentError: (AssertionError, ValueError),
    BudgetError: (AssertionError, ValueError),
    CheckpointError: (ValueError,),
    ContainerError: (ValueError, TypeError),
    ContractError: (TypeError, ValueError),
    InputsNotSetError: (AssertionError, RuntimeError),
    LossResolutionError: (LookupError,),
    MissingDependencyError: (ImportError,),
    NotDifferentiableError: (ValueError, AssertionError, TypeError),
    RequirementError: (AssertionError, TypeError),
    RetokenizationError: (RuntimeError,),
    TemplateError: (AssertionError, ValueError),
    UnknownNameError: (ValueError, LookupError),
}


def test_every_error_is_in_the_table():
    found = {
        held
        for held in vars(_errors).values()
        if inspect.isclass(held) and issubclass(held, PellucidError) and held is not PellucidError
    }
    assert found == set(BUILTIN_KINDS)


@pytest.mark.parametrize("error", BUILTIN_KINDS, ids=lambda error: error.__name__)
def test_each_is_a_pellucid_error_and_the_kind_that_users_catch(error):
    assert issubclass(error, PellucidError)
    for kind in BUILTIN_KINDS[error]:
        assert issubclass(error, kind)


def test_a_loss_resolution_error_tells_what_was_there():
    available = {"output": ["full_logits"], "input": [], "targets": ["target_vectors"]}
    error = LossResolutionError("MyLoss", "full_attentions", available)
    assert (error.loss_name, error.parameter) == ("MyLoss", "full_attentions")
    assert error.available == available
    assert str(error) == (
        "MyLoss reads 'full_attentions', which is not there (output: full_logits; input: nothing; "
        "targets: target_vectors). Use a model and a flow that provide 'full_attentions', or set "
        "it in Targets."
    )


def test_an_unknown_name_comes_with_near_matches():
    error = UnknownNameError("optimizer", "gcq", ["random-search", "gcg"])
    assert str(error) == "unknown optimizer 'gcq'. Did you mean 'gcg'?"
    assert (error.kind, error.name, error.known) == ("optimizer", "gcq", ["gcg", "random-search"])


def test_without_near_matches_all_names_are_listed():
    assert str(UnknownNameError("loss", "zzz", ["b", "a"])).endswith("Known: a, b.")
    assert str(UnknownNameError("loss", "zzz", [])).endswith("Known: none.")


@pytest.mark.parametrize(
    "error",
    [
        LossResolutionError("L", "p", {"output": ["x"]}),
        UnknownNameError("loss", "ce", ["prefill-ce"]),
        ArgumentError("k must be 1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
