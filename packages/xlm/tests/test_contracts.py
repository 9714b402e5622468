import pytest
import torch
from torch import nn

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.contracts import (
    LossFunction,
    Model,
    Predictor,
    default_loader_kind,
)


class OnlyLoss(LossFunction[dict, dict]):
    def loss_fn(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        return {"loss": batch["x"].sum(), "name": dataloader_name}


class Net(Model):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.scale * self.norm(self.linear(x))


def test_calling_a_loss_computes_its_loss_function():
    out = OnlyLoss()({"x": torch.ones(2)}, dataloader_name="lm")
    assert out["loss"] == 2
    assert out["name"] == "lm"


@pytest.mark.parametrize(
    ("contract", "missing"), [(LossFunction, "loss_fn"), (Predictor, "predict"), (Model, "forward")]
)
def test_a_part_that_lacks_a_method_fails_at_construction(contract, missing):
    incomplete = type("Incomplete", (contract,), {})
    with pytest.raises(TypeError, match=missing):
        incomplete()


def test_a_loss_without_a_bound_says_so():
    with pytest.raises(RequirementError, match="OnlyLoss bounds no likelihood"):
        OnlyLoss().nll_bound({})


def test_the_two_groups_of_weights_are_a_partition():
    model = Net()
    decayed = [name for name, _ in model.get_named_params_for_weight_decay()]
    others = [name for name, _ in model.get_named_params_for_no_weight_decay()]
    assert decayed == ["linear.weight"]
    assert sorted(decayed + others) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lm", "loss"),
        ("prediction", "predict"),
        ("unconditional_prediction", "predict"),
        ("lm_prediction", "predict"),
        ("star_lm", "loss"),
    ],
)
def test_a_name_stands_for_a_kind(name, kind):
    assert default_loader_kind(name) == kind


def test_a_name_that_only_contains_lm_stands_for_nothing():
    with pytest.raises(ArgumentError, match="'film' says not whether"):
        default_loader_kind("film")
