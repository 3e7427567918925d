"""The start of a process: which backend is taken, what is refused, and what a run records about itself."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax
import pytest

import efficientnet_pod
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import runtime
from efficientnet_pod.pod.runtime import programs_of_user  # which tests cannot reach as the module's


def in_a_new_process(program: str, **environment: str) -> str:
    """What a program prints in a process of its own, where no backend runs yet."""
    program = "import jax\nfrom efficientnet_pod.pod import runtime\n" + program
    # Eight virtual CPU devices through XLA's own flag would stand in for the ones under test.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def free_choice():
    """JAX as it is where nobody chose a platform (conftest chose the CPU)."""
    jax.config.update("jax_platforms", None)
    yield
    jax.config.update("jax_platforms", "cpu")


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the machine shows of accelerators."""

    def show(*found: str) -> None:
        monkeypatch.setattr(runtime, "accelerators_present", lambda: list(found))

    return show


def test_cpu_with_the_replicas_that_run_already():
    started = runtime.start("cpu", 8)
    assert started == runtime.Runtime("cpu", tuple(jax.devices()), "cpu", place=0, host_count=1)
    assert runtime.start("cpu", None) == started


def test_unknown_platform_gets_a_suggestion():
    with pytest.raises(UserError, match="unknown platform 'tpuu'; did you mean 'tpu'"):
        runtime.start("tpuu", None)


@pytest.mark.parametrize("replicas", [0, -8])
def test_replicas_must_be_positive(replicas: int):
    with pytest.raises(UserError, match=f"{replicas} CPU replicas were asked for; at least 1"):
        runtime.start("cpu", replicas)


def test_another_number_of_replicas_is_refused_once_jax_runs():
    with pytest.raises(UserError, match="4 CPU replicas were asked for, but JAX already runs with 8"):
        runtime.start("cpu", 4)


@pytest.mark.parametrize(("platform", "extra"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_an_accelerator_that_is_not_there_is_refused(platform: str, extra: str, free_choice: None):
    with pytest.raises(UserError) as refused:
        runtime.start(platform, None)
    message = str(refused.value)
    assert f"platform '{platform}' is not there: JAX runs on the cpu" in message
    assert f"'efficientnet-pod[{extra}]'" in message and "--config.platform=cpu" in message
    assert "\n" not in message


def test_any_takes_the_cpu_of_a_machine_without_accelerator(free_choice: None, signs: Callable[..., None]):
    signs()
    assert runtime.start("any", None).platform == "cpu"


def test_any_never_takes_the_cpu_instead_of_an_accelerator(free_choice: None, signs: Callable[..., None]):
    signs("/dev/nvidia0", "JAX plugin xla_cuda12")
    with pytest.raises(UserError) as refused:
        runtime.start("any", 8)
    message = str(refused.value)
    assert "(/dev/nvidia0, JAX plugin xla_cuda12) but JAX can use only the CPU" in message
    assert "--config.platform=cpu" in message and "\n" not in message


@pytest.mark.parametrize("chosen", ["cpu", "cpu,tpu"])
def test_jax_platforms_is_an_explicit_choice_of_the_cpu(
    chosen: str, free_choice: None, signs: Callable[..., None]
):
    jax.config.update("jax_platforms", chosen)
    signs("/dev/accel0")
    assert runtime.start("any", None).platform == "cpu"


def test_jax_platforms_that_prefers_an_accelerator_is_not(free_choice: None, signs: Callable[..., None]):
    jax.config.update("jax_platforms", "cuda,cpu")
    signs()
    with pytest.raises(UserError, match=r"expected \(JAX_PLATFORMS=cuda,cpu\) but JAX can use only the CPU"):
        runtime.start("any", None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Unable to initialize backend 'cuda': no driver\nlong trace"), "'cuda': no driver;"),
        (AssertionError(), "JAX says: no device found;"),
    ],
)
def test_a_backend_that_fails_to_start_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
):
    def fail() -> str:
        raise error

    monkeypatch.setattr(jax, "default_backend", fail)
    with pytest.raises(UserError) as refused:
        runtime.start("any", None)
    message = str(refused.value)
    assert said in message and "--config.platform=cpu" in message and "\n" not in message


def test_cpu_is_refused_when_an_accelerator_runs_already(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="'cpu' was asked for, but JAX already runs on the gpu"):
        runtime.start("cpu", 8)


