"""Fetches weights from the Hugging Face hub, which keeps what it has fetched."""

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.redact import redact
from efficientnet_pod.weights.reading import CONFIG, WEIGHTS


def fetch(name: str) -> str:
    """Returns the folder in the hub's cache that holds a repository's weights and configuration.

    Args:
      name: ``OWNER/NAME`` of the repository, with ``@REVISION`` behind it for one of its versions.

    Raises:
      UserError: the package is not installed, or there is no such repository.
      RunError: the hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(
            f"hf:{name} needs the package huggingface_hub; pip install 'efficientnet-pod[hub]', or fetch "
            f"{WEIGHTS} and {CONFIG} yourself and name their folder"
        ) from None
    repository, _, revision = name.partition("@")
    try:
        return snapshot_download(repository, revision=revision or None, allow_patterns=[WEIGHTS, CONFIG])
    except (HfHubHTTPError, HFValidationError) as error:
        said = redact(str(error).splitlines()[0])
        raise UserError(f"hf:{name} cannot be fetched: {said}; check its name on the hub") from error
    except (LocalEntryNotFoundError, OSError) as error:
        said = redact(str(error).splitlines()[0])
        raise RunError(
            f"hf:{name} cannot be fetched: {said}; try again where the hub can be reached"
        ) from error
