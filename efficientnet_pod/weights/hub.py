"""Weights from and to the Hugging Face hub; its library keeps what it fetches in a cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        line = _first_line(error)
        has_answered = isinstance(error, errors.HfHubHTTPError | ValueError)
        # LocalEntryNotFoundError: the hub did not answer, and the cache has no copy either.
        if has_answered and not isinstance(error, errors.LocalEntryNotFoundError):
            rule = f"it must be OWNER/NAME of a repository with {WEIGHTS}"
            raise UserError(f"hf:{name} cannot be fetched: {line}; {rule}") from error
        raise RunError(
            f"hf:{name} cannot be fetched: {line}; try again where the hub can be reached"
        ) from error


def require_repository(push: str) -> str:
    """Returns the ``OWNER/NAME`` of ``hf:OWNER/NAME``, to which weights can be sent from here.

    Nothing is sent or asked over the network.

    Raises:
      UserError: it is no such name, the package is not installed, or nobody has logged in here.
    """
    name = push.removeprefix("hf:")
    if push == name or name.count("/") != 1 or "@" in name:
        raise UserError(f"--push={push} must be hf:OWNER/NAME, a repository on the hub; correct it")
    try:
        from huggingface_hub import errors, get_token, utils
    except ImportError:
        raise UserError(
            f"--push={push} needs the package huggingface_hub; pip install 'efficientnet-pod[hub]'"
        ) from None
    try:
        utils.validate_repo_id(name)
    except errors.HFValidationError as error:
        raise UserError(f"--push={push} must be hf:OWNER/NAME: {_first_line(error)}; correct it") from None
    if not get_token():
        raise UserError(
            f"--push={push} needs a token of the hub that may write; log in with `hf auth login`, or set "
            "HF_TOKEN"
        )
    return name


def push(folder: Path, files: Sequence[str], repository: str) -> str:
    """Sends files of a folder to ``OWNER/NAME`` on the hub in one commit; returns the address of the page.

    A repository that is not there is made. The token stays with the library: it is neither printed nor kept.

    Raises:
      UserError: the hub refuses it.
      RunError: the hub cannot be reached, or fails.
    """
    from huggingface_hub import HfApi, errors

    api: Any = HfApi(library_name="efficientnet-pod")
    try:
        page = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Weights exported by efficientnet-pod",
        )
    except errors.HfHubHTTPError as error:
        line, status = _first_line(error), getattr(error.response, "status_code", 0)
        if 400 <= status < 500:
            raise UserError(
                f"hf:{repository} refuses the files: {line}; the token must be one that may write there"
            ) from error
        raise RunError(f"hf:{repository} has not taken the files: {line}; send them again") from error
    except Exception as error:  # of the library's HTTP client, which has been another one before
        raise RunError(
            f"hf:{repository} cannot be reached: {_first_line(error)}; try again where the hub can be reached"
        ) from error
    return str(page)


def _first_line(error: Exception) -> str:
    return redact(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))
