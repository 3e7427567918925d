"""The fewest replicas that fit: found by what programs need, kept by the run, the same on all hosts."""

import dataclasses
import json

import pytest
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import UserError
from efficientnet_pod.preflight import estimate as estimates
from efficientnet_pod.preflight.preflight import Preflight
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.recipe.rules import possible_replicas
from efficientnet_pod.run.auto_replicas import fewest_replicas
from efficientnet_pod.run.memory import Need
from efficientnet_pod.train import start
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.workdir.metrics_log import read_metrics
from efficientnet_pod.workdir.workdir import Workdir


def config_of(name, fields):
    config = load(name)
    for field, value in fields.items():
        table, _, last = field.rpartition(".")
        (config[table] if table else config)[last] = value
    return config


POWERS = [2**n for n in range(10)]


@pytest.mark.parametrize("limit", [3, 5, 7, 9, 20, 70, 1000])
@pytest.mark.parametrize("bend", [0.0, 0.3])
def test_the_first_number_that_fits_is_found_in_few_steps(limit, bend):
    tried = []

    def needs(replicas):  # 2 at any batch, and 1,000 with all of it; a bend makes small batches dearer
        tried.append(replicas)
        return [Need(2, round(1000 * replicas ** (bend - 1)), limit), Need(1, 0, limit)]

    found = fewest_replicas(POWERS, needs)
    fits = [n for n in POWERS if 2 + round(1000 * n ** (bend - 1)) <= limit]
    assert found == (fits or POWERS)[0] if fits else found == POWERS[-1]
    assert len(tried) <= 6 and len(set(tried)) == len(tried)


def test_a_refusal_without_a_number_leads_to_the_next():
    sizes = {1: None, 2: None, 4: Need(0, 90, 100)}
    assert fewest_replicas([1, 2, 4, 8], lambda n: [Need(0, 1, 100), sizes[n]]) == 4


def test_a_share_of_the_memory_is_left_to_others():
    assert fewest_replicas([1, 2, 4], lambda n: [Need(0, 95 // n, 100)], room=0.9) == 2


def test_the_host_that_has_least_decides():
    def other(place):  # another host, whose memory takes four replicas
        return max(place, 2)

    assert fewest_replicas([1, 2, 4, 8], lambda n: [Need(0, 1, 100)], agreed=other) == 4


@pytest.mark.parametrize(
    ("fields", "devices", "possible"),
    [
        ({"global_batch": 24}, 1, [1, 2, 3, 4, 6, 8, 12, 24]),
        ({"global_batch": 24}, 4, [4, 8, 12, 24]),
        ({"global_batch": 24, "bn_group_size": 4}, 2, [4, 8, 12, 24]),
        ({"global_batch": 24, "bn_group_size": 2}, 4, [4, 8, 12, 24]),
    ],
)
def test_what_divides_is_possible(fields, devices, possible):
    recipe = read_recipe(config_of("digits.py", {"bn_group_size": 1, "replicas": "auto"} | fields))
    assert possible_replicas(recipe, devices) == possible


def test_a_replica_has_whole_ghosts():
    recipe = read_recipe(load("cifar10.py:tricks") | {"global_batch": 96, "replicas": "auto"})
    assert recipe.model.ghost_batch == 32
    assert possible_replicas(recipe, 1) == [1, 3]


def test_phases_divide_too():
    config = load("imagenet18.py:1") | {"replicas": "auto"}
    batches = {phase.get("global_batch") or config["global_batch"] for phase in config["phases"].values()}
    assert len(batches) > 1
    found = possible_replicas(read_recipe(config), 8)
    assert found and all(batch % n == 0 for batch in batches for n in found)


def test_where_nothing_is_possible_the_rule_is_said():
    recipe = read_recipe(load("digits.py") | {"global_batch": 30, "replicas": "auto", "bn_group_size": 1})
    with pytest.raises(UserError, match=r"global_batch=30 is not a multiple of the 8 replicas"):
        possible_replicas(recipe, 8)


FIELDS = {
    "replicas": "auto",
    "bn_group_size": 8,
    "global_batch": 120,
    "epochs": 120 / 1437,
    "model.dtype": "float32",
}


def leave_room_for(monkeypatch, replicas):
    """Makes a step of fewer replicas larger than the free memory, of which a start takes nine tenths."""
    ask = start.needs_of

    def needs_of(run, workdir):
        part = {"fixed": 0, "by_batch": 890_000 // run.plan.num_replicas, "limit": 1_000_000 // replicas}
        return [dataclasses.replace(need, **part) for need in ask(run, workdir) if need]

    monkeypatch.setattr(start, "needs_of", needs_of)


def test_a_run_keeps_the_number_that_it_has_found(tmp_path, monkeypatch, capsys):
    build_tiny_networks(monkeypatch)
    workdir = tmp_path / "run"
    config = config_of("digits.py", FIELDS)
    with pytest.MonkeyPatch.context() as patch:
        leave_room_for(patch, 24)
        train_and_evaluate(config, str(workdir))
    plan = json.loads((workdir / "plan.json").read_text())
    assert (plan["num_replicas"], plan["micro_batches"], plan["recipe"]["replicas"]) == (24, 3, 24)
    assert json.loads((workdir / "config.json").read_text())["replicas"] == "auto"
    output = capsys.readouterr().out
    assert "replicas=auto: 8 replicas of 15 images: a step needs " in output
    assert "24 on 8 × cpu, 1 host: 3 micro-batches of 5 images a device" in output
    # An evaluation counts the same images in other batches.
    counted = read_metrics(Workdir(workdir))[-1]
    for flags in ([], ["--batch=16"]):
        assert main(["evaluate", str(workdir), f"--json={tmp_path / 'found.json'}", *flags]) == 0
        found = json.loads((tmp_path / "found.json").read_text())
        assert found["top1"] == counted["top1"] and found["images"] == 360
        assert found["settings"]["batch"] == (16 if flags else 5 * 8)
    # All of the batch fits now, and it goes on as it began.
    train_and_evaluate(config | {"log_steps": 1}, str(workdir))
    assert json.loads((workdir / "plan.json").read_text())["num_replicas"] == 24


def test_a_run_that_does_not_fit_with_the_most_replicas_is_refused_before_its_plan(
    tmp_path, monkeypatch, capsys
):
    build_tiny_networks(monkeypatch)
    leave_room_for(monkeypatch, 1000)
    flags = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    assert main(["train", "--config=digits", f"--workdir={tmp_path / 'run'}", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(
        "efficientnet-pod: replicas=auto: 120 replicas of 1 image: a step needs 0.0 MiB of 0.0 MiB, and "
        "more are not possible; lower config.data.image_size"
    )
    assert printed.err.count("\n") == 1 and "train state" not in printed.out


def test_preflight_takes_the_fewest_that_fit(tmp_path, monkeypatch, capsys):
    build_tiny_networks(monkeypatch)
    config = config_of("digits.py", FIELDS)
    path = tmp_path / "preflight.json"
    cache = str(tmp_path / "cache")
    preflight = Preflight("cpu:8", None, False, str(path), None, cache)
    preflight.run(config)
    whole = json.loads(path.read_text())
    assert whole["num_replicas"] == 8
    monkeypatch.setattr(estimates, "hbm_limit", lambda target: round(0.8 * whole["hbm_bytes"]))
    preflight.run(config)
    part = json.loads(path.read_text())
    assert part["num_replicas"] > 8 and part["fits"]
    assert part["micro_batches"] == part["num_replicas"] // 8
    assert "micro-batches" in capsys.readouterr().out
