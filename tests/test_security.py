"""What no module may do, read from the source: unpickle, unpack anywhere, evaluate text, show secrets."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "efficientnet_pod"
MODULES = sorted(PACKAGE.rglob("*.py"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
PRINTERS = {
    *("print", "print_error", "repr", "str", "format", "dump", "dumps", "write", "write_text", "writelines"),
    *("report", "debug", "info", "warning", "warn", "error", "exception", "critical", "log", "fatal"),
}


def findings(tree: ast.AST, *, module: str = "") -> list[str]:
    """Returns what is not allowed in a module, with its line."""
    found = []
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Import):
            name = ", ".join(a.name for a in node.names if a.name.partition(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLERS:
            name = str(node.module)
        elif isinstance(node, ast.Call):
            name = _call(node)
        elif isinstance(node, ast.JoinedStr) and _has_whole_environment(node):
            name = "the environment in a text"
        elif isinstance(node, ast.For | ast.comprehension) and module != "redact":
            name = "a loop over the environment" if _has_whole_environment(node.iter) else ""
        if name:
            found.append(f"{name}, line {getattr(node, 'lineno', '?')}")
    return found


def _call(node: ast.Call) -> str:
    function, keywords = node.func, {word.arg: word.value for word in node.keywords}
    called = getattr(function, "attr", getattr(function, "id", ""))
    if isinstance(function, ast.Name) and called in ("eval", "exec", "__import__"):
        return called
    allowed = keywords.get("allow_pickle")
    if allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False):
        return "allow_pickle"
    if called in ("extractall", "extract", "unpack_archive"):
        how = keywords.get("filter")
        if not (isinstance(how, ast.Constant) and how.value == "data"):
            return f"{called} without filter='data'"
    arguments = [*node.args, *keywords.values()]
    if called in PRINTERS and any(map(_has_whole_environment, arguments)):
        return f"{called} of the environment"
    return ""


def _has_whole_environment(tree: ast.AST) -> bool:
    """Returns whether ``os.environ`` stands in the tree other than for one variable."""
    single = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            single.add(id(node.value))
        elif isinstance(node, ast.Attribute) and node.attr in ("get", "pop", "setdefault"):
            single.add(id(node.value))
        elif isinstance(node, ast.Compare):
            single |= {id(each) for each in node.comparators}
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("environ", "environb") and id(node) not in single
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_does_nothing_that_is_not_allowed(path):
    assert findings(ast.parse(path.read_text()), module=path.stem) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import marshal as m",
        "from dill import loads",
        "def f():\n  import cloudpickle.x",
        "np.load(file, allow_pickle=True)",
        "np.load(file, allow_pickle=flag)",
        "tar.extractall(folder)",
        "tar.extractall(folder, filter='tar')",
        "shutil.unpack_archive(file, folder)",
        "eval(text)",
        "exec(text)",
        "print(os.environ)",
        "json.dumps(dict(os.environ))",
        "f'{os.environ}'",
        "log.info('started', dict(os.environ))",
        "[f'{k}={v}' for k, v in os.environ.items()]",
    ],
)
def test_what_is_not_allowed_is_found(source):
    assert findings(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "tar.extractall(folder, filter='data')",
        "np.load(file, allow_pickle=False)",
        "model.eval()",
        "subprocess.run(command, env={**os.environ, 'A': 'b'})",
        "print(os.environ['HOME'], os.environ.get('A'), 'A' in os.environ)",
    ],
)
def test_what_is_allowed_is_not_found(source):
    assert not findings(ast.parse(source))
