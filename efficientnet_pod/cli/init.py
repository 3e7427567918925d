"""The command ``init``: a small project folder, from which a run is trained here and launched elsewhere."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.named import file_of
from efficientnet_pod.workdir.files import expanded

_MAKEFILE = """# make train; make report; make preflight TPU=v5e-8; make submit BACKEND=fake TPU=v4-16
RECIPE ?= recipe.py
WORKDIR ?= runs/first
TPU ?= v5e-8
BACKEND ?= qr
# More flags: make train ARGS="--config.epochs=5"
ARGS ?=

.PHONY: train plan report preflight submit

train:
\tefficientnet-pod train --config=$(RECIPE) --workdir=$(WORKDIR) $(ARGS)

plan:
\tefficientnet-pod plan --config=$(RECIPE) $(ARGS)

report:
\tefficientnet-pod report $(WORKDIR)

preflight:
\tefficientnet-pod preflight --config=$(RECIPE) --topology=$(TPU) $(ARGS)

# Sends the last commit. WORKDIR must be gs://BUCKET/RUN on Google Cloud.
submit:
\tefficientnet-pod launch submit --backend=$(BACKEND) --tpu=$(TPU) --workdir=$(WORKDIR) -- \\
\t\t--config=$(RECIPE) $(ARGS)
"""
_IGNORED = ".venv/\n__pycache__/\nruns/\nweights/\n"


def run_init(arguments: Sequence[str]) -> None:
    """Makes the folder and prints the next commands.

    Raises:
      UserError: the folder has files already, or there is no such recipe.
    """
    words: list[str] = []
    values = parse_flags("init", arguments, _define, words=words)
    if len(words) != 1:
        raise UserError("init needs the name of one new folder, e.g. efficientnet-pod init my-photos")
    folder, recipe = Path(expanded(words[0])), file_of(values.recipe)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' has something in it already; name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe, folder / "recipe.py")
        (folder / "Makefile").write_text(_MAKEFILE, "utf-8")
        (folder / ".gitignore").write_text(_IGNORED, "utf-8")
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written: {error.strerror}; name another folder") from error
    begun = _begin_repository(folder)
    print(
        f"{folder}: recipe.py (a copy of {values.recipe}), Makefile, .gitignore{begun}\n"
        f"train it: cd {folder} && make train\n"
        f"before a launch, which sends a commit: git add -A && git commit -m 'First recipe'"
    )


def _begin_repository(folder: Path) -> str:
    """Begins a git repository, unless the folder is in one or there is no git; returns words that say so."""
    git = ["git", "-C", str(folder)]
    try:
        is_inside = not subprocess.run([*git, "rev-parse"], capture_output=True).returncode
        is_made = not is_inside and not subprocess.run([*git, "init", "-q"], capture_output=True).returncode
    except OSError:
        return ""
    return "; a git repository" if is_made else ""


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("recipe", "finetune", "Name of the recipe to copy.", flag_values=values)
