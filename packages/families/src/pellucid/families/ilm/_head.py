"""What one position says of the whole text."""

from jaxtyping import Float
from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """A norm, a network with a residual stream around it, and logits of classes.

    All classes are as likely at first: the last matrix is zero.
    """

    def __init__(self, d_model: int, n_classes: int, *, layer_norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.widen = nn.Linear(d_model, 2 * d_model)
        self.narrow = nn.Linear(2 * d_model, d_model)
        self.classify = nn.Linear(d_model, n_classes)
        for linear in (self.widen, self.narrow):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_classes"]:
        """Return logits of the classes."""
        x = self.norm(x)
        return self.classify(x + self.narrow(self.widen(x).tanh()))
