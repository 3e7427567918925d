"""The trainer as a wheel, made from the files that run here, for a project without its source code."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import efficientnet_pod
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe import named

_PACKAGE = "efficientnet_pod"
_WHEEL = "Wheel-Version: 1.0\nGenerator: efficientnet-pod\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_LEFT_OUT = ("configs", "launcher")  # recipes may lie beside the package; workers do not launch


def trainer_wheel() -> tuple[str, bytes]:
    """Returns the name of the wheel and its bytes, which are the same for the same files.

    Source: the binary distribution format of PyPA's specifications.

    Raises:
      UserError: the trainer is not installed here, so that its requirements are not known.
    """
    try:
        installed = distribution("efficientnet-pod")
    except PackageNotFoundError as error:
        raise UserError(
            "efficientnet-pod is not installed here, so its requirements are not known; install it with pip"
        ) from error
    about = f"{_PACKAGE}-{installed.version}.dist-info"
    files = dict(_files())
    files[f"{about}/METADATA"] = (
        installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    ).encode()
    files[f"{about}/WHEEL"] = _WHEEL.encode()
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""]).encode()
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without the time of day
    return f"{_PACKAGE}-{installed.version}-py3-none-any.whl", wheel.getvalue()


def pins() -> str:
    """Returns constraints for pip: the versions of all packages here, as ``NAME==VERSION`` lines.

    Versions with a local part, such as ``+cpu``, are left out: they are found in no other place.
    """
    versions = {package.metadata["Name"]: package.version for package in distributions()}
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items()) if "+" not in version]
    return "".join(line for line in lines if not line.startswith("efficientnet-pod=="))


def _files() -> Iterator[tuple[str, bytes]]:
    package = Path(efficientnet_pod.__file__).parent
    for folder, prefix in ((package, Path(_PACKAGE)), (named.folder(), Path(_PACKAGE, "configs"))):
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            skipped = "__pycache__" in inside.parts or inside.parts[0] in _LEFT_OUT
            if path.is_file() and not skipped:
                yield str(prefix / inside), path.read_bytes()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
