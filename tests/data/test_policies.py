"""The policies' draws against the published tables, and that they run the operations they drew."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import tensorflow as tf
from photos import photo
from released_policy import released
from scipy import stats

from efficientnet_pod.data.transforms import image_ops, policies
from efficientnet_pod.data.transforms.policies import OPS, apply_policy, cutout

# operation probability level, twice, for each sub-policy. Source: tensorflow/tpu, autoaugment.py, policy_v0.
PUBLISHED = """
    Equalize .8 1 ShearY .8 4
    Color .4 9 Equalize .6 3
    Color .4 1 Rotate .6 8
    Solarize .8 3 Equalize .4 7
    Solarize .4 2 Solarize .6 2
    Color .2 0 Equalize .8 8
    Equalize .4 8 SolarizeAdd .8 3
    ShearX .2 9 Rotate .6 8
    Color .6 1 Equalize 1 2
    Invert .4 9 Rotate .6 0
    Equalize 1 9 ShearY .6 3
    Color .4 7 Equalize .6 0
    Posterize .4 6 AutoContrast .4 7
    Solarize .6 8 Color .6 9
    Solarize .2 4 Rotate .8 9
    Rotate 1 7 TranslateY .8 9
    ShearX 0 0 Solarize .8 4
    ShearY .8 0 Color .6 4
    Color 1 0 Rotate .6 2
    Equalize .8 4 Equalize 0 8
    Equalize 1 4 AutoContrast .6 2
    ShearY .4 7 SolarizeAdd .6 7
    Posterize .8 2 Solarize .6 10
    Solarize .6 8 Equalize .6 1
    Color .8 6 Rotate .4 5
