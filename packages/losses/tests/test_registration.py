import tomllib
from pathlib import Path

import pytest

import pellucid.losses
from pellucid.core import BaseLoss, load, names

PYPROJECT = tomllib.loads(
    (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
)
DECLARED = PYPROJECT["project"]["entry-points"]["pellucid.losses"]


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_each_entry_point_gives_its_loss(name):
    assert name in names("pellucid.losses")
    loss = load("pellucid.losses", name)
    assert issubclass(loss, BaseLoss)
    assert f"pellucid.losses:{loss.__name__}" == DECLARED[name]


def test_every_concrete_loss_is_registered_and_exported():
    exported = vars(pellucid.losses)
    concrete = {
        name
        for name, held in exported.items()
        if isinstance(held, type) and issubclass(held, BaseLoss) and "__call__" in vars(held)
    }
    assert {target.partition(":")[2] for target in DECLARED.values()} == concrete
    assert concrete <= set(pellucid.losses.__all__)


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_a_loss_without_arguments_is_ready_to_use(name):
    loss = load("pellucid.losses", name)()
    assert loss.reads().required
    assert loss.get_loss_log_dict() == {}
