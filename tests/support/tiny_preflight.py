"""A preflight of the tiny network: its recipe, its flags, its programs as compiled and its report."""

import io

import pytest
from recipes import load
from rich.console import Console
from tiny import build_tiny_networks

from efficientnet_pod.preflight import compile as compile_module
from efficientnet_pod.preflight.compile import compile_run
from efficientnet_pod.preflight.estimate import estimate_run
from efficientnet_pod.preflight.show.report import print_report
from efficientnet_pod.preflight.targets import parse_target, runtime_for
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import PUBLISHED_NUMBERS, run_on

IMAGENET = PUBLISHED_NUMBERS["imagenet2012"]
KEYS = {
    "topology", "num_replicas", "per_replica_batch", "estimated_cycles", "estimated_step_ms", "optimal_ms",
    "hbm_bytes", "hbm_limit_bytes", "fits", "collectives", "images_per_second", "hours", "usd",
    "compile_seconds",
}  # fmt: skip
FLAGS = [
    "--config=configs/supercomputer.py:b5,65536",
    "--config.global_batch=32",
    "--config.bn_group_size=4",
    "--config.data.image_size=32",
    "--config.epochs=90",
]


def recipe_of(**fields):
    config = load("supercomputer.py") | {"global_batch": 32, "bn_group_size": 4, "epochs": 90.0} | fields
    config["data"]["image_size"] = 32
    return read_recipe(config)


def report(estimate):
    console = Console(width=100, markup=False, file=io.StringIO())
    print_report(estimate, console)
    return console.file.getvalue()


def compile_tiny(topology, folder, stages):
    """Returns the estimate, and the executable of each program by its name."""
    executables = {}
    compile_one = compile_module._compile

    def keep(name, phase, lowered):
        program = compile_one(name, phase, lowered)
        executables[name] = program.executable
        return program

    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch, stages)
        patch.setattr(compile_module, "_compile", keep)
        target = parse_target(topology)
        run = run_on(runtime_for(target), recipe_of(), IMAGENET)
        compilation = compile_run(run, cache=folder, machine=topology, console=Console(quiet=True))
        return estimate_run(run, target, compilation), executables