"""
FUNCTIONS = {op: "".join("_" + c.lower() if c.isupper() else c for c in op)[1:] for op in OPS} | {
    "AutoContrast": "autocontrast",
    "Cutout": "cutout_at",
}
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
NUM_SEEDS = 4000
UNLIKELY = 1e-3  # of a chi-square test; the seeds are fixed, so that a test that passes once passes always


def published():
    rows = [line.split() for line in PUBLISHED.split("\n") if line.strip()]
    return tuple(tuple((r[i], float(r[i + 1]), int(r[i + 2])) for i in (0, 3)) for r in rows)


def over_seeds(image, count=NUM_SEEDS, *, parallel=2, keep=lambda image: image, **policy):
    """Returns ``keep`` of the image after the policy for seeds (17, 0), (17, 1) and so on: (count, ...)."""
    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(17, tf.int64), i]))
    augmented = seeds.map(
        lambda seed: keep(apply_policy(tf.constant(image), seed, **policy)), num_parallel_calls=parallel
    )
    return np.stack(list(augmented.as_numpy_iterator()))


def recorder(number):
    """Returns an operation that only writes its number and last argument, in hundredths, into a new row."""

    def write(image, *arguments, **_):
        argument = tf.cast(arguments[-1] if arguments else 0.0, tf.float32)
        code = tf.cast(tf.round(100 * argument), tf.int32) + 32768
        entry = tf.cast(tf.stack([tf.constant(number), code // 256, code % 256]), tf.uint8)
        return tf.concat([tf.broadcast_to(entry, [1, *image.shape[1:]]), image[:-1]], axis=0)

    return write


@pytest.fixture
def recorded(monkeypatch):
    """Returns a function to what a policy did for each seed: a tuple of (operation, argument), in order."""

    def run(size, layers=2, magnitude=0.0, reference_bugs=False, count=NUM_SEEDS, **policy):
        policies._program.cache_clear()
        with monkeypatch.context() as patch:
            for number, op in enumerate(OPS, start=1):
                patch.setattr(image_ops, FUNCTIONS[op], recorder(number))
            policy |= {"layers": layers, "magnitude": magnitude, "reference_bugs": reference_bugs}
            black = np.zeros((size, size, 3), np.uint8)
            rows = over_seeds(black, count, keep=lambda image: image[:layers, 0], **policy)
        policies._program.cache_clear()
        return [
            tuple((OPS[n - 1], (256 * high + low - 32768) / 100) for n, high, low in entries[::-1] if n)
            for entries in rows.astype(int)
        ]

    return run


def assert_distributed(observed, probabilities):
    """Asserts by a chi-square test that the counts follow the probabilities, those of all that can happen."""
    assert set(observed) <= set(probabilities)
    assert sum(probabilities.values()) == pytest.approx(1)
    total = sum(observed.values())
    common = [key for key, p in probabilities.items() if p * total >= 5]
    counts = [observed[key] for key in common]
    expected = [probabilities[key] * total for key in common]
    if len(common) < len(probabilities):
        counts.append(total - sum(counts))
        expected.append(total - sum(expected))
    assert stats.chisquare(counts, expected).pvalue > UNLIKELY


def autoaugment_probabilities(argument):
    """Returns the probability of each sequence of (operation, argument), by the published table."""
    probabilities = Counter()
    for first, second in published():
        for steps in ((), (first,), (second,), (first, second)):
            p = 1 / 25
            for step in (first, second):
                p *= step[1] if step in steps else 1 - step[1]
            outcomes = [
                [(op, sign * argument(op, level)) for sign in signs(op, argument(op, level))]
                for op, _, level in steps
            ]
            for sequence in product(*outcomes):
                probabilities[sequence] += p / np.prod([len(o) for o in outcomes] or [1])
    return {key: p for key, p in probabilities.items() if p > 0}


def signs(op, argument):
    return (1, -1) if op in SIGNED and argument else (1,)


def meant(op, level):
    """Returns what a level of AutoAugment means, by the paper and the released code, at 331 pixels."""
    strength = level / 10
    if op in ("Color",):
        return round(0.1 + 1.8 * strength, 2)
    return {
        "Posterize": 4 + int(4 * strength),
        "Solarize": int(256 * strength),
        "SolarizeAdd": int(110 * strength),
        "Rotate": round(30 * strength, 2),
        "ShearX": round(0.3 * strength, 2),
        "ShearY": round(0.3 * strength, 2),
        "TranslateY": round(250 * strength, 2),
    }.get(op, 0)


def test_the_sub_policies_are_the_published_ones():
    assert len(published()) == 25
    assert published() == policies.AUTOAUGMENT_V0


def test_autoaugment_draws_rows_operations_and_signs_with_their_probabilities(recorded):
    observed = Counter(recorded(331, name="autoaugment"))
    assert_distributed(observed, autoaugment_probabilities(meant))


def test_the_released_autoaugment_posterizes_to_one_bit_inverts_and_moves_as_far_in_small_images(recorded):
    others = {
        "Posterize": lambda level: max(int(0.4 * level), 1),
        "Solarize": lambda level: int(25.6 * level) % 256,
        "TranslateY": lambda level: 25.0 * level,
    }
    observed = Counter(recorded(64, name="autoaugment", reference_bugs=True))
    assert_distributed(
        observed,
        autoaugment_probabilities(lambda op, level: others.get(op, lambda _: meant(op, level))(level)),
    )
    moved = {
        a for steps in recorded(64, name="autoaugment", count=800) for op, a in steps if op == "TranslateY"
    }
    assert moved == {round(sign * 225 * 64 / 331, 2) for sign in (1, -1)}


# In the order of OPS, at 224 pixels.
RANDAUGMENT = {
    (0, False): (0, 0, 0, 0, 8, 256, 0.1, 0.1, 0.1, 0.1, 0, 0, 0, 0, 0, 0),
    (10, False): (0, 0, 0, 30, 4, 0, 1.9, 1.9, 1.9, 1.9, 0.3, 0.3, 100, 100, 80, 110),
    (7.5, False): (0, 0, 0, 22.5, 5, 64, 1.45, 1.45, 1.45, 1.45, 0.225, 0.225, 75, 75, 60, 82),
    (28, False): (0, 0, 0, 84, 1, 0, 5.14, 5.14, 5.14, 5.14, 0.84, 0.84, 280, 280, 224, 308),
    (10, True): (0, 0, 0, 30, 4, 0, 1.9, 1.9, 1.9, 1.9, 0.3, 0.3, 100, 100, 80, 110),
    (28, True): (0, 0, 0, 84, 1, 204, 5.14, 5.14, 5.14, 5.14, 0.84, 0.84, 280, 280, 224, 308),
    (2, True): (0, 0, 0, 6, 1, 51, 0.46, 0.46, 0.46, 0.46, 0.06, 0.06, 20, 20, 16, 22),
}


@pytest.mark.parametrize(("magnitude", "reference_bugs"), RANDAUGMENT)
def test_randaugment_arguments_at_each_magnitude(recorded, magnitude, reference_bugs):
    drawn = recorded(224, name="randaugment", magnitude=magnitude, reference_bugs=reference_bugs, count=300)
    arguments = {op: abs(argument) for steps in drawn for op, argument in steps}
    assert set(arguments) == set(OPS)
    expected = RANDAUGMENT[magnitude, reference_bugs]
    np.testing.assert_allclose([arguments[op] for op in OPS], expected, atol=0.0051)


# From where on solarize inverts, and the bits that posterize keeps, in the released program.
RELEASED_LEVELS = {
    2: (51, 1), 10: (0, 4), 15: (128, 6), 20: (0, 8), 22.5: (64, 1), 27: (179, 1), 28: (204, 1),
}  # fmt: skip
ROUNDED_BY_PILLOW = ("AutoContrast", "Color", "Sharpness")  # released: up to a level lower, before a factor


@pytest.mark.parametrize("magnitude", RELEASED_LEVELS)
def test_randaugment_with_its_faults_is_the_released_program(magnitude):
    threshold, bits = RELEASED_LEVELS[magnitude]
    lengths = policies._RANDAUGMENT_LENGTHS.scaled(60, True)
    for pixels in (photo(3, 60, 70), np.random.default_rng(1).integers(0, 256, (60, 70, 3), dtype=np.uint8)):
        for (number, op), draws in product(enumerate(OPS), [(0.2, 0.7), (0.8, 0.3)]):
            argument = policies._argument(op, magnitude, lengths, True, True)
            assert {"Solarize": threshold, "Posterize": bits}.get(op, argument) == argument, op
            numbers = tf.constant(number), tf.constant(argument, tf.float32), tf.constant(draws)
            ours = policies._apply_op(tf.constant(pixels), *numbers, True).numpy()
            expected, sure = released(op, magnitude, pixels, draws)
            assert sure.mean() > 0.85
            error = np.abs(ours[sure].astype(int) - expected[sure]).max()
            factor = 0 if op == "AutoContrast" else argument
            assert error <= (1 + abs(factor - 1) if op in ROUNDED_BY_PILLOW else 0), op


def test_randaugment_draws_operations_and_signs_alike_and_independently(recorded):
    drawn = recorded(64, name="randaugment", magnitude=10)
    assert {len(steps) for steps in drawn} == {2}
    pairs = Counter((first[0], second[0]) for first, second in drawn)
    assert_distributed(pairs, {(a, b): 1 / 256 for a in OPS for b in OPS})
    negated = Counter((op, argument < 0) for steps in drawn for op, argument in steps if op in SIGNED)
    assert_distributed(negated, {(op, sign): 0.1 for op in SIGNED for sign in (True, False)})
    size = {abs(argument) for steps in drawn for op, argument in steps if op == "TranslateX"}
    assert size == {round(100 * 64 / 224, 2)}


def test_the_number_of_layers_is_the_number_of_operations(recorded):
    drawn = recorded(64, name="randaugment", layers=3, magnitude=5, count=50)
    assert {len(steps) for steps in drawn} == {3}


@pytest.mark.parametrize("name", ["autoaugment", "randaugment"])
def test_a_policy_applies_the_operations_that_it_drew(recorded, name):
    pixels = photo(2, 60, 60)
    policy = {"name": name, "layers": 2, "magnitude": 9.0, "reference_bugs": False}
    results = over_seeds(pixels, 120, **policy)
    seen = set()
    for steps, result in zip(recorded(60, count=120, **policy), results, strict=True):
        if any(op in ("Cutout", *SIGNED) for op, _ in steps):
            continue  # moves would need the argument to more than two places
        expected = tf.constant(pixels)
        for op, argument in steps:
            function = getattr(image_ops, FUNCTIONS[op])
            arguments = () if op in ("AutoContrast", "Equalize", "Invert") else (argument,)
            expected = function(expected, *arguments)
        # The factor to two places is the factor, for these levels.
        np.testing.assert_array_equal(result, expected)
        seen |= {op for op, _ in steps}
    assert len(seen) >= 5


@pytest.mark.parametrize("name", ["autoaugment", "randaugment"])
def test_equal_seeds_give_equal_images_whatever_the_threads(name):
    policy = {"name": name, "layers": 2, "magnitude": 10.0, "reference_bugs": False}
    pixels = photo(6, 64, 64)
    once, again = over_seeds(pixels, 64, parallel=1, **policy), over_seeds(pixels, 64, parallel=4, **policy)
    np.testing.assert_array_equal(once, again)
    assert len({image.tobytes() for image in once}) > 25  # AutoAugment leaves many images as they are


def test_no_policy_is_no_change():
    pixels = tf.constant(photo(6, 64, 64))
    seed = tf.constant([1, 2], tf.int64)
    assert apply_policy(pixels, seed, name="none", layers=0, magnitude=0.0, reference_bugs=False) is pixels


def cut(count, shape, size):
    """Returns where Cutout fills a black image, (count, *shape) bool."""
    black = tf.zeros((*shape, 3), tf.uint8)
    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(5, tf.int64), i]))
    images = np.stack(list(seeds.map(lambda seed: cutout(black, seed, size=size)).as_numpy_iterator()))
    assert images.dtype == np.uint8 and set(np.unique(images)) == {0, 128}
    return (images == 128).all(-1)


def test_cutout_is_a_square_around_any_pixel_and_ends_at_the_border():
    height, width, half = 6, 9, 2
    squares = {}
    for row in range(height):
        for column in range(width):
            square = np.zeros((height, width), bool)
            square[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = True
            squares[square.tobytes()] = squares.get(square.tobytes(), 0) + 1 / (height * width)
    assert_distributed(Counter(image.tobytes() for image in cut(3000, (height, width), 2 * half)), squares)


@pytest.mark.parametrize("size", [0, -2, 5])
def test_an_impossible_cutout_is_an_error(size):
    with pytest.raises(AssertionError):
        cutout(tf.zeros((8, 8, 3), tf.uint8), tf.constant([1, 2], tf.int64), size=size)
