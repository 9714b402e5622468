"""Makes any use of the network outside loopback an error, for the rest of the process.

An audit hook sees what every library does with Python's sockets, however it came by them; it cannot
be removed, and there is no way to allow a single test.
"""

import functools
import ipaddress
import socket
import sys
from typing import Any

_LOOPBACK_NAMES = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost"})


@functools.cache
def install() -> None:
    """Watch the sockets of this process; once is enough."""
    sys.addaudithook(_watch)


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        _check_host(args[0])
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        sock, address = args
        if sock.family in (socket.AF_INET, socket.AF_INET6) and address is not None:
            _check_host(address[0])


def _check_host(host: Any) -> None:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name is None or name in _LOOPBACK_NAMES or _is_local(name):
        return
    # Imported here, since core must not be imported before the plugin has set the environment.
    from pellucid.testing._network_error import NetworkAccessError  # noqa: PLC0415

    raise NetworkAccessError(
        f"a test reached for the network: {name!r}. Tests run offline and may use loopback only; "
        "build what you need from a config, or serve it on localhost."
    )


def _is_local(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    # The unspecified address is what servers listen on.
    return address.is_loopback or address.is_unspecified
