"""Every command and snippet of the documents is run, or read by its own parser, or has a reason."""

import re
import shlex
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import lessons
import pytest
from ml_collections import ConfigDict
from photos import encoded, photo
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.cli import flags as cli_flags
from efficientnet_pod.cli import main as cli
from efficientnet_pod.cli.help import CALLS, TRAINER, example_of
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.recipe.fields import without_effect
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import PUBLISHED_NUMBERS
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.trained import Trained, untrained
from launch import cli as launch_cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *map(str, PAGES))
# Blocks are fenced, or indented by four spaces behind an empty line.
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")
COMMANDS = ("", "bash", "python")  # in fences; `text` is no command, and {…} is a directive
LESSONS = "docs/tutorials/"  # tests/test_tutorials.py runs them; here their calls of our programs are read
COMMAND = re.compile(
    r"efficientnet-pod (?:train|preflight) --\S+(?:\s+--\S+)*"
)  # in the docstring of a recipe
# What neither of our command lines reads: what of it is looked up, and why it is not run.
OTHERS = {
    "make": "a target of the Makefile; it installs, or takes minutes",
    "pytest": "a file of tests, which `make test` runs",
    "gcloud": "of Google's command line, which asks for credentials; its flags were looked up in its help",
    "python -m venv": "a file of requirements; it installs packages",
}
MODULES = [f"efficientnet_pod.cli.{cli._MODULES.get(word, word)}" for word in cli.COMMANDS]
MODULES += [
    f"launch.{name}"
    for name in ("flags", "follow", "rehearse", "doctor.doctor", "image.image", "submit", "watch")
]


class Parsed(BaseException):
    """Ends a command that has read its flags; our command lines let it through."""

    def __init__(self, values: Any):
        super().__init__()
        self.values = values


def blocks(document: str) -> list[str]:
    """Returns the blocks of a document without indentation and fences; of a lesson its calls alone."""
    text = (ROOT / document).read_text()
    if document.startswith(LESSONS):
        shell = [step.code for step in lessons.steps_of(text) if step.kind == "shell"]
        return [call for code in shell for line in code.splitlines() for call in calls_of(line)]
    found = [block for _, kind, block in lessons.FENCE.findall(text) if kind in COMMANDS]
    found += INDENTED.findall(lessons.FENCE.sub("", text))
    return [textwrap.dedent(block).strip() for block in found]


def calls_of(line: str) -> list[str]:
    """Returns the calls of our two programs in a line of the shell, without what the shell makes of them."""
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        return []  # a part of a text over several lines
    calls: list[list[str]] = [[]]
    for word in words:
        if word.strip("();<>|&"):
            calls[-1].append(word)
        else:
            calls.append([])
    programs = (["efficientnet-pod"], ["python", "-m", "launch"])
    return [shlex.join(call) for call in calls if any(call[: len(own)] == own for own in programs)]


def is_python(block: str) -> bool:
    return block.startswith(("import ", "from "))


def commands() -> list[str]:
    """Returns the commands of the documents, of the recipes' docstrings and of the usages."""
    found: list[str] = []
    for block in (block for document in DOCUMENTS for block in blocks(document) if not is_python(block)):
        lines = block.splitlines()
        shown = [line[2:] for line in lines if line.startswith("$ ")] or lines  # the others are output
        found += [part.strip() for line in shown if line for part in line.split("&&")]
    for path in sorted((ROOT / "configs").glob("*.py")):
        found += [" ".join(match.split()) for match in COMMAND.findall(path.read_text().split('"""')[1])]
    names = [(name, "efficientnet-pod launch" if name in launch_cli.COMMANDS else TRAINER) for name in CALLS]
    found += [example_of(name, program) for name, program in names]
    usages = (cli.USAGE, import_module("efficientnet_pod.cli.data").USAGE, launch_cli.USAGE)
    found += [
        line.removeprefix("example: ")
        for usage in usages
        for line in usage.splitlines()
        if "example: " in line
    ]
    return list(dict.fromkeys(found))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_COMPUTE_ZONE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def parsing(monkeypatch):
    """Lets every command end once its flags are read."""
    real = cli_flags.parse_flags
    # A workdir that is named alone holds a recipe.
    monkeypatch.setattr(cli_flags, "_stored_recipe", lambda folder: ConfigDict(load("digits.py")))

    def parse_flags(*arguments, **options):
        raise Parsed(real(*arguments, **options))

    for module in map(import_module, MODULES):
        if hasattr(module, "parse_flags"):
            monkeypatch.setattr(module, "parse_flags", parse_flags)


