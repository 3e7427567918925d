"""A trained network as ``model.onnx``, written by the Python of an environment that has jax2onnx.

jax2onnx pins an older Orbax than checkpoints here need, so it lives in an environment of its own. That one
runs :mod:`onnx_worker` on a folder of weights.
"""

import os
import subprocess
import sys
from pathlib import Path

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.weights.formats import onnx_worker


def write_onnx(folder: Path, python: str | None = None, *, flag: str = "--to=onnx") -> None:
    """Writes ``model.onnx`` into a folder of weights, and checks it in onnxruntime against JAX.

    Args:
      folder: folder with ``model.safetensors`` and ``config.json``.
      python: Python of an environment with jax2onnx and safetensors; None: this one.
      flag: flag that asked for it, for messages.

    Raises:
      UserError: there is no such Python, or it lacks a package.
      RunError: jax2onnx cannot convert the network, or onnxruntime computes other logits.
    """
    python = python or sys.executable
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTHONPATH", None)  # it would bring this environment's packages into that one
    command = [python, "-P", onnx_worker.__file__, str(folder)]
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise UserError(f"--onnx-python={python} cannot be started: {error.strerror}") from error
    last_line = (ended.stderr.strip() or ended.stdout.strip()).rpartition("\n")[2]
    if ended.returncode == onnx_worker.LACKS:
        raise UserError(
            f"{flag}: {last_line}; jax2onnx asks for an older Orbax than this program, so give it an "
            "environment of its own: python -m venv onnxenv && onnxenv/bin/pip install jax2onnx safetensors, "
            "then add --onnx-python=onnxenv/bin/python"
        )
    if ended.returncode:
        raise RunError(
            f"{flag}: {python} ended with {ended.returncode}: {last_line}; leave onnx out of "
            f"{flag.partition('=')[0]}"
        )
