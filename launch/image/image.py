"""The command `image`: it builds and pushes a container image with docker or with Cloud Build."""

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.errors import RunError, UserError, did_you_mean
from launch.backends.tools import require_tool
from launch.flags import PROGRAM
from launch.job.trainer_wheel import pins, trainer_wheel

ACCELERATORS = ("cpu", "tpu", "cuda")
_BUILDERS = {
    "docker": "install Docker, or build on Google's machines with --builder=cloud-build",
    "gcloud": "install the Google Cloud CLI, then run: gcloud auth login",
}
_STEPS = ("build", "push")
_DOCKERFILE = Path(__file__).with_name("Dockerfile")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*:\w[\w.-]{0,127}")


def run_image(arguments: Sequence[str]) -> None:
    """Builds or pushes an image, or prints the commands that would.

    Raises:
      UserError: the arguments are invalid, or the tool is missing.
      RunError: the tool failed.
    """
    words: list[str] = []
    values: Any = parse_flags("image", arguments, _define, words=words, program=PROGRAM)
    if len(words) != 1 or words[0] not in _STEPS:
        hint = did_you_mean(words[0], _STEPS) if words else "; it is build or push"
        raise UserError(f"image needs one step{hint}, e.g. {example_of('image', PROGRAM)}")
    if not values.tag or not _TAG.fullmatch(values.tag):
        raise UserError(f"--tag={values.tag or ''} is no name with a tag; write --tag=REGISTRY/trainer:1")
    step, by_cloud = words[0], values.builder == "cloud-build"
    if step == "push" and by_cloud:
        raise UserError("Cloud Build pushes what it has built; leave out the push, or --builder=cloud-build")
    if values.print:
        print(_shown(values, step))
        return
    require_tool("gcloud" if by_cloud else "docker", _BUILDERS["gcloud" if by_cloud else "docker"])
    with tempfile.TemporaryDirectory() as folder:
        if step == "build":
            write_context(Path(folder), values)
        _run(command(values, step, folder))
    verb = "built and pushed" if by_cloud else "built" if step == "build" else "pushed"
    after = (
        f"push it: {PROGRAM} image push --tag={values.tag}" if verb == "built" else f"--image={values.tag}"
    )
    print(f"{verb} {values.tag}; {after}")


def write_context(folder: Path, values: Any) -> None:
    """Writes the files that the image is built from: Dockerfile, wheel and constraints."""
    name, wheel = trainer_wheel()
    (folder / name).write_bytes(wheel)
    (folder / "Dockerfile").write_text(dockerfile(values), "utf-8")
    (folder / "constraints.txt").write_text(_constraints(), "utf-8")


def dockerfile(values: Any) -> str:
    """Returns the Dockerfile with the values of its arguments, for which Cloud Build has no flag."""
    text = _DOCKERFILE.read_text("utf-8")
    text = re.sub(r"(?m)^ARG PYTHON=.*$", f"ARG PYTHON={_python()}", text)
    return re.sub(r"(?m)^ARG ACCELERATOR=.*$", f"ARG ACCELERATOR={values.accelerator}", text)


def command(values: Any, step: str, folder: str) -> list[str]:
    """Returns the command of a step; `folder` has the files of `write_context`."""
    if values.builder == "cloud-build":
        words = ["gcloud", "builds", "submit", folder, f"--tag={values.tag}", "--timeout=1h"]
        return [*words, *([f"--project={values.project}"] if values.project else [])]
    if step == "push":
        return ["docker", "push", values.tag]
    return ["docker", "build", f"--tag={values.tag}", folder]


def _shown(values: Any, step: str) -> str:
    """Returns the files and the command as they would be, without making anything."""
    parts = []
    if step == "build":
        parts += [f"# ---- FOLDER/Dockerfile\n{dockerfile(values).rstrip()}"]
        parts += [f"# ---- FOLDER/constraints.txt: {_source_of_constraints()}"]
        parts += ["# ---- FOLDER/*.whl: the trainer that runs here"]
    return "\n\n".join([*parts, f"# ---- command\n{shlex.join(command(values, step, 'FOLDER'))}"])


def _python() -> str:
    """Returns the version of Python in the image, which the constraints are for."""
    return ".".join(map(str, sys.version_info[:2]))


def _clone_constraints() -> Path | None:
    """Returns the constraints of the clone that this program runs from; None for an installed wheel."""
    path = Path(__file__).parents[2] / f"constraints-{'3.11' if _python() == '3.11' else '3.12'}.txt"
    return path if path.exists() else None


def _constraints() -> str:
    path = _clone_constraints()
    return path.read_text("utf-8") if path else pins()


def _source_of_constraints() -> str:
    path = _clone_constraints()
    return path.name if path else "the versions of the packages here"


def _run(words: list[str]) -> None:
    """Runs a command with this terminal's output; raises `RunError` if it fails."""
    if code := subprocess.run(words).returncode:
        raise RunError(f"{shlex.join(words[:3])} failed with exit code {code}; its output says why")


def _define(values: flags.FlagValues) -> None:
    about = "Name of the image with its tag, as --image of submit takes it: REGISTRY/trainer:1."
    flags.DEFINE_string("tag", None, about, flag_values=values)
    about = "Processor that the packages are for."
    flags.DEFINE_enum("accelerator", "tpu", ACCELERATORS, about, flag_values=values)
    about = "Builder: docker here, or Cloud Build on Google's machines, which pushes too."
    flags.DEFINE_enum("builder", "docker", ("docker", "cloud-build"), about, flag_values=values)
    about = "Project of Google Cloud for Cloud Build; by default that of gcloud."
    flags.DEFINE_string("project", "", about, flag_values=values)
    about = "Print the files and the exact command, and do nothing."
    flags.DEFINE_bool("print", False, about, flag_values=values)
