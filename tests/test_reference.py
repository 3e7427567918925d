"""The documentation has all that the code has: commands, fields, files, exit codes, variables, messages."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from from_code import MARK, expand
from from_code import commands as command_reference
from from_code import fields as field_reference
from recipes import CONFIGS, phased_digits
from tiny import build_tiny_networks

from efficientnet_pod.errors import CHECKPOINTED
from efficientnet_pod.recipe.fields import all_fields
from efficientnet_pod.train.same_run import _RECORDS
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.workdir.checkpoints.commit import Commit
from efficientnet_pod.workdir.journal import ENDINGS
from efficientnet_pod.workdir.owner_record import this_process

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
MODULES = {
    path.relative_to(ROOT): ast.parse(path.read_text())
    for package in ("efficientnet_pod", "launch")
    for path in sorted((ROOT / package).rglob("*.py"))
}
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
# Names in capitals, in modules that read the environment, that are none of its variables.
NO_VARIABLES = {"CS_GNU_LIBC_VERSION", "JAX_COORDINATOR", "SC_PAGE_SIZE", "SC_PHYS_PAGES", "TEAR_DOWN"}
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
LEAST_WORDS = 8  # characters of a part of a message that must be in the source


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def section(text: str, heading: str) -> str:
    """Returns the part of a page from a heading to the next one of the same level."""
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def named(text: str, column: int = 0) -> set[str]:
    """Returns the names in a column of the tables of a text."""
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {name for row in rows if len(row) > column for name in re.findall(r"`([^`]+)`", row[column])}


def calls(name: str) -> Iterator[ast.Call]:
    """Yields the calls of functions and methods of this name in all modules."""
    for module in MODULES.values():
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and name == getattr(
                node.func, "attr", getattr(node.func, "id", "")
            ):
                yield node


def texts(node: ast.AST) -> Iterator[str]:
    """Yields the constant texts in a part of the source."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


@pytest.mark.parametrize("made", command_reference.all_commands().values(), ids=lambda made: made.name)
def test_a_command_is_on_its_page_with_all_flags_and_words(made):
    text = page("launch" if made.name.startswith("launch ") else "commands")
    assert f"<!-- from code: command {made.name} -->" in text
    assert (made.name in command_reference.WORDS) == made.takes_words, "describe its words in WORDS"
    shown = expand(f"<!-- from code: command {made.name} -->")
    assert len(made.about.split()) > 3
    for flag in command_reference.flags_of(made):
        given = flag.help.replace("(no help available)", "")
        assert len(given.split()) > 2, f"--{flag.name} needs a help text"
        assert f"`{command_reference.written(flag)}`\n: " in shown


def test_every_field_has_a_meaning_and_its_place():
    shown, names = expand(page("config")), {field.name for field in all_fields()}
    assert names >= set(field_reference.MORE)
    for field in all_fields():
        assert field_reference.table_of(field) in field_reference.TABLES
        assert f"### `{field.name}`\n" in shown, "its table is not on the page"
        assert len(field_reference.meaning(field).split()) > 2, (
            f"config.{field.name} needs a text in its docstring"
        )


def test_every_recipe_has_a_page():
    pages = {path.stem for path in (ROOT / "docs" / "recipes").glob("*.md")} - {"index"}
    assert pages == {path.stem for path in CONFIGS.glob("*.py")}
    for name in pages:
        text = (ROOT / "docs" / "recipes" / f"{name}.md").read_text()
        assert f"<!-- from code: recipe {name} -->" in text and "## Our own figures" in text


def test_every_part_that_a_page_asks_for_is_there():
    for path in (ROOT / "docs").rglob("*.md"):
        expanded = expand(path.read_text())
        assert not MARK.search(expanded) and "<!-- from" not in expanded
        for figure in re.findall(r"<figure[\s\S]*?</figure>", expanded):
            assert "\n\n" not in figure, "an empty line ends a block of HTML"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The workdir of a run that has phases, LARS, averages and an evaluation."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch)
        train_and_evaluate(phased_digits(epochs=1.2, eval_epochs=2.0, log_steps=2), str(folder))
    return folder


def test_every_file_that_a_run_leaves_is_described(workdir):
    known = named(page("workdir"))
    for path in workdir.iterdir():
        assert f"{path.name}{'/' if path.is_dir() else ''}" in known
    for name in _RECORDS:
        assert {name, f"{name}/"} & known
    in_source = {text for call in calls("write") for text in texts(call) if re.fullmatch(r"\w+\.json", text)}
    assert in_source <= known


def test_every_column_of_a_file_is_described(workdir):
    text = page("workdir")
    for file in ("plan.json", "data.json", "mesh.json", "predictions.json", "summary.json"):
        assert set(json.loads((workdir / file).read_text())) <= named(section(text, file)), file
    for file in ("metrics.jsonl", "trust_ratios.jsonl"):
        rows = [json.loads(line) for line in (workdir / file).read_text().splitlines()]
        known = set(re.findall(r"`([^`]+)`", section(text, file)))
        assert {name for row in rows for name in row} <= known, file
    assert set(Commit.__annotations__) <= named(section(text, "checkpoints"))
    assert {"run_id", "beat", *this_process()} <= named(section(text, "owner.json"))


