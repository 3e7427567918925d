"""Owns the key-value store of JAX's coordinator, through which the hosts of a run talk to each other."""

from collections import Counter
from typing import Any

# JAX has no public name for its key-value store. Orbax and others use it; here `pod/` alone may.
from jax._src.distributed import global_state
from jax.errors import JaxRuntimeError

_uses: Counter[str] = Counter()


def store() -> Any:
    """Returns JAX's client of the store; None with one host."""
    return global_state.client


def fresh_key(kind: str, name: str) -> str:
    """Returns a key for this use of a name, the same on all hosts that use it equally often."""
    _uses[f"{kind}/{name}"] += 1
    return f"efficientnet_pod/{kind}/{name}/{_uses[f'{kind}/{name}']}"


def get(key: str) -> str | None:
    """Returns the value of a key, None if it has none yet."""
    try:
        return store().key_value_try_get(key)
    except JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise
