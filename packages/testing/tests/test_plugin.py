"""The plugin turns runtime checks on before core is imported, and the network off."""

import gc
import os
import socket
import subprocess
import sys
import threading

import jaxtyping
import pytest
import torch

import pellucid.testing
from pellucid.core import BaseTokenizer, select_topk
from pellucid.testing import NetworkAccessError, TinyTokenizer

pytest_plugins = ["pytester"]


def test_a_wrong_shape_across_a_package_boundary_names_its_axes():
    with pytest.raises(jaxtyping.TypeCheckError, match="n_candidates trigger_pos d_vocab"):
        select_topk(torch.zeros(3, 4), 1)


def test_the_environment_is_set_for_subprocesses_too():
    names = ("PELLUCID_TYPECHECK", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
    code = f"import os; print([os.environ.get(name) for name in {names!r}])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "['1', '1', 'false']"


def test_the_package_imports_nothing_until_it_is_asked():
    code = (
        "import sys, pellucid.testing._plugin\n"
        "watched = ('pellucid.core', 'torch', 'transformers')\n"
        "print([name for name in watched if name in sys.modules])\n"
        "from pellucid.testing import TinyTokenizer\n"
        "print([name for name in watched if name in sys.modules])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines() == ["[]", "['pellucid.core', 'torch']"]


@pytest.mark.parametrize("options", [[], ["-n1"]])
def test_the_first_module_of_a_package_is_checked_too(tmp_path, options):
    package = tmp_path / "pellucid" / "unheard_of"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def double(x: int) -> int:\n    return 2 * x\n")
    (tmp_path / "conftest.py").write_text("from pellucid.unheard_of import double\n")
    (tmp_path / "test_it.py").write_text(
        "import jaxtyping, pytest\n"
        "from pellucid.unheard_of import double\n"
        "def test_it():\n"
        "    with pytest.raises(jaxtyping.TypeCheckError):\n"
        "        double('a')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_setting_of_the_user_is_kept():
    code = "import os, pellucid.testing._plugin; print(os.environ['PELLUCID_TYPECHECK'])"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PELLUCID_TYPECHECK": "0"},
    )
    assert answer.stdout.strip() == "0"


@pytest.mark.parametrize(
    "use",
    [
        lambda: socket.getaddrinfo("example.com", 80),
        lambda: socket.gethostbyname("example.com"),
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    ],
    ids=["getaddrinfo", "gethostbyname", "connect", "sendto", "connect-v6"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_network_is_out_of_reach(use):
    with pytest.raises(NetworkAccessError, match=r"reached for the network: '(example|192|2001)"):
        use()


def test_a_failed_test_is_what_network_use_amounts_to(pytester):
    pytester.makepyfile("import socket\ndef test_it(): socket.getaddrinfo('example.com', 80)")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*NetworkAccessError: a test reached for the network*"])


def test_loopback_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = threading.Thread(target=lambda: server.accept()[0].close())
        answer.start()
        host, port = server.getsockname()
        for name in (host, "localhost", "::1", "::ffff:127.0.0.1", "0.0.0.0", None):
            assert socket.getaddrinfo(name, port)
        socket.create_connection((host, port), timeout=5).close()
        answer.join()


def test_unix_sockets_are_open():
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"


def test_workers_use_one_thread():
    code = (
        "import os, pellucid.testing._plugin as plugin\n"
        "import torch; torch.set_num_threads(2); plugin.pytest_collection_finish()\n"
        "print(os.environ['OMP_NUM_THREADS'], torch.get_num_threads())\n"
    )
    environment = {n: held for n, held in os.environ.items() if n != "OMP_NUM_THREADS"}
    environment["PYTEST_XDIST_WORKER"] = "gw0"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert answer.stdout.strip() == "1 1"


def test_what_was_imported_for_the_tests_is_not_searched_for_garbage():
    assert gc.get_freeze_count() > 10_000


def test_a_plugin_that_comes_too_late_says_so(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    code = "import pellucid.core, pytest, sys; sys.exit(pytest.main(['-q', 'test_it.py']))"
    environment = {n: held for n, held in os.environ.items() if n != "PELLUCID_TYPECHECK"}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    assert "imported before pytest" in answer.stdout


def test_every_export_exists():
    for name in pellucid.testing.__all__:
        assert getattr(pellucid.testing, name).__name__ == name
    assert set(pellucid.testing.__all__) <= set(dir(pellucid.testing))
    with pytest.raises(AttributeError, match="no attribute 'tiny_lama'"):
        pellucid.testing.tiny_lama  # noqa: B018 - looking it up is the test


def test_classes_are_checked_as_well():
    assert issubclass(TinyTokenizer, BaseTokenizer)
    with pytest.raises(jaxtyping.TypeCheckError):
        TinyTokenizer().encode(3)
