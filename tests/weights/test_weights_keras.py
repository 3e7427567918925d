"""Weights that Keras has written, against the logits that Keras computes with them."""

import dataclasses

import h5py
import jax
import numpy as np
import pytest
from keras_reference import randomise
from same_logits import assert_same_logits
from same_tensors import same

import efficientnet_pod as ep
from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.convert import convert
from efficientnet_pod.weights.export import export
from efficientnet_pod.weights.formats.keras import read_h5
from efficientnet_pod.weights.reading import read_foreign
from efficientnet_pod.weights.trained import CENTRE, WHOLE

SIZE, CLASSES = 64, 7
# Keras reads its own variables so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def levels():
    return np.random.default_rng(0).uniform(0, 255, (4, SIZE, SIZE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network(levels):
    """A B0 of Keras with weights and statistics of its own, and the logits it computes."""
    keras = pytest.importorskip("keras")
    options = {"weights": None, "classes": CLASSES, "classifier_activation": None}
    model = keras.applications.EfficientNetB0(input_shape=(SIZE, SIZE, 3), **options)
    mean, variance = np.array([0.4, 0.5, 0.6]), np.array([0.04, 0.05, 0.06])
    # Not by its name, which is normalization_7 if other tests have made networks.
    [normalisation] = [layer for layer in model.layers if type(layer).__name__ == "Normalization"]
    normalisation.set_weights([mean, variance, np.array(0)])
    normalisation.finalize_state()
    randomise(model, levels, seed=1)
    return model, np.asarray(model(levels, training=False))


@pytest.fixture(scope="module", params=["all.weights.h5", "whole.h5", "whole.keras", "unnamed.weights.h5"])
def file(request, network, tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / request.param
    model = network[0]
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.suffix == ".h5":
        from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5

        save_model_to_hdf5(model, str(path))  # what `save` does behind a warning
    else:
        model.save(path)
    if path.name.startswith("unnamed"):  # as Keras 3 wrote them before it named the layers
        with h5py.File(path, "r+") as opened:
            for group in opened["layers"].values():
                group["vars"].attrs.pop("name", None)
    return path


def test_logits_are_those_of_keras(file, network, levels):
    model, variables = ep.load(str(file))
    trained = ep.trained(str(file))
    assert (trained.network, trained.num_classes) == ("b0", CLASSES)
    np.testing.assert_allclose(trained.mean_rgb, (0.4, 0.5, 0.6), atol=1e-6)
    np.testing.assert_allclose(trained.stddev_rgb, np.sqrt((0.04, 0.05, 0.06)), atol=1e-6)
    images = (levels / 255 - np.float32(trained.mean_rgb)) / np.float32(trained.stddev_rgb)
    assert_same_logits(jax.jit(lambda x: model.apply(variables, x, train=False))(images), network[1])


def test_all_kinds_of_files_have_the_same_bits(file, network, tmp_path):
    network[0].save_weights(tmp_path / "other.weights.h5")
    assert same(ep.trained(str(file)).tensors, ep.trained(f"{tmp_path}/other.weights.h5").tensors)


@pytest.mark.parametrize(
    ("name", "mean", "view"),
    [("v2_b0", 0.485, CENTRE), pytest.param("v2_s", 128 / 255, WHOLE, marks=pytest.mark.long)],
)
def test_v2_goes_there_and_back_with_the_images_that_it_has_built_in(name, mean, view, levels, tmp_path):
    keras = pytest.importorskip("keras")
    build = getattr(keras.applications, f"EfficientNetV2{name[3:].upper()}")
    options = {"weights": None, "classes": CLASSES, "classifier_activation": None}
    model = build(input_shape=(SIZE, SIZE, 3), **options)
    randomise(model, levels, seed=1)
    expected = np.asarray(model(levels, training=False))
    model.save_weights(tmp_path / "w.weights.h5")
    trained = ep.trained(str(tmp_path / "w.weights.h5"))
    assert (trained.network, trained.mean_rgb[0], trained.view) == (name, mean, view)
    assert_same_logits(jax.jit(trained.logits)(levels), expected)
    export(trained, tmp_path / "w", ["keras"])
    back = ep.trained(str(tmp_path / "w" / "model.weights.h5"))
    assert same(back.tensors, trained.tensors)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    model.load_weights(tmp_path / "w" / "model.weights.h5")
    np.testing.assert_array_equal(np.asarray(model(levels, training=False)), expected)
    other = dataclasses.replace(trained, mean_rgb=(0.4, 0.5, 0.6))
    with pytest.raises(UserError, match=r"mean_rgb=.* built in, and these weights have \(0.4, 0.5, 0.6\)"):
        export(other, tmp_path / "other", ["keras"])


def test_the_released_normalisation_is_imagenets(network, tmp_path):
    """Keras's ImageNet weights keep standard deviations as variances."""
    path = tmp_path / "a.weights.h5"
    network[0].save_weights(path)
    with h5py.File(path, "r+") as file:
        file["layers/normalization/vars/0"][...] = np.float32([0.485, 0.456, 0.406]).reshape(
            file["layers/normalization/vars/0"].shape
        )
        file["layers/normalization/vars/1"][...] = np.float32([0.229, 0.224, 0.225]).reshape(
            file["layers/normalization/vars/1"].shape
        )
    trained = ep.trained(str(path))
    assert np.round(trained.mean_rgb, 4).tolist() == [0.485, 0.456, 0.406]
    assert np.round(trained.stddev_rgb, 4).tolist() == [0.229, 0.224, 0.225]


def test_the_second_network_of_a_process_is_read_like_the_first(network, tmp_path):
    """Keras numbers what has no name of its own: its layer is normalization_1."""
    path = tmp_path / "a.weights.h5"
    network[0].save_weights(path)
    with h5py.File(path, "r+") as file:
        file["layers/normalization/vars"].attrs["name"] = "normalization_1"
    np.testing.assert_allclose(ep.trained(str(path)).mean_rgb, (0.4, 0.5, 0.6), atol=1e-6)


def test_another_number_of_classes_gets_a_new_classifier_and_nothing_else(network, tmp_path):
    path = tmp_path / "a.weights.h5"
    network[0].save_weights(path)
    foreign = read_foreign(str(path))
    old, new, again = (convert(foreign, network="b0", num_classes=n) for n in (None, 11, 11))
    assert new.num_classes == 11 and new.origin["new_classifier"] and not old.origin["new_classifier"]
    assert same(new.tensors, again.tensors) and not new.tensors["params/classifier/kernel"].any()
    for name, tensor in old.tensors.items():
        assert name.startswith("params/classifier") or np.array_equal(tensor, new.tensors[name])


def test_a_network_without_its_top_needs_a_number_of_classes(network, tmp_path):
    path = tmp_path / "top.weights.h5"
    network[0].save_weights(path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense"]
    with pytest.raises(UserError, match="has no classifier; give --num-classes=N"):
        ep.trained(str(path))
    assert convert(read_foreign(str(path)), num_classes=3).num_classes == 3


def write_h5(path, change):
    with h5py.File(path, "w") as file:
        file["stem_conv/stem_conv/kernel:0"] = np.zeros((3, 3, 3, 32), np.float32)
        change(file)
    return path


def test_links_out_of_the_file_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["password"] = np.ones(3)

    def external(file):
        file["a/a/kernel:0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/password")

    with pytest.raises(UserError, match="a link to another file at 'a/a/kernel:0', which is not followed"):
        read_h5(write_h5(tmp_path / "external.h5", external))

    def soft(file):
        file["a/a/kernel:0"] = h5py.SoftLink("/stem_conv/stem_conv/kernel:0")

    with pytest.raises(UserError, match="a link to another place at 'a/a/kernel:0'"):
        read_h5(write_h5(tmp_path / "soft.h5", soft))


def test_arrays_in_other_files_are_not_read(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"secretsecret")

    def external(file):
        file.create_dataset("a/a/bias:0", (3,), "f4", external=[(str(tmp_path / "secret.bin"), 0, 12)])

    with pytest.raises(UserError, match="keeps the array 'a/a/bias:0' in another file"):
        read_h5(write_h5(tmp_path / "e.h5", external))

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "password", shape=(3,))
        file.create_virtual_dataset("a/a/bias:0", layout)

    with pytest.raises(UserError, match="keeps the array 'a/a/bias:0' in another file"):
        read_h5(write_h5(tmp_path / "v.h5", virtual))


def test_objects_and_giants_are_refused_before_they_are_read(tmp_path):
    def objects(file):
        file.create_dataset("a/a/bias:0", (2,), h5py.string_dtype())

    with pytest.raises(UserError, match="an array of type object at 'a/a/bias:0'; objects are refused"):
        read_h5(write_h5(tmp_path / "o.h5", objects))

    def giant(file):  # a few bytes on disk
        file.create_dataset("a/a/bias:0", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")

    with pytest.raises(UserError, match="claims 4,398,046,5.* bytes of tensors"):
        read_h5(write_h5(tmp_path / "g.h5", giant))


def test_a_file_that_is_cut_off_says_so(network, tmp_path):
    whole, cut = tmp_path / "a.weights.h5", tmp_path / "cut.weights.h5"
    network[0].save_weights(whole)
    for share in (0.1, 0.5, 0.99):
        cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with pytest.raises(UserError, match="cut off or damaged"):
            read_foreign(str(cut))
    network[0].save(tmp_path / "a.keras")
    cut = tmp_path / "cut.keras"
    cut.write_bytes((tmp_path / "a.keras").read_bytes()[:-1000])
    with pytest.raises(UserError, match="cut off or damaged"):
        read_foreign(str(cut))
