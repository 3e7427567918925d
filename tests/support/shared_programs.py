"""Compiled programs that all processes of one test session share, so that each program is compiled once.

JAX looks a program up in its compilation cache, where there is one (the workdir of a run), and then in the
folder of the session. A new program goes to both.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface

VARIABLE = "EFFICIENTNET_POD_TEST_PROGRAMS"  # the folder of the session, in the environment


class SharedPrograms(CacheInterface):
    """The folder of the session behind JAX's own cache, which is None where JAX has none."""

    def __init__(self, session: Path, own: CacheInterface | None):
        self._path, self._own = session, own

    def get(self, key: str) -> bytes | None:
        if self._own and (program := self._own.get(key)) is not None:
            return program
        try:
            program = (self._path / key).read_bytes()
        except FileNotFoundError:
            return None
        if self._own:
            self._own.put(key, program)
        return program

    def put(self, key: str, value: bytes) -> None:
        if self._own:
            self._own.put(key, value)
        with tempfile.NamedTemporaryFile(dir=self._path, delete=False) as part:
            part.write(value)
        os.replace(part.name, self._path / key)  # another process may read it at the same time


def share_programs(host: int = 0) -> None:
    """Makes this process share its programs with the other processes of the session that are the same host.

    Does nothing in a process that no session has started.
    """
    if VARIABLE not in os.environ:
        return
    session = Path(os.environ[VARIABLE]) / f"host{host}"
    session.mkdir(parents=True, exist_ok=True)
    cache_of_jax = compilation_cache._get_cache

    def get_cache(backend: Any) -> CacheInterface | None:
        own = cache_of_jax(backend) if jax.config.jax_compilation_cache_dir else None
        # A compiler for a machine that is not here cannot load a program again.
        return SharedPrograms(session, own) if backend.platform == "cpu" else own

    compilation_cache._get_cache = get_cache
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
