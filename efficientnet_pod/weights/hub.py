"""Weights fetched from the Hugging Face hub; its library keeps them in a cache."""

from pathlib import Path

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.weights.foreign import CONFIG, WEIGHTS
from efficientnet_pod.workdir.redact import redact


def fetch(name: str) -> str:
    """Returns the folder in the hub's cache that holds the weights and configuration of ``OWNER/NAME``.

    ``OWNER/NAME@REVISION`` is one of the repository's versions.

    Raises:
      UserError: the package is not installed, or there is no such repository or file.
      RunError: the hub cannot be reached.
    """
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise UserError(
            f"hf:{name} needs the package huggingface_hub; pip install 'efficientnet-pod[hub]', or fetch "
            f"{WEIGHTS} and {CONFIG} yourself and name their folder"
        ) from None
    repository, _, revision = name.partition("@")
    try:
        for file in (CONFIG, WEIGHTS):
            path = hf_hub_download(repository, file, revision=revision or None)
        return str(Path(path).parent)
    except (OSError, ValueError) as error:
        line = redact(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))
        has_answered = isinstance(error, errors.HfHubHTTPError | ValueError)
        # LocalEntryNotFoundError: the hub did not answer, and the cache has no copy either.
        if has_answered and not isinstance(error, errors.LocalEntryNotFoundError):
            rule = f"it must be OWNER/NAME of a repository with {WEIGHTS}"
            raise UserError(f"hf:{name} cannot be fetched: {line}; {rule}") from error
        raise RunError(
            f"hf:{name} cannot be fetched: {line}; try again where the hub can be reached"
        ) from error
