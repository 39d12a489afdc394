"""On which of this machine's addresses a run can be reached: on none from outside, unless it has
processes on several hosts.

What comes in there is believed: nobody is asked who he is, and nothing is encrypted.
"""

import ipaddress


def bind_address(coordinator_address: str | None) -> str | None:
    """Where process 0 listens for the others: jax's own choice is every address of the machine.

    >>> bind_address("localhost:8476"), bind_address("10.0.0.2:8476")
    ('localhost:8476', None)

    Returns:
        The address as it is given where it is this machine's loopback; None: jax's choice.
    """
    host = "" if coordinator_address is None else coordinator_address.rpartition(":")[0]
    return coordinator_address if _is_loopback(host.strip("[]")) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host in ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
