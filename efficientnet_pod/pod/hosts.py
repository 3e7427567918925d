"""The hosts of a run: which one this is, and how they compare values and wait for each other.

Hosts talk through the key-value store of JAX's coordinator, a service inside host 0. It works while the
devices are busy. With one host every function returns at once, and nothing listens to the network.

Host 0 is the process with id 0, here and everywhere. JAX's ``process_index`` is another number: on a TPU the
runtime numbers processes by their place in the torus. Only the share of the data follows the devices
(:attr:`.runtime.Runtime.place`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

# JAX has no public name for its key-value store. Orbax and others use it; here `pod/` alone may.
from jax._src.distributed import global_state
from jax.errors import JaxRuntimeError

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod.connection import wait_until

# Between hosts that began together. One may list its images on a slow disk for minutes.
WAIT_SECONDS = 1800

_uses: Counter[str] = Counter()  # of a name on this host: all hosts must use it equally often


def index() -> int:
    """Returns this host's number, from 0: the id of its process."""
    return global_state.process_id


def count() -> int:
    """Returns the number of hosts."""
    return global_state.num_processes


def agree(name: str, mine: Mapping[str, Any]) -> None:
    """Blocks until all hosts have compared these values.

    Args:
      name: of the comparison, for the messages.
      mine: values of this host, a flat table that JSON can hold.

    Raises:
      UserError: this host's values differ from host 0's. The other hosts go on waiting until this host tells
        its failure, which ends them.
      RunError: a host did not answer.
    """
    here = json.loads(json.dumps(mine))
    first = from_first(name, here)
    odd = [field for field in dict.fromkeys([*first, *here]) if here.get(field) != first.get(field)]
    if odd:
        differences = "; ".join(
            f"{field}={_shown(here.get(field))}, host 0 {_shown(first.get(field))}" for field in odd
        )
        raise UserError(f"host {index()} sees {differences}; give all hosts the same data, code and command")
    barrier(name, seconds=WAIT_SECONDS)


def from_first(name: str, value: Any | None) -> Any:
    """Returns host 0's value on all hosts, as JSON gives it back; other hosts' values are ignored.

    Raises:
      RunError: host 0 did not answer within `WAIT_SECONDS`.
    """
    if count() == 1:
        return json.loads(json.dumps(value))
    key = _fresh_key("from_first", name)
    if index() == 0:
        store().key_value_set(key, json.dumps(value))
        return json.loads(json.dumps(value))
    return json.loads(_value_of(key, host=0, name=name))


def to_first(name: str, value: Any) -> list[Any] | None:
    """Returns on host 0 the values of all hosts in their order, as JSON gives them back; None on the others.

    Every host calls it; only host 0 waits.

    Args:
      name: of the values, for the message.
      value: of this host; a few megabytes of JSON at most, the limit of one message to the coordinator.

    Raises:
      RunError: a host did not answer within `WAIT_SECONDS`.
    """
    text = json.dumps(value)
    if count() == 1:
        return [json.loads(text)]
    key = _fresh_key("to_first", name)
    if index() > 0:
        store().key_value_set(f"{key}/{index()}", text)
        return None
    values = [json.loads(text)]
    for host in range(1, count()):
        answer = f"{key}/{host}"
        values.append(json.loads(_value_of(answer, host=host, name=name)))
        store().key_value_delete(answer)
    return values


def barrier(name: str, *, seconds: float) -> None:
    """Blocks until all hosts have come here; signals are handled meanwhile.

    Raises:
      RunError: not all hosts came within this time. The message names the missing ones.
    """
    if count() == 1:
        return
    # JAX's own barrier waits outside Python, where no signal handler runs, and names no host.
    key = _fresh_key("barrier", name)
    store().key_value_set(f"{key}/here/{index()}", "")

    def missing() -> set[int]:
        here = {int(path.rpartition("/")[2]) for path, _ in store().key_value_dir_get(f"{key}/here/")}
        return set(range(count())) - here

    def is_open() -> bool:
        if index() == 0 and not missing():
            store().key_value_set(f"{key}/open", "")
            return True
        return index() > 0 and _get(f"{key}/open") is not None

    def waiting() -> str:
        return f"host {index()} waits for {_names(missing() or {0})} to come to '{name}'"

    if not wait_until(is_open, seconds, waiting=waiting):
        raise RunError(
            f"host {index()} waited {seconds:g} s for '{name}' on all hosts; {_names(missing())} did not come"
        )


def store() -> Any:
    """Returns JAX's client of the key-value store; None with one host."""
    return global_state.client


def _fresh_key(kind: str, name: str) -> str:
    """Returns a key for this use of a name: the same on all hosts that have used the name equally often."""
    _uses[f"{kind}/{name}"] += 1
    return f"efficientnet_pod/{kind}/{name}/{_uses[f'{kind}/{name}']}"


def _value_of(key: str, *, host: int, name: str) -> str:
    """Returns the value of a key once another host has set it; RunError after `WAIT_SECONDS`."""
    words = f"for host {host} to say '{name}'"
    if not wait_until(
        lambda: _get(key) is not None, WAIT_SECONDS, waiting=lambda: f"host {index()} waits {words}"
    ):
        raise RunError(f"host {index()} waited {WAIT_SECONDS} s {words}")
    return _get(key) or ""


def _get(key: str) -> str | None:
    """Returns the value of a key; None if it has none yet."""
    try:
        return store().key_value_try_get(key)
    except JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def _names(indices: Iterable[int]) -> str:
    numbers = [str(i) for i in sorted(indices)]
    shown = ", ".join(numbers[:8]) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"host {shown}" if len(numbers) == 1 else f"hosts {shown}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
