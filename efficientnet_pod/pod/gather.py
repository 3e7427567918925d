"""Owns how host 0 hears from each of the other hosts."""

import json
from typing import Any

from efficientnet_pod.errors import RunError
from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.connection import wait_until
from efficientnet_pod.pod.store import fresh_key, get, store


def to_first(name: str, value: Any) -> list[Any] | None:
    """Returns on host 0 the values of all hosts in their order, as JSON gives them back; None on the others.

    Every host calls it; only host 0 waits.

    Args:
      name: what it is, for the message.
      value: of this host; up to a few megabytes of JSON, what one message to the coordinator may hold.

    Raises:
      RunError: a host did not say within `hosts.WAIT_SECONDS`.
    """
    text = json.dumps(value)
    if hosts.count() == 1:
        return [json.loads(text)]
    key = fresh_key("to_first", name)
    if hosts.index() > 0:
        store().key_value_set(f"{key}/{hosts.index()}", text)
        return None
    values = [json.loads(text)]
    for host in range(1, hosts.count()):
        said = f"{key}/{host}"
        if not wait_until(lambda said=said: get(said) is not None, hosts.WAIT_SECONDS):
            raise RunError(f"host 0 waited {hosts.WAIT_SECONDS} s for host {host} to say '{name}'")
        values.append(json.loads(get(said) or ""))
        store().key_value_delete(said)
    return values
