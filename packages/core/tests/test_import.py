"""What `import pellucid.core` costs and brings with it, in fresh interpreters."""

from core_samples import run_python

FORBIDDEN = ("transformers", "datasets", "accelerate", "peft", "lightning", "hydra", "litellm")


def test_core_takes_no_more_than_torch_and_three_tenths_of_a_second():
    # Torch first: its import takes ten times as long, and varies by more than core takes at all.
    # Processor time, best of three: what else the machine does must not count.
    code = """
import time, torch
began = time.process_time()
import pellucid.core
print(time.process_time() - began)
"""
    done = [run_python(code, PELLUCID_TYPECHECK=None) for _ in range(3)]
    assert min(float(run.stdout) for run in done) <= 0.3


def test_core_brings_neither_transformers_nor_any_heavy_library():
    done = run_python(
        f"import sys, pellucid.core; print([m for m in {FORBIDDEN!r} if m in sys.modules])",
        PELLUCID_TYPECHECK=None,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_core_changes_no_global_state():
    done = run_python(
        """
import logging, random, warnings
import numpy, torch
torch.manual_seed(0); random.seed(0); numpy.random.seed(0)
def state():
    return (
        torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()),
        list(warnings.filters), logging.getLogger().handlers[:], logging.getLogger().level,
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
    )
before = state()
import pellucid.core
print(before == state(), logging.getLogger("pellucid").handlers)
""",
        PELLUCID_TYPECHECK=None,
    )
    assert done.stdout.strip() == "True []", done.stderr


def test_everything_exported_is_there_and_nothing_twice():
    import pellucid.core

    names = pellucid.core.__all__
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(pellucid.core, name) is not None
