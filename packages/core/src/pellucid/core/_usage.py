"""What a model was asked to do: tokens, calls, samples and, where it can be counted, FLOPs."""

import dataclasses


@dataclasses.dataclass(kw_only=True)
class UsageStats:
    """Counters of one model, updated where the raw call is made and nowhere else."""

    total_tokens: int = 0
    forward_calls: int = 0
    forward_samples: int = 0
    grad_calls: int = 0
    grad_samples: int = 0
    total_flops: int = 0

    def to_dict(self, *, with_flops: bool) -> dict[str, int]:
        """Return the counters by name, FLOPs only when they are counted."""
        counters = dataclasses.asdict(self)
        if not with_flops:
            del counters["total_flops"]
        return counters
