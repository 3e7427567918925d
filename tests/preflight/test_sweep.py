"""Sweeps: their points, and the fastest and the cheapest of those that fit."""

import pytest
from skips import needs_libtpu
from tiny_preflight import recipe_of

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.prices import Price
from efficientnet_pod.preflight.estimate import Estimate
from efficientnet_pod.preflight.sweep import fastest_and_cheapest, parse_sweep, run_sweep, sweep_points
from efficientnet_pod.preflight.targets import parse_target


def test_sweeps_are_read_or_refused():
    assert parse_sweep("per_replica_batch=16, 32") == ("per_replica_batch", ("16", "32"))
    assert parse_sweep("topology=v3:4x4,v3-128") == ("topology", ("v3:4x4", "v3-128"))
    for sweep, words in (
        ("per_replica=16", "varies 'per_replica'; did you mean 'per_replica_batch'?"),
        ("replicas", "names no values"),
        ("replicas=", "names no values"),
        ("replicas=8,many", "'many' is not a whole number above 0"),
        ("per_replica_batch=0", "'0' is not a whole number above 0"),
    ):
        with pytest.raises(UserError, match=words.replace("?", r"\?")):
            parse_sweep(sweep)


def test_a_sweep_keeps_the_global_batch_of_the_recipe_or_follows_the_replicas():
    target = parse_target("v3:4x4")  # 32 replicas; 64 images each, in groups of 2: 128 normalise together
    recipe = recipe_of(global_batch=2048, bn_group_size=2)

    def numbers(field, *values):
        return [
            (p.target.name, p.recipe.global_batch, p.recipe.bn_group_size)
            for p in sweep_points(recipe, target, field, values)
        ]

    assert numbers("per_replica_batch", "16", "64", "256") == [
        ("v3:4x4", 512, 8), ("v3:4x4", 2048, 2), ("v3:4x4", 8192, 1)
    ]  # fmt: skip
    machines = [("v3:2x2", 2048, 1), ("v3:8x8", 2048, 8)]
    assert numbers("replicas", "8", "128") == numbers("topology", "v3-8", "v3:8x8") == machines


def test_a_sweep_scales_the_batches_of_phases():
    phases = {"small": {"from_epoch": 0.0, "global_batch": 4096}, "large": {"from_epoch": 10.0}}
    recipe = recipe_of(global_batch=2048, bn_group_size=2, phases=phases)
    (point,) = sweep_points(recipe, parse_target("v3:4x4"), "per_replica_batch", ("32",))
    assert [phase.global_batch for phase in point.recipe.phases] == [2048, None]


@needs_libtpu
def test_the_fastest_and_the_cheapest_are_those_that_fit(v3):
    estimate, _ = v3
    hours = {"16": 3.0, "32": 2.0, "64": 1.0, "128": 2.5}
    dollars = {"16": 10.0, "32": 30.0, "64": 5.0, "128": 20.0}

    class Fake(Estimate):
        fits = property(lambda self: self.run != "64")  # the best one does not fit
        hours = property(lambda self: hours[self.run])

        def usd(self, *, spot=False):
            return Price(dollars[self.run], 99.0)

    def estimated(recipe, target):
        per_replica = str(recipe.global_batch // target.replicas)
        if per_replica == "128":
            raise UserError("128 is impossible here")
        return Fake(target, per_replica, estimate.compilation, estimate.steps, None, 0)

    points = sweep_points(recipe_of(), estimate.target, "per_replica_batch", ("16", "32", "64", "128"))
    swept = run_sweep(points, estimated)
    fastest, cheapest = fastest_and_cheapest(swept)
    assert (fastest.value, cheapest.value) == ("32", "16")
    assert swept[3].reason == "128 is impossible here" and swept[3].estimate is None
    assert fastest_and_cheapest([swept[3]]) == (None, None)
