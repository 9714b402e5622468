import pytest

from pellucid.testing import OptimizerContract


class TestEveryOptimizer(OptimizerContract):
    @pytest.fixture(autouse=True)
    def choose(self, optimizer_kind):
        self.kind, self.settings = optimizer_kind

    def make_optimizer(self, model, loss, seed):
        return self.kind(model, loss, None, seed, num_steps=3, **self.settings)
