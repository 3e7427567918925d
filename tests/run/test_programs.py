"""The programs of a run: kept for the next start, made phase by phase, refused where memory is short."""

import dataclasses
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import jax
import pytest
from recipes import phased_digits
from tiny import build_tiny_networks

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run import programs
from efficientnet_pod.run import run as run_module
from efficientnet_pod.run.memory import Need
from efficientnet_pod.run.programs import get_programs
from efficientnet_pod.run.run import Run, open_run
from efficientnet_pod.run.train_step import compile_train_step
from efficientnet_pod.workdir.workdir import Workdir


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    """Digits in two phases on a tiny network, as `train` leaves it before it compiles."""
    build_tiny_networks(monkeypatch)
    config = phased_digits()
    run, workdir = open_run(read_recipe(config)), Workdir(tmp_path)
    seconds = "jax_persistent_cache_min_compile_time_secs"
    kept = getattr(jax.config, seconds)
    jax.config.update(seconds, 0)  # a tiny program takes less than the second from which JAX keeps it
    yield run, workdir
    jax.config.update(seconds, kept)


def test_a_second_start_finds_the_programs_of_the_first(tiny_run):
    run, workdir = tiny_run
    made = get_programs(run, workdir, start_step=1)
    left = {path.name for path in workdir.programs.iterdir() if path.name.endswith("-cache")}
    assert len(left) >= 3
    assert all(callable(made.train_step(phase)) for phase in run.plan.phases) and callable(made.eval_step)
    get_programs(run, workdir, start_step=1)
    assert {path.name for path in workdir.programs.iterdir() if path.name.endswith("-cache")} == left


@pytest.fixture
def traced(tiny_run, monkeypatch):
    """A run as on an accelerator, whose programs are traced and not compiled."""
    monkeypatch.setattr(programs, "_compile", lambda lowered, workdir: lowered)
    monkeypatch.setattr(programs, "require_memory", lambda *_, **__: Need(0, 1, None))
    run, workdir = tiny_run
    return dataclasses.replace(run, runtime=dataclasses.replace(run.runtime, platform="tpu")), workdir


def test_the_first_phase_does_not_wait_for_the_next(traced, monkeypatch):
    run, workdir = traced
    small, large = run.plan.phases
    may_begin = threading.Event()
    trace = Run.lower_train_step

    def lower(run, phase):
        assert phase is small or may_begin.wait(60)
        return trace(run, phase)

    monkeypatch.setattr(Run, "lower_train_step", lower)
    made = get_programs(run, workdir, start_step=1)
    assert "<128x16x16x3" in made.train_step(small).step.as_text()
    may_begin.set()
    assert "<256x32x32x3" in made.train_step(large).step.as_text()


def test_a_later_phase_for_which_memory_is_short_stops_the_run_before_it_begins(traced, monkeypatch):
    def require(run, program, name, *, images, **_):
        if images == 256:
            raise UserError(f"{name} takes too much")
        return Need(0, images, None)

    monkeypatch.setattr(programs, "require_memory", require)
    run, workdir = traced
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, eval_batch=64))
    small, large = run.plan.phases
    made = get_programs(run, workdir, start_step=1)
    assert made.train_step(small) and made.need.total == small.recipe.global_batch == 128
    with pytest.raises(UserError, match=f"a training step of phase {large.name} takes too much"):
        made.train_step(large)
    with pytest.raises(UserError, match="takes too much"):
        made.raise_failure()


def test_what_earlier_phases_needed_is_left_out_and_what_has_not_begun_can_be(traced, monkeypatch):
    run, workdir = traced
    small, large = run.plan.phases
    made = get_programs(run, workdir, start_step=small.last_step)
    assert "<256x32x32x3" in made.train_step(large).step.as_text()
    assert "<128x16x16x3" in made.train_step(small).step.as_text()  # made when a run rewinds into it
    started, may_end = threading.Event(), threading.Event()

    def compile_slowly(*_):
        started.set()
        may_end.wait(60)

    monkeypatch.setattr(programs, "_compile_train_step", compile_slowly)
    plan = dataclasses.replace(run.plan, phases=(small, large, dataclasses.replace(large, name="larger")))
    made = get_programs(dataclasses.replace(run, plan=plan), workdir, start_step=1)
    assert started.wait(60)
    closing = threading.Thread(target=made.close)
    closing.start()
    with pytest.raises(CancelledError):
        made.train_step(plan.phases[2])
    may_end.set()
    closing.join(60)
    assert not closing.is_alive() and made.train_step(large) is None


def test_each_phase_has_its_own_network_loss_and_images(tiny_run, monkeypatch):
    steps = {}

    def keep(step, mesh):
        steps[step.label_smoothing] = step.model
        return compile_train_step(step, mesh)

    monkeypatch.setattr(run_module, "compile_train_step", keep)
    run, _ = tiny_run
    for phase, size in zip(run.plan.phases, (16, 32), strict=True):
        lowered = run.lower_train_step(phase)
        assert lowered.in_avals[0][1]["image"].shape == (phase.recipe.global_batch, size, size, 3)
    assert (steps[0.1].dropout, steps[0.1].survival_probability) == (0.1, 0.9)
    assert (steps[0.2].dropout, steps[0.2].survival_probability) == (0.2, 0.8)
    assert run.lower_eval_steps()[0].in_avals[0][1]["image"].shape == (256, 32, 32, 3)


def test_a_phase_that_cannot_be_compiled_stops_the_run_before_it_begins():
    now, later, failed = Future(), Future(), Future()
    now.set_result(lambda state, batch: None)
    made = programs.Programs(
        lambda *_: None, None, 0.0, Need(0, 0, None), {"a": now, "b": later}, ThreadPoolExecutor(1)
    )
    made.raise_failure()  # the second one is still being compiled
    failed.set_exception(RuntimeError("out of memory"))
    made = dataclasses.replace(made, _train_steps={"a": now, "b": failed})
    with pytest.raises(RuntimeError, match="out of memory"):
        made.raise_failure()
