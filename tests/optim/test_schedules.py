"""The schedules against TensorFlow's, and against values worked out by hand from the published recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from jax.sharding import PartitionSpec as P

from efficientnet_pod.errors import UserError
from efficientnet_pod.optim.schedules import (
    SCHEDULES,
    Schedule,
    Stretch,
    create_schedule,
    in_phases,
    peak_learning_rate,
    schedule_warnings,
)

IMAGENET = 1_281_167
EPOCHS = 350

FORMULAS = [name for name in SCHEDULES if name != "piecewise"]


def rates(schedule, *, steps, **kwargs):
    return np.asarray(jax.jit(create_schedule(schedule, **kwargs))(jnp.asarray(steps, jnp.int32)))


def imagenet(global_batch):
    """Returns the steps of an epoch, as a fraction, and those of the published 350 epochs."""
    return IMAGENET / global_batch, int(EPOCHS * IMAGENET / global_batch)


@pytest.mark.parametrize(
    ("lr_per_256", "global_batch", "peak"),
    [
        (0.016, 4096, 0.256),
        (0.016, 2048, 0.128),
        (0.236, 16_384, 15.104),
        (0.081, 65_536, 20.736),
        (0.1, 64, 0.025),
    ],
)
def test_peak_scales_linearly(lr_per_256, global_batch, peak):
    assert peak_learning_rate(lr_per_256, global_batch) == pytest.approx(peak, rel=1e-12)


def test_exponential_follows_tensorflow_over_the_published_b0_run():
    steps_per_epoch, total_steps = imagenet(4096)
    steps = np.arange(total_steps)
    ours = rates(
        Schedule("exponential", warmup_epochs=5),
        steps=steps,
        peak_lr=0.256,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    theirs = tf.compat.v1.train.exponential_decay(
        0.256, tf.constant(steps), steps_per_epoch * 2.4, 0.97, staircase=True
    )().numpy()
    warmup_steps = 1563  # int(5 · 312.78)
    differing = np.flatnonzero(~np.isclose(ours, theirs, rtol=1e-5, atol=0))
    # TensorFlow's float32 rounds step 87,830, which is 116.999996 stairs, up to 117.
    assert set(differing[differing >= warmup_steps]) <= {87_830}
    stairs = [step * 4096 * 10 // (IMAGENET * 24) for step in range(warmup_steps, total_steps)]
    np.testing.assert_allclose(ours[warmup_steps:], 0.256 * 0.97 ** np.array(stairs), rtol=1e-5)
    # The staircase has fallen twice by the end of warm-up: it counts from step 0.
    assert ours[warmup_steps] == pytest.approx(0.256 * 0.97**2, rel=1e-6)
    np.testing.assert_allclose(ours[:warmup_steps], 0.256 * steps[:warmup_steps] / 1563, rtol=1e-6)


def test_exponential_stays_at_its_floor_which_holds_in_the_warm_up_too():
    steps = np.arange(120)
    ours = rates(
        Schedule("exponential", warmup_epochs=2, decay_rate=0.5, decay_epochs=1, end_lr=0.01),
        steps=steps,
        peak_lr=0.8,
        steps_per_epoch=10.0,
        total_steps=120,
    )
    expected = np.maximum(np.where(steps < 20, 0.8 * steps / 20, 0.8 * 0.5 ** (steps // 10)), 0.01)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    assert ours[0] == ours[-1] == np.float32(0.01) and ours[19] == np.float32(0.76)


def test_polynomial_follows_tensorflow_at_65536_images_a_step():
    steps_per_epoch, total_steps = imagenet(65_536)
    assert (round(steps_per_epoch, 2), total_steps) == (19.55, 6842)
    steps = np.arange(7000)
    ours = rates(
        Schedule("polynomial", warmup_epochs=43, power=2.0, end_lr=0.1),
        steps=steps,
        peak_lr=20.736,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    warmup_steps = 840  # int(43 · 19.549); a floored 19 would give 817
    theirs = tf.compat.v1.train.polynomial_decay(
        20.736,
        tf.constant(np.maximum(1, steps - warmup_steps)),
        total_steps - warmup_steps + 1,
        end_learning_rate=0.1,
        power=2.0,
    )().numpy()
    # 1 - progress cancels near the end: 1e-6 of the peak is what float32 can promise.
    np.testing.assert_allclose(ours[warmup_steps:], theirs[warmup_steps:], rtol=1e-5, atol=2e-6)
    assert ours[0] == 0
    assert ours[420] == pytest.approx(20.736 / 2, rel=1e-6)
    assert ours[839] == pytest.approx(20.736 * 839 / 840, rel=1e-6)
    assert ours[840] == ours[841] == pytest.approx(0.1 + 20.636 * (1 - 1 / 6003) ** 2, rel=1e-6)
    assert ours[842] < ours[841]
    # The last update does not quite reach the end value; whatever follows stays there.
    assert ours[6841] == pytest.approx(0.1 + 20.636 * (2 / 6003) ** 2, rel=1e-5)
    assert np.all(ours[6843:] == np.float32(0.1))


@pytest.mark.parametrize("warmup_epochs", [0, 5.5])
def test_cosine_follows_keras_after_warmup(warmup_epochs):
    steps_per_epoch, total_steps, peak, end = 78.2, 2000, 1.6, 0.01
    steps = np.arange(2100)
    warmup_steps = int(warmup_epochs * 78.2)
    ours = rates(
        Schedule("cosine", warmup_epochs=warmup_epochs, end_lr=end),
        steps=steps,
        peak_lr=peak,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    cosine = tf.keras.optimizers.schedules.CosineDecay(peak, total_steps - warmup_steps, alpha=end / peak)
    theirs = cosine(tf.constant(steps[warmup_steps:] - warmup_steps)).numpy()
    np.testing.assert_allclose(ours[warmup_steps:], theirs, rtol=1e-5, atol=1e-6)
    assert ours[warmup_steps] == np.float32(peak)
    assert ours[total_steps] == pytest.approx(end, rel=1e-6)


def test_constant_stays_at_the_peak_after_warmup():
    ours = rates(
        Schedule("constant", warmup_epochs=2),
        steps=[0, 1, 4, 5, 6, 100],
        peak_lr=0.5,
        steps_per_epoch=2.7,
        total_steps=50,
    )
    np.testing.assert_allclose(ours, [0, 0.1, 0.4, 0.5, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("steps_per_epoch", "decay_epochs", "falls"),
    [
        (IMAGENET / 65_536, 2.4, [47, 94, 141, 188]),  # 46.92 steps; a floored epoch would fall at 46
        (50, 1.1, [55, 110, 165, 220]),  # 1.1 · 50 is 55.00000000000001
        (0.5, 1.0, [1, 1, 2, 2]),  # two falls a step
    ],
)
def test_staircase_falls_at_the_exact_step(steps_per_epoch, decay_epochs, falls):
    learning_rate = create_schedule(
        Schedule("exponential", warmup_epochs=0, decay_rate=0.5, decay_epochs=decay_epochs),
        peak_lr=1.0,
        steps_per_epoch=steps_per_epoch,
        total_steps=500,
    )
    steps = np.arange(falls[-1] + 1)
    expected = [0.5 ** sum(step >= fall for fall in falls) for step in steps]
    np.testing.assert_array_equal(jax.jit(learning_rate)(jnp.asarray(steps, jnp.int32)), np.float32(expected))


def test_staircase_is_exact_where_float_division_under_jit_is_not():
    steps = jnp.arange(0, 41 * 400, 41, dtype=jnp.int32)
    by_division = jax.jit(lambda step: jnp.floor(step.astype(jnp.float32) / 41.0))(steps)
    ours = rates(
        Schedule("exponential", warmup_epochs=0, decay_rate=0.99, decay_epochs=1),
        steps=steps,
        peak_lr=1.0,
        steps_per_epoch=41,
        total_steps=41 * 400,
    )
    np.testing.assert_array_equal(np.round(np.log(ours) / np.log(0.99)), np.arange(400))
    assert np.any(np.asarray(by_division) != np.arange(400)), "XLA divides exactly now: the tables can go"


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("warmup_epochs", [0, 2, 60])
def test_any_schedule_is_strong_float32_and_finite_wherever_it_runs(name, warmup_epochs):
    learning_rate = create_schedule(
        Schedule(name, warmup_epochs=warmup_epochs), peak_lr=0.3, steps_per_epoch=1.7, total_steps=100
    )
    steps = np.arange(120)
    table = np.asarray(jax.jit(learning_rate)(jnp.asarray(steps, jnp.int32)))
    assert table.shape == (120,) and np.all(np.isfinite(table)) and table.min() >= 0
    assert table.max() <= np.float32(0.3)
    traced = jax.eval_shape(learning_rate, jax.ShapeDtypeStruct((), jnp.int32))
    assert (traced.shape, traced.dtype, traced.weak_type) == ((), jnp.float32, False)
    np.testing.assert_allclose(learning_rate(77), table[77], rtol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_any_schedule_runs_on_a_replica(name):
    learning_rate = create_schedule(
        Schedule(name, warmup_epochs=2), peak_lr=0.3, steps_per_epoch=1.7, total_steps=100
    )
    on_replicas = functools.partial(
        jax.shard_map, mesh=jax.make_mesh((8,), ("replica",)), in_specs=P(), out_specs=P()
    )
    sharded = jax.jit(on_replicas(learning_rate))
    for step in (1, 50):
        assert float(sharded(jnp.int32(step))) == pytest.approx(float(learning_rate(step)), rel=1e-6)


KNOTS = ((0.0, 0.5), (0.2, 1.0), (0.4, 1.0), (0.4, 0.1), (1.0, 0.0))


def test_piecewise_is_numpys_interpolation_with_the_later_value_at_a_jump():
    ours = rates(
        Schedule("piecewise", warmup_epochs=0, knots=KNOTS),
        steps=range(120),
        peak_lr=0.4,
        steps_per_epoch=7.3,
        total_steps=100,
    )
    before = np.interp(np.arange(40), [0, 20, 40], [0.2, 0.4, 0.4])
    after = np.interp(np.arange(40, 120), [40, 100], [0.04, 0.0])
    np.testing.assert_allclose(ours, np.concatenate([before, after]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("total_steps", [97, 2346, 112_603])
def test_one_cycle_has_its_peak_where_the_knot_is(total_steps):
    schedule = Schedule("piecewise", warmup_epochs=0, knots=((0.0, 0.0), (5 / 24, 1.0), (1.0, 0.0)))
    steps = np.arange(total_steps + 1)
    ours = rates(
        schedule, steps=steps, peak_lr=0.4, steps_per_epoch=total_steps / 24, total_steps=total_steps
    )
    expected = np.interp(steps, [0, total_steps * 5 / 24, total_steps], [0, 0.4, 0])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "its shares of the run must rise from 0 to 1"),
        ({"knots": ((0.0, 0.0), (0.7, 1.0))}, "its shares of the run must rise from 0 to 1"),
        ({"knots": ((0.0, 0.0), (0.7, 1.0), (0.6, 1.0), (1.0, 0.0))}, "must rise from 0 to 1"),
        ({"knots": ((0.0, 0.0), (1.0, -1.0))}, "must be at least 0 and at most 1,000"),
        ({"knots": KNOTS, "warmup_epochs": 5}, "--config.schedule.warmup_epochs=0"),
    ],
)
def test_knots_that_are_no_schedule_are_refused_in_one_line(fields, words):
    with pytest.raises(UserError) as error:
        Schedule(**{"name": "piecewise", "warmup_epochs": 0} | fields)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_schedule_gets_the_nearest_name():
    with pytest.raises(
        UserError, match="config.schedule.name='polinomial' is unknown; did you mean 'polynomial'"
    ):
        Schedule("polinomial", warmup_epochs=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("warmup_epochs", -1), ("power", 0), ("end_lr", -0.1), ("decay_rate", 1.5), ("decay_epochs", 0)],
)
def test_a_number_out_of_range_is_refused_in_one_line(field, value):
    with pytest.raises(UserError, match=f"config.schedule.{field}={value} must be") as error:
        Schedule(**{"name": "polynomial", "warmup_epochs": 5, field: value})
    assert "\n" not in str(error.value)


def warn(name="polynomial", *, end_lr=0.1, peak_lr=10.0, total_steps=100):
    return schedule_warnings(
        Schedule(name, warmup_epochs=5, end_lr=end_lr),
        peak_lr=peak_lr,
        steps_per_epoch=10.5,
        total_steps=total_steps,
    )


def test_warnings_name_a_rising_rate_and_an_endless_warmup():
    assert warn() == []
    (rising,) = warn(peak_lr=0.05)
    assert rising.startswith("end_lr 0.1 is above the peak learning rate 0.05")
    (constant,) = warn("exponential", peak_lr=0.05)
    assert constant.startswith("end_lr 0.1 is above the peak learning rate 0.05: the learning rate is end_lr")
    assert warn("constant", peak_lr=0.05) == []
    assert warn(total_steps=53) == []
    (endless,) = warn(total_steps=52)
    assert endless.startswith("warm-up takes 52 steps and the run has 52")
    assert len(warn(peak_lr=0.05, total_steps=52)) == 2


# 40 steps of 128 images, 40 of 256 and 20 of 512, in a run planned for 256: 20, 40 and 40 steps of that.
STRETCHES = (Stretch(0, 0.0, 0.5), Stretch(40, 20.0, 1.0), Stretch(80, 60.0, 2.0))
BATCHES = np.array([128] * 40 + [256] * 40 + [512] * 20)


def by_hand(name, images):
    """The published formulas at ``images / 256`` steps of 256 images, of which 10 are warm-up and 100 all."""
    clock = images / 256
    decayed = {
        "constant": np.full(clock.shape, 0.8),
        "cosine": 0.8 * (1 + np.cos(np.pi * (clock - 10) / 90)) / 2,
        "exponential": 0.8 * 0.97 ** np.floor(clock / 24),
        "polynomial": 0.8 * (1 - np.maximum(clock - 10, 1) / 91) ** 2,
    }[name]
    return np.where(clock < 10, 0.8 * clock / 10, decayed)


@pytest.mark.parametrize("name", FORMULAS)
def test_where_the_batch_changes_the_clock_counts_images_and_the_rate_follows_the_batch(name):
    base = create_schedule(
        Schedule(name, warmup_epochs=1.0), peak_lr=0.8, steps_per_epoch=10.0, total_steps=100.0
    )
    steps = jnp.arange(100, dtype=jnp.int32)
    ours = np.asarray(jax.jit(in_phases(base, STRETCHES))(steps))
    images = np.cumsum(BATCHES) - BATCHES
    np.testing.assert_allclose(ours, by_hand(name, images) * BATCHES / 256, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours, [in_phases(base, STRETCHES)(int(step)) for step in steps], rtol=1e-6)


def test_where_the_batch_never_changes_nothing_does():
    base = create_schedule(Schedule("cosine", 1.0), peak_lr=0.8, steps_per_epoch=10.0, total_steps=100)
    assert in_phases(base, (Stretch(0, 0.0, 1.0), Stretch(40, 40.0, 1.0))) is base