def flags_of(main: Any, words: list[str], capsys) -> Any:
    """Returns the flags of a command as its own parser reads them; a recipe among them must resolve."""
    with pytest.raises(Parsed) as parsed:
        code = main(words)
        pytest.fail(f"{shlex.join(words)} ended with {code}: {capsys.readouterr().err}")
    values = parsed.value.values
    if "config" in values and values.config:
        recipe = read_recipe(values.config.to_dict())
        numbers = vars(PUBLISHED_NUMBERS["imagenet2012"])
        replicas = recipe.bn_group_size
        resolve(recipe, **numbers, num_devices=replicas, num_hosts=1, default_dtype="float32")
        assert not without_effect(recipe, cli_flags.overrides_of(values))
    return values


@pytest.mark.parametrize("command", commands())
def test_a_command_is_one_that_there_is(command, parsing, capsys):
    words = shlex.split(command, comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    program = next((name for name in OTHERS if words[: len(name.split())] == name.split()), words[0])
    if program == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):  # takes minutes
        source = (ROOT / f"{words[2].replace('.', '/')}.py").read_text()
        assert all(f'"{word.partition("=")[0]}"' in source for word in words[3:])
    elif program in OTHERS or program.startswith("onnxenv/"):
        files = [word for word in words if word.endswith((".py", ".txt"))]
        assert all((ROOT / file).exists() for file in files)
    else:
        assert words.pop(0) == "efficientnet-pod", "say in OTHERS how this command is checked"
        main = cli.main
        if words[0] == "launch":
            main, words = launch_cli.main, words[1:]
        if main is launch_cli.main or words[0] == "pod":
            end = words.index("--") if "--" in words else len(words)
            words, behind = words[:end], words[end + 1 :]
            if behind:
                own = ["train", "--workdir=x", *behind] if main is launch_cli.main else behind
                flags_of(cli.main, own, capsys)
        flags_of(main, words, capsys)


JOBS = [command for command in commands() if re.match(r"efficientnet-pod launch (submit|render) ", command)]


@pytest.mark.parametrize("command", JOBS)
def test_a_job_can_be_rendered_and_its_workers_find_their_images(command, capsys):
    if "--backend=fake" in command:
        pytest.importorskip("google.cloud.tpu_v2", reason="needs the extra 'launch'")
    assert launch_cli.main(["render", *shlex.split(command)[3:]]) == 0
    printed = capsys.readouterr().out
    (images,) = re.findall("^# images: .*$", printed, re.MULTILINE)
    assert "refuses" not in images


@pytest.mark.parametrize(
    "command", [line for line in commands() if line.startswith("efficientnet-pod plan ")]
)
def test_a_plan_is_printed_without_a_warning(command, monkeypatch, capsys):
    build_tiny_networks(monkeypatch)  # whose operations are counted sooner
    assert cli.main(shlex.split(command)[1:]) == 0
    assert "warning" not in capsys.readouterr().out


def test_every_snippet_runs(monkeypatch, tmp_path, capsys):
    """In the order of the document, on networks of one block in the folders that it names."""
    snippets = [block for document in DOCUMENTS for block in blocks(document) if is_python(block)]
    assert snippets and "ep.predictor" in "".join(snippets)
    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch)
        for name, classes in (("runs/digits", tuple("0123456789")), ("weights/lite0", ("cat", "dog"))):
            (tmp_path / name).parent.mkdir()
            variables = initial_variables(untrained("b0", len(classes)), 32, seed=0)
            write_folder(Trained("b0", variables, classes, 32), tmp_path / name)
        (tmp_path / "cat.jpg").write_bytes(encoded(photo(0), "JPEG"))
        monkeypatch.chdir(tmp_path)
        for snippet in snippets:
            exec(compile(snippet, "README.md", "exec"), {"__name__": "snippet"})
    printed = capsys.readouterr().out.split()
    assert "cat.jpg" in printed and "cat" in printed


def test_calls_are_found_between_the_words_of_the_shell():
    line = "efficientnet-pod train --workdir='a b' & ls; (efficientnet-pod launch status) > x"
    line += " || efficientnet-pod report a"
    assert calls_of(line) == [
        "efficientnet-pod train '--workdir=a b'",
        "efficientnet-pod launch status",
        "efficientnet-pod report a",
    ]
    assert calls_of("efficientnet-pod pod -- train") == ["efficientnet-pod pod -- train"]
