"""The rules of the house, read from the source: floors, rooms, and each heavy library in its one place."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top down. A room imports from itself and from floors below, never from a room beside it, so rooms
# cannot form a circle.
FLOORS = [
    {"cli"},
    {"train"},
    {"evaluate", "preflight"},
    {"run", "weights"},
    {"data", "report"},
    {"recipe", "workdir"},
    {"models", "optim", "pod"},
    {"errors"},
]
LAUNCH_FLOORS = [
    {"cli"},
    {"submit", "watch", "follow", "rehearse", "doctor", "image"},
    {"elastic", "news", "arrivals", "hooks", "pace"},
    {"recipe"},
    {"flags", "images"},
    {"backends"},
    {"workdir"},
    {"job"},
]
ONLY_IN = {
    "flax": ("efficientnet_pod/models/",),
    "tensorflow": ("efficientnet_pod/data/", "efficientnet_pod/weights/formats/tensorflow_checkpoint.py"),
    "tensorflow_datasets": ("efficientnet_pod/data/",),
    "orbax": ("efficientnet_pod/workdir/checkpoints/checkpoints.py",),
    "launch": ("launch/",),
}
COLLECTIVES = {"pmean", "psum", "pmax", "pmin", "all_gather", "axis_index", "ppermute"}
WITH_COLLECTIVES = ("run/train_step.py", "run/eval_step.py", "models/batch_norm.py")


def modules(package: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


MODULES = modules("efficientnet_pod") + modules("launch")


def imports(path: Path, *, nodes: list[ast.stmt] | None = None) -> Iterator[str]:
    """Yields the dotted names that a file imports, anywhere in it or by these statements."""
    for node in nodes if nodes is not None else ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("package, floors", [("efficientnet_pod", FLOORS), ("launch", LAUNCH_FLOORS)])
def test_rooms_import_from_floors_below_only(package, floors):
    floor = {room: height for height, rooms in enumerate(reversed(floors)) for room in rooms}
    for path in modules(package):
        here = path.with_suffix("").parts[1]
        if here.startswith("__"):
            continue
        for imported in imports(path):
            there = room_of(imported)
            if imported.split(".")[0] == package and there != here and not there.startswith("__"):
                assert floor[there] < floor[here], f"{path} imports {imported}: not from a floor below"


def test_no_files_import_each_other_in_a_circle():
    known = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    graph = {}
    for name, path in known.items():
        targets = set()
        for imported in imports(path):
            while imported and imported not in known:
                imported = imported.rpartition(".")[0]
            targets |= {imported} - {"", name, "efficientnet_pod", "launch"}
        graph[name] = targets
    while leaves := {name for name, targets in graph.items() if not targets}:
        graph = {name: targets - leaves for name, targets in graph.items() if name not in leaves}
    assert not graph, f"a circle among {sorted(graph)}"


def test_the_root_is_a_hall_and_every_file_says_what_it_is():
    entries = {path.parts[1] for path in modules("efficientnet_pod")} - {"__init__.py", "__main__.py"}
    assert {entry.removesuffix(".py") for entry in entries} == set.union(*FLOORS) and len(entries) <= 14
    for path in MODULES:
        assert ast.get_docstring(ast.parse((ROOT / path).read_text())), path


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_text_is_utf_8_whatever_the_locale(path):
    for call in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = [word.arg for word in call.keywords]
        texts = [node.value for node in call.args if isinstance(node, ast.Constant)]
        is_opened = name in ("open", "fdopen") and any(
            isinstance(text, str) and re.fullmatch("[rwxat+]+", text) for text in texts
        )
        # Two that take no encoding, for theirs is always UTF-8: ours, and that of a package's metadata.
        is_utf_8 = ast.unparse(call.func).endswith(("workdir.write_text", "installed.read_text"))
        is_text = is_opened or name in ("read_text", "write_text") and not is_utf_8
        assert not is_text or "encoding" in given or "utf-8" in texts, f"{path}:{call.lineno}"
        assert "text" not in given or name != "run", f"{path}:{call.lineno}: encoding=, not text="


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_heavy_libraries_and_collectives_stay_in_their_place(path):
    for imported in imports(path):
        place = ONLY_IN.get(imported.partition(".")[0])
        assert place is None or str(path).startswith(place), f"{path}: {imported}"
    tree = ast.walk(ast.parse((ROOT / path).read_text()))
    used = COLLECTIVES & {node.attr for node in tree if isinstance(node, ast.Attribute)}
    assert not used or str(path).endswith(WITH_COLLECTIVES), f"{path}: {used}"


def test_recipes_import_only_ml_collections_and_the_base_of_all():
    base = {f"efficientnet_pod.recipe.base_config.{name}" for name in ("base_config", "require_row")}
    allowed = {"ml_collections.ConfigDict", "typing.Any", "typing.NamedTuple"} | base
    for path in modules("configs"):
        assert set(imports(path)) <= allowed, path
    others = {"difflib", "collections.abc.Iterable", "typing.Any", "ml_collections.FieldReference"}
    base_config = Path("efficientnet_pod/recipe/base_config.py")
    assert set(imports(base_config)) == {"ml_collections.ConfigDict"} | others


def test_the_launcher_names_no_cloud_library_before_it_needs_one():
    for path in modules("launch"):
        if path.parts[1:3] == ("backends", "fake"):  # imported once --backend=fake is chosen, or as a process
            continue
        names = imports(path, nodes=ast.parse((ROOT / path).read_text()).body)
        assert not {name.partition(".")[0] for name in names} & {"google", "grpc", "jax"}, path


def test_what_a_command_imports_costs_no_tensorflow_and_starts_no_backend():
    program = (
        "import sys, efficientnet_pod.train.train, efficientnet_pod.data, efficientnet_pod.cli.main;"
        "import jax._src.xla_bridge as bridge;"
        "print('tensorflow' in sys.modules, bridge.backends_are_initialized())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert printed.stdout.split() == ["False", "False"], printed.stderr
