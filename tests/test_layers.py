"""The house's import rules, read from the source: downward only, and each heavy library in its one place."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "efficientnet_pod"
MODULES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))

# The others of preflight/ read texts and tables, and know nothing of a run.
PREFLIGHT_OF_RUNS = """
    targets cache compiled estimate measure remedy sweep as_json show show_programs show_sweep
""".split()
# From the bottom up; a module may import from its own layer and from those below.
LAYERS = [
    {
        "errors",
        "images",
        "inject",
        "metrics",
        "optim",
        "models",
        "pod",
        "preflight",
        "rectangles",
        "redact",
    },
    {
        "base_config",
        "fine_tuning",
        "files",
        "recipe",
        "phases",
        "plan",
        "pod.runtime",
        "progress",
        "waiting",
        "time_spent",
        "host_cores",
        "soft_files",
    },
    {"checkpoint_folder", "commit", "same_run", "state", "pod.mesh", "data", "weights"},
    {"steps", "data.pipeline", "data.prepare", "data.describe"},
    {"data.first_images"},
    {"data.in_memory"},
    {"run"},
    {"run_view"},
    {
        "checkpoint",
        "owner",
        "events",
        "records",
        "describe",
        "feed",
        "journal",
        "predictions",
        "recording",
        "trust_ratios",
        "calibration",
    },
    {"evaluate", "open_weights", "report", "evaluation_recipe", "evaluation_report"},
    {"prediction", "prediction_sheet"},
    {"initial_weights", "programs", "training_log", *(f"preflight.{name}" for name in PREFLIGHT_OF_RUNS)},
    {"model_card"},
    {"saves"},
    {"loop"},
    {"train"},
    {
        "cli",
        "command_flags",
        "data_commands",
        "evaluate_command",
        "export_command",
        "import_command",
        "predict_command",
        "preflight_command",
        "rehearsal",
        "report_command",
    },
]
ONLY_IN = {
    "flax": "models/",
    "tensorflow": ("data/", "weights/tensorflow_checkpoint.py"),
    "tensorflow_datasets": "data/",
    "orbax": "checkpoint.py",
}
COLLECTIVES = {"pmean", "psum", "pmax", "pmin", "all_gather", "axis_index", "ppermute"}


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts[1:]).removesuffix(".__init__")


def layer(name: str) -> int:
    """Returns the layer of a module, or of the nearest package around it that has one."""
    while name:
        for height, names in enumerate(LAYERS):
            if name in names:
                return height
        name = name.rpartition(".")[0]
    raise AssertionError("a module without a layer")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downward(path):
    if path.name in ("__init__.py", "__main__.py") and path.parent == Path("efficientnet_pod"):
        return
    height = layer(name_of(path))
    for imported in imports(path):
        package, _, rest = imported.partition(".")
        if package == "efficientnet_pod" and rest and not rest.startswith("__"):
            assert layer(rest) <= height, f"{path} imports {imported}, which is above it"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_heavy_libraries_stay_in_their_place(path):
    for imported in imports(path):
        place = ONLY_IN.get(imported.partition(".")[0])
        here = str(path).removeprefix("efficientnet_pod/")
        assert place is None or here.startswith(place), f"{path}: {imported}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_collectives_are_in_the_steps_and_batch_norm_only(path):
    if path.name in ("steps.py", "batch_norm.py"):
        return
    calls = [
        node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Attribute)
    ]
    assert not COLLECTIVES & {node.attr for node in calls}, path


def test_recipes_import_only_ml_collections_and_the_base_of_all():
    base = {f"efficientnet_pod.base_config.{name}" for name in ("base_config", "require_row")}
    allowed = {"ml_collections.ConfigDict", "typing.Any", "typing.NamedTuple"} | base
    for path in sorted((ROOT / "configs").glob("*.py")):
        assert imports(path.relative_to(ROOT)) <= allowed, path
    standard = {"difflib", "collections.abc.Iterable", "typing.Any"}
    assert imports(Path("efficientnet_pod/base_config.py")) == {"ml_collections.ConfigDict"} | standard


def test_the_trainer_knows_nothing_of_the_launcher():
    for path in MODULES:
        assert not any(each.partition(".")[0] == "launch" for each in imports(path)), path


def test_every_module_says_what_it_owns():
    for path in [*MODULES, *(ROOT / "launch").rglob("*.py")]:
        assert ast.get_docstring(ast.parse((ROOT / path).read_text())), path


def test_the_launcher_names_no_cloud_library_before_it_needs_one():
    for path in (ROOT / "launch").glob("*.py"):
        top = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [getattr(node, "module", None) or node.names[0].name for node in top]
        assert not any(name.partition(".")[0] in ("google", "grpc", "jax") for name in names), path


def test_importing_the_command_line_costs_no_tensorflow_and_starts_no_backend():
    import subprocess
    import sys

    program = (
        "import sys, efficientnet_pod.train, efficientnet_pod.cli; import jax._src.xla_bridge as bridge;"
        "print('tensorflow' in sys.modules, bridge.backends_are_initialized())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert printed.stdout.split() == ["False", "False"], printed.stderr