def test_every_column_that_some_runs_alone_have_is_described():
    text, rows = page("workdir"), MODULES[Path("efficientnet_pod/train/log.py")]
    assigned = {
        target.slice.value
        for node in ast.walk(rows)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant)
    }
    assert {"skipped", "skipped_steps", "input_wait"} <= assigned <= named(section(text, "metrics.jsonl"))
    for path, key in (("weights/open.py", "origin"), ("weights/convert.py", "origin")):
        tables = [
            node
            for node in ast.walk(MODULES[Path("efficientnet_pod") / path])
            if isinstance(node, ast.keyword | ast.Assign)
            and key
            in (getattr(node, "arg", ""), *(getattr(each, "id", "") for each in getattr(node, "targets", ())))
            and isinstance(node.value, ast.Dict)
        ]
        names = {
            part.value for table in tables for part in table.value.keys if isinstance(part, ast.Constant)
        }
        assert names and names <= named(section(text, "initial.json"))


def test_every_kind_of_event_is_described_with_its_fields():
    text = section(page("workdir"), "journal.jsonl")
    rows = {next(iter(named(line))): named(line, 1) for line in text.splitlines() if line.startswith("| `")}
    written: dict[str, set[str]] = {kind: set() for kind in ENDINGS}
    for call in (*calls("write"), *calls("end"), *calls("_add")):
        if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str):
            owner = ast.unparse(call.func)
            if "journal" in owner or owner.startswith("self."):
                fields = {keyword.arg for keyword in call.keywords if keyword.arg not in (None, "step")}
                fields |= {
                    key.value
                    for part in call.args[1:]
                    if isinstance(part, ast.Dict)
                    for key in part.keys
                    if isinstance(key, ast.Constant)
                }
                written.setdefault(call.args[0].value, set()).update(fields)
    assert {"start", "saved", "output_lost", "rewound", "quarantined"} <= written.keys()
    for kind, fields in written.items():
        assert kind in rows, f"journal.jsonl has events of the kind '{kind}'"
        assert fields <= rows[kind], kind


def codes_in(node: ast.AST) -> Iterator[str]:
    """Yields the exit codes in an expression; one of a signal's number is 128 + N."""
    parts = list(ast.walk(node))
    sums = [part for part in parts if isinstance(part, ast.BinOp)]
    yield from ("128 + N" for part in sums if getattr(part.left, "value", 0) == 128)
    inside = [part for each in sums for part in ast.walk(each)]
    yield from (
        str(part.value)
        for part in parts
        if isinstance(part, ast.Constant) and type(part.value) is int and part not in inside
    )


def test_every_exit_code_is_described():
    rows = {line.split("|")[1].strip() for line in page("exit_codes").splitlines() if line.startswith("| ")}
    errors = MODULES[Path("efficientnet_pod/errors.py")]
    codes = {str(CHECKPOINTED)}
    for usage in (command_reference.trainer_cli.USAGE, command_reference.launch_cli.USAGE):
        codes.update(re.findall(r"\b\d+(?= )", usage.split("exit codes:")[1]))
    for node in ast.walk(errors):
        if isinstance(node, ast.FunctionDef) and node.name == "exit_code_of":
            codes.update(
                code for part in ast.walk(node) if isinstance(part, ast.Return) for code in codes_in(part)
            )
    for name in ("_exit", "SystemExit", "_end", "leave", "tell_failure"):
        codes.update(code for call in calls(name) if call.args for code in codes_in(call.args[-1]))
    assert {"0", "1", "2", "42", "130", "128 + N"} <= codes
    assert codes <= rows


def variables() -> set[str]:
    """Returns the names of the variables that modules read or set, and those of the start-up script."""
    names: set[str] = set()
    for module in MODULES.values():
        if re.search(r"os\.environ|\benv\b|[Vv]ariable", ast.unparse(module)):
            names |= {text for text in texts(module) if VARIABLE.fullmatch(text) and "_" in text}
        for node in ast.walk(module):
            if isinstance(node, ast.Call | ast.Subscript) and "os.environ" in ast.unparse(node)[:14]:
                key = node.args[:1] if isinstance(node, ast.Call) else [node.slice]
                names |= {text for part in key for text in texts(part)}
    script = (ROOT / "launch" / "job" / "startup.sh").read_text()
    return names | set(re.findall(r"^\w+=\"\$\{(\w+):-", script, re.MULTILINE))


def test_every_environment_variable_is_described_and_none_besides():
    text = page("environment")
    known = {name for name in named(text) if VARIABLE.fullmatch(name)}
    assert variables() - NO_VARIABLES <= known
    sources = [(ROOT / path).read_text() for path in (*MODULES, "launch/job/startup.sh")]
    elsewhere = {"TMPDIR"}  # which Python's tempfile reads
    for name in known - elsewhere:
        assert any(re.search(rf"\b{name}\b", source) for source in sources), name


def messages() -> list[str]:
    """Returns every text in the source as a message has it, with … for what is put in."""

    def text_of(node: ast.AST) -> str:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return text_of(node.left) + text_of(node.right)
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text_of, node.values))
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"

    kinds = ast.JoinedStr | ast.Constant | ast.BinOp
    return [
        text_of(node) for module in MODULES.values() for node in ast.walk(module) if isinstance(node, kinds)
    ]


QUOTED = re.findall(r"^```text\n(.+)\n```$", TROUBLES, re.MULTILINE)


def test_each_trouble_comes_with_a_message_and_a_remedy():
    titles = re.findall(r"^### (.+)\n\n```text\n.+\n```\n\n\S", TROUBLES, re.MULTILINE)
    assert len(titles) == len(QUOTED) == TROUBLES.count("\n### ") >= 20


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_still_in_the_source(quoted):
    parts = [part for part in quoted.split("…") if len(part.strip()) >= LEAST_WORDS]
    assert parts, "quote more of it"
    assert any(all(part in message for part in parts) for message in messages())
