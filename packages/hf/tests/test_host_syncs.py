"""How often the host waits for the model's device in a step of GCG."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.hf._passes import TriggerPasses
from pellucid.testing import tiny_llama, tiny_tokenizer

N_TRIGGER = 5
# What gives the host a number, or a tensor whose shape it has to know.
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
READS |= {"aten::is_nonzero", "aten::unique_dim", "aten::_unique2", "aten::bincount"}


class Syncs(TorchFunctionMode):
    """Counts what would make the host wait, were the model on an accelerator.

    A CPU stands in for it: what `Tensor.cpu` returns or is made without naming a device lies on the
    host, and so does all that is computed from that alone. Every other tensor is taken for one of
    the device.
    """

    def __init__(self):
        super().__init__()
        self.names = []
        self._host = {}
        self._dispatch = _Reads(self)

    def __enter__(self):
        self._dispatch.__enter__()
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self._dispatch.__exit__(*raised)

    def is_on_host(self, tensors, kwargs):
        if not tensors:
            return "device" not in kwargs
        return all(id(tensor) in self._host for tensor in tensors)

    def keep_on_host(self, result):
        for tensor in tensors_of(result):
            self._host[id(tensor)] = tensor  # kept, so that no other tensor gets its id
        return result

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors_of((args, kwargs))
        is_on_host = self.is_on_host(given, kwargs)
        if func in (torch.Tensor.cpu, torch.Tensor.tolist) and not is_on_host:
            self.names.append(func.__name__)
            with self._dispatch.paused():
                return self.keep_on_host(func(args[0].clone(), *args[1:], **kwargs))
        if func is torch.Tensor.to:  # to the model's device
            return func(*args, **kwargs).clone()
        if not is_on_host:
            return func(*args, **kwargs)
        with self._dispatch.paused():
            return self.keep_on_host(func(*args, **kwargs))


class _Reads(TorchDispatchMode):
    """Sees the operators of the model as well, which are not called from Python."""

    def __init__(self, syncs):
        super().__init__()
        self._syncs = syncs
        self._n_paused = 0

    def paused(self):
        return _Pause(self)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        is_masked = name == "aten::index" and any(
            i.dtype == torch.bool for i in tensors_of(args[1])
        )
        if (name in READS or is_masked) and not self._n_paused:
            self._syncs.names.append(name)
        return func(*args, **(kwargs or {}))


class _Pause:
    def __init__(self, reads):
        self._reads = reads

    def __enter__(self):
        self._reads._n_paused += 1

    def __exit__(self, *raised):
        self._reads._n_paused -= 1


def tensors_of(held):
    if isinstance(held, torch.Tensor):
        return [held]
    if isinstance(held, dict):
        held = list(held.values())
    if isinstance(held, (list, tuple)):
        return [tensor for one in held for tensor in tensors_of(one)]
    return []


@pytest.fixture
def lm(monkeypatch, made):
    """A model whose prefix has been computed."""
    # On a CPU alone, ids are looked at before they are used.
    monkeypatch.setattr(TriggerPasses, "_check_candidates", lambda self, ids: ids)
    model = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer(), forward_pass_batch_size=16)
    model.set_inputs_from_tokens(
        ["Why is it so?\n" + made.templates[0]], Targets(target_response_strs=["Yes, it is."])
    )
    step(model, made.PrefillCE(), torch.randint(0, 384, (1, N_TRIGGER)))
    return model


def step(lm, loss, ids):
    """Take the gradient's best tokens, and the losses of candidates with one of them each."""
    tops = lm.compute_topk_from_tokens(loss, ids, 8).token_ids[0]
    rows = ids.repeat(64, 1)
    at = torch.arange(64) % N_TRIGGER
    rows[torch.arange(64), at] = tops[at, torch.arange(64) % 8]
    return lm.compute_loss_from_tokens(rows, loss)


def test_the_host_waits_at_most_twice_a_step(lm, made):
    ids = torch.randint(0, 384, (1, N_TRIGGER))
    with Syncs() as syncs:
        losses = step(lm, made.PrefillCE(), ids)
    assert losses.isfinite().all()
    # The candidates are looked at once, to see what they share.
    assert syncs.names == ["cpu"]


def test_what_makes_the_host_wait_is_seen():
    values = torch.arange(4)
    with Syncs() as syncs:
        values = values * 2
        on_host = values.cpu()
        assert int(on_host.max()) == 6
        assert on_host.tolist() == [0, 2, 4, 6]
        assert int(values.max()) == 6
        assert values[values > 2].tolist() == [4, 6]
    assert syncs.names == ["cpu", "aten::_local_scalar_dense", "aten::index", "tolist"]
