"""Programs compiled by another process: this one finds them, and does without where that process fails."""

import jax
import pytest
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod import programs
from efficientnet_pod.programs import get_programs
from efficientnet_pod.recipe import read_recipe
from efficientnet_pod.records import Workdir
from efficientnet_pod.run import open_run


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    """The digits recipe on a tiny network, as `train` leaves it before it compiles."""
    build_tiny_networks(monkeypatch)
    config = load("digits.py")
    run, workdir = open_run(read_recipe(config)), Workdir(tmp_path)
    workdir.claim(config)
    workdir.write("plan.json", run.plan.as_dict())
    seconds = "jax_persistent_cache_min_compile_time_secs"
    kept = getattr(jax.config, seconds)
    jax.config.update(seconds, 0)  # a tiny program takes less than the second from which JAX keeps it
    yield run, workdir
    jax.config.update(seconds, kept)


def test_what_the_other_process_compiles_is_what_this_one_needs(tiny_run, monkeypatch):
    run, workdir = tiny_run
    programs._compile_for(workdir)
    left = {path.name for path in workdir.programs.iterdir() if path.name.endswith("-cache")}
    assert len(left) >= 2
    monkeypatch.setattr(programs, "_start_compiler", pytest.fail)
    get_programs(run, workdir, start_step=1, apart=True)
    assert {path.name for path in workdir.programs.iterdir() if path.name.endswith("-cache")} == left


def test_compiles_itself_where_the_other_process_fails(tiny_run, monkeypatch):
    run, workdir = tiny_run
    exit_codes = []

    def start(workdir):
        (workdir.path / "config.json").write_text("{}")
        child = start_compiler(workdir)
        exit_codes.append(child.wait())
        return child

    workdir.programs.mkdir()  # what an interrupted start leaves does not count
    start_compiler = programs._start_compiler
    monkeypatch.setattr(programs, "_start_compiler", start)
    made = get_programs(run, workdir, start_step=1, apart=True)
    assert exit_codes == [1]
    assert callable(made.train_step(run.plan.phases[0])) and callable(made.eval_step)
