"""Runs on the digits that several tests begin with, and what is left of them."""

import jax
from recipes import load

from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.programs import eval_step_of
from efficientnet_pod.run.run import open_run
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.workdir import Workdir


def fine_tuning_config(weights="", **init):
    """Six steps of 120 images from the weights."""
    fine_tuning_config = load("digits.py") | {
        "global_batch": 120,
        "epochs": 0.5,
        "eval_epochs": 0.5,
        "ema_decay": 0.5,
    }
    fine_tuning_config["schedule"]["warmup_epochs"] = 0.0
    fine_tuning_config["model"]["bn_momentum"] = 0.5
    fine_tuning_config["init"] |= {"weights": str(weights), "bn_images": 240} | init
    return fine_tuning_config


def final_state(cfg, workdir):
    run = open_run(read_recipe(cfg))
    with Checkpoints(Workdir(workdir).checkpoints) as checkpoints:
        step = checkpoints.named("latest")
        state = checkpoints.restore(step, run.abstract_state())
    return step, jax.device_get(state)


def compiled_eval_step(run):
    return eval_step_of(run, [lowered.compile() for lowered in run.lower_eval_steps()])