@pytest.mark.parametrize(
    ("files", "vendors", "found"),
    [
        ([], [], []),
        (["/dev/nvidia0"], ["0x10de"], ["/dev/nvidia0"]),
        (["/dev/accel0", "/dev/accel1"], [], ["/dev/accel0", "/dev/accel1"]),
        (["/dev/vfio/0"], ["0x1ae0"], ["/dev/vfio/0"]),
        (["/dev/vfio/0"], ["0x8086"], []),  # a device handed to a virtual machine, no TPU
        (["/dev/nvidiactl"], [], []),  # a driver without a GPU for this container
    ],
)
def test_signs_of_accelerators(
    files: list[str], vendors: list[str], found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number, vendor in enumerate(vendors):
        (tmp_path / f"{number}").write_text(vendor + "\n")

    def fake_glob(pattern: str) -> list[str]:
        if pattern.startswith("/sys"):
            return [str(path) for path in tmp_path.iterdir()]
        return [name for name in files if Path(name).match(pattern)]

    monkeypatch.setattr(runtime, "glob", fake_glob)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    monkeypatch.setattr(runtime.metadata, "entry_points", lambda group: [])
    assert runtime.accelerators_present() == found


def test_an_installed_jax_plugin_is_a_sign(monkeypatch: pytest.MonkeyPatch):
    plugin = metadata.EntryPoint("xla_cuda12", "jax_plugins.xla_cuda12", "jax_plugins")
    monkeypatch.setattr(runtime, "glob", lambda pattern: [])
    monkeypatch.setattr(runtime.metadata, "entry_points", lambda group: {"jax_plugins": [plugin]}[group])
    monkeypatch.setattr(
        runtime, "version_of", lambda wheel: {"nvidia-cuda-runtime-cu12": "12.9.79"}.get(wheel)
    )
    monkeypatch.setattr(runtime, "find_library", lambda name: None)
    assert runtime.accelerators_present() == ["JAX plugin xla_cuda12"]
    monkeypatch.setattr(runtime, "find_library", {"cudart": "libcudart.so.12"}.get)
    monkeypatch.setattr(runtime, "version_of", lambda wheel: None)
    assert runtime.accelerators_present() == ["JAX plugin xla_cuda12"]
    # Without CUDA's library the plug-in can only compile for a GPU elsewhere.
    monkeypatch.setattr(runtime, "find_library", lambda name: None)
    assert runtime.accelerators_present() == []
    plugin = metadata.EntryPoint("rocm", "jax_plugins.rocm", "jax_plugins")
    monkeypatch.setattr(runtime.metadata, "entry_points", lambda group: [plugin])
    assert runtime.accelerators_present() == ["JAX plugin rocm"]


def test_a_new_process_gets_the_replicas_it_asks_for_and_caches_what_it_compiles(tmp_path: Path):
    printed = in_a_new_process(
        "import json\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized(), 'the import started a backend'\n"
        "started = runtime.start('cpu', 3)\n"
        f"with runtime.compilation_cache({str(tmp_path / 'cache')!r}):\n"
        "    jax.jit(lambda x: x + 1)(1.0).block_until_ready()\n"
        "print(json.dumps([started.platform, len(started.devices)]))",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    assert json.loads(printed.splitlines()[-1]) == ["cpu", 3]
    assert any((tmp_path / "cache").iterdir())


@pytest.mark.usefixtures("free_choice")
def test_a_machine_without_accelerator_leaves_libtpu_alone(signs: Callable[..., None]):
    signs()
    assert runtime.start("any", None).platform == "cpu"
    assert runtime._jax_option("jax_platforms") == "cpu"


def test_a_tpu_that_fails_says_why():
    printed = in_a_new_process(
        "try:\n    runtime.start('tpu', 2)\nexcept runtime.UserError as error:\n    print(error)"
    )
    assert "\n" not in printed
    assert "platform 'tpu' cannot start with jax_platforms=tpu,cpu, JAX says: Unable to initialize" in printed
    assert "'efficientnet-pod[tpu]', or choose the CPU: --config.platform=cpu" in printed


@pytest.mark.parametrize(
    ("platform", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")]
)
def test_default_compute_dtype(platform: str, dtype: str):
    assert runtime.default_compute_dtype(platform) == dtype


def test_versions_are_those_of_the_imported_packages():
    found = runtime.versions()
    assert found["jax"] == jax.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["efficientnet_pod"] == efficientnet_pod.__version__
    assert all(found[name] for name in ("jaxlib", "flax", "optax", "orbax", "tensorflow"))
    json.dumps(found)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(runtime.metadata, "version", missing)
    found = runtime.versions()
    assert found["tensorflow"] is None and found["jax"] is None


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_commit_of_clean_changed_and_untracked_folders(tmp_path: Path):
    source = tmp_path / "package"
    source.mkdir()
    (source / "code.py").write_text("one")
    assert runtime.git_commit(source) is None
    git(tmp_path, "init", "-q")
    assert runtime.git_commit(source) is None  # in a repository, but not tracked by it
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-q", "-m", "one")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert runtime.git_commit(source) == head
    (tmp_path / "venv").mkdir()
    assert runtime.git_commit(tmp_path / "venv") is None
    (source / "code.py").write_text("two")
    assert runtime.git_commit(source) == f"{head}-dirty"


def test_no_commit_without_git(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert runtime.git_commit(Path(__file__).parent) is None


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert runtime.default_cache() == Path("/somewhere/efficientnet-pod")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert runtime.default_cache() == Path("/home/me/.cache/efficientnet-pod")


def test_programs_stay_with_the_user_apart_for_each_processor(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("one", "one", "another"):
        monkeypatch.setattr(runtime, "cpu_facts", lambda name=name: {"model name": name})
        with programs_of_user():
            jax.jit(lambda x: x + 23)(1)
        jax.clear_caches()
    kept = [*(tmp_path / "efficientnet-pod" / "programs").glob("*/*-cache")]
    assert len({file.parent for file in kept}) == 2


def test_a_torn_program_is_compiled_again_without_a_word(tmp_path):
    for _ in range(2):
        with runtime.compilation_cache(tmp_path):
            assert jax.jit(lambda x: x + 31)(1) == 32  # warnings are errors here
        jax.clear_caches()
        kept = [*tmp_path.glob("*-cache")]
        for file in kept:
            file.write_bytes(file.read_bytes()[:100])
    assert kept


@pytest.mark.parametrize("is_homeless", [False, True])
def test_programs_that_nobody_can_keep_are_compiled(monkeypatch, tmp_path, is_homeless):
    def home():
        raise RuntimeError("Could not determine home directory.")  # as Python says

    if is_homeless:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(runtime.Path, "home", home)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with programs_of_user():
        assert jax.jit(lambda x: x + 29)(1) == 30
    if is_homeless:
        with pytest.raises(UserError, match="no home for caches; name a folder in XDG_CACHE_HOME"):
            runtime.default_cache()
