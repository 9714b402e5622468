"""Runs single laws of a suite outside pytest's collection, to see them fail."""

import itertools

import pytest


def laws_of(contract):
    """Return the names of a suite's laws."""
    return sorted(name for name in dir(contract) if name.startswith("test_"))


def failure_of(contract, law, **members):
    """Return what a law says of a subject; None if the law holds.

    Args:
        contract: The suite.
        law: The name of one of its laws.
        **members: What a subclass of the suite would define, such as `make_model`.
    """
    suite = type(f"Test{contract.__name__}", (contract,), members)()
    method = getattr(suite, law)
    for case in _cases(method):
        try:
            method(**case)
        except pytest.skip.Exception as skipped:
            pytest.fail(f"{law} was skipped: {skipped}")
        except (Exception, pytest.fail.Exception) as error:  # any error is a failed law
            return f"{type(error).__name__}: {error}"
    return None


def _cases(method):
    marks = [m for m in getattr(method, "pytestmark", []) if m.name == "parametrize"]
    tables = [[{mark.args[0]: value} for value in mark.args[1]] for mark in marks]
    for combination in itertools.product(*tables):
        yield {name: value for row in combination for name, value in row.items()}
