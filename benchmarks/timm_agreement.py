"""timm's logits and ours of the same weights, through real files in both directions.

timm and PyTorch are too large for the environment of the tests, and need not know JAX. So there are three
steps, of which the middle one runs in ours; they share a folder:

    python benchmarks/timm_agreement.py make DIR      # where timm is: weights, images, timm's logits
    python -m benchmarks.timm_agreement ours DIR      # here: opened, compared, exported
    python benchmarks/timm_agreement.py check DIR     # where timm is: the exports opened, compared

`python benchmarks/timm_agreement.py fixtures` writes what the tests need of timm into tests/data.
Weights are random and batch norm's statistics those of the images, so that the images matter.
"""

import argparse
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "references"))

from timm_reference import DATA, images, random_tensors, shapes_of, statistics_of, with_statistics

V2 = [f"v2_{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l")]
NETWORKS = [*(f"b{n}" for n in range(8)), *(f"lite{n}" for n in range(5)), *V2, "resnet50"]
# Those with PyTorch's padding, by timm's names.
SYMMETRIC = ["efficientnet_b0", "efficientnetv2_s"]
COMPARED = [*(f"b{n}" for n in range(6)), "lite0", *V2[:5], *SYMMETRIC, "resnet50"]
IN_TESTS, TEST_SIZE = ("b0", "resnet50", "v2_b0", "efficientnet_b0"), 64


# --- where timm is ---------------------------------------------------------------------------------------


def timms(network: str) -> Any:
    """Returns timm's network without trained weights."""
    import timm

    if network in (*SYMMETRIC, "resnet50"):
        return timm.create_model(network)
    separator = "" if network.startswith("v2_") else "_"
    return timm.create_model(f"tf_efficientnet{separator}{network}")


def logits_of(model: Any, levels: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Returns what timm's network makes of levels 0..255."""
    import torch

    pixels = (levels.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        return model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()


def with_weights(network: str, levels: np.ndarray) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """Returns timm's network with random weights, these, and its logits.

    One pass in training stores the statistics of the images; rounded, they are small in a file.
    """
    import torch

    model = timms(network)
    mean, std = (model.pretrained_cfg[name] for name in ("mean", "std"))
    load = lambda tensors: model.load_state_dict(  # noqa: E731
        {name: torch.from_numpy(array) for name, array in tensors.items()}, strict=True
    )
    tensors = random_tensors({name: tuple(value.shape) for name, value in model.state_dict().items()})
    load(tensors)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    model.train()  # timm's default is neither dropout nor dropped paths
    logits_of(model, levels, mean, std)
    found = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors = with_statistics(tensors, statistics_of(found))
    load(tensors)
    model.eval()
    return model, tensors, logits_of(model, levels, mean, std)


def make(folder: Path, networks: list[str], size: int) -> None:
    """Writes folders as timm pushes them to the hub, images and timm's logits."""
    from timm.models import save_for_hf

    for network in networks:
        levels = images(size)
        model, tensors, logits = with_weights(network, levels)
        (folder / "timm").mkdir(parents=True, exist_ok=True)
        save_for_hf(model, folder / "timm" / network, safe_serialization=True)
        np.savez(folder / f"{network}.npz", levels=levels, logits=logits)
        print(f"{network}: {len(tensors)} tensors, largest logit {np.abs(logits).max():.3f}", flush=True)


def check(folder: Path, networks: list[str]) -> None:
    """Prints how far timm's logits of our exports are from its own of the weights they were made of."""
    import timm
    import torch
    from safetensors.numpy import load_file

    print("| network | pixels | spread of a logit | timm → here | here → timm | the same bits |")
    print("|---|---|---|---|---|---|")
    for network in networks:
        given, ours = (dict(np.load(folder / f"{network}{kind}.npz")) for kind in ("", ".ours"))
        exported = folder / "ours" / network
        model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
        sees = timm.data.resolve_model_data_config(model)
        back = logits_of(model, given["levels"], sees["mean"], sees["std"])
        tensors = load_file(exported / "model.safetensors")
        timms(network).load_state_dict(
            {name: torch.from_numpy(array) for name, array in tensors.items()}, strict=True
        )
        before = load_file(folder / "timm" / network / "model.safetensors")
        same = before.keys() == tensors.keys() and all(
            before[name].shape == tensors[name].shape and before[name].tobytes() == tensors[name].tobytes()
            for name in before
            if not name.endswith("num_batches_tracked")
        )
        scale = np.abs(given["logits"]).max()
        spread = np.std(given["logits"], axis=0).mean() / scale
        differences = (np.abs(each - given["logits"]).max() / scale for each in (ours["logits"], back))
        print(
            f"| {network} | {given['levels'].shape[1]} | {spread:.2f} | "
            + " | ".join(f"{difference:.1e}" for difference in differences)
            + f" | {'yes' if same else 'NO'} |",
            flush=True,
        )


def fixtures() -> None:
    """Writes names and shapes of all networks, and logits of those that the tests compute."""
    listed = {
        network: [(name, list(value.shape)) for name, value in timms(network).state_dict().items()]
        for network in (*NETWORKS, *SYMMETRIC)
    }
    packed = gzip.compress(json.dumps(listed, separators=(",", ":")).encode(), mtime=0)
    (DATA / "timm_tensors.json.gz").write_bytes(packed)
    kept = {}
    for network in IN_TESTS:
        assert list(shapes_of(network)) == [name for name, _ in listed[network]]
        _, tensors, logits = with_weights(network, images(TEST_SIZE))
        kept |= {f"{network}_statistics": statistics_of(tensors), f"{network}_logits": logits}
    np.savez_compressed(DATA / "timm_logits.npz", **kept)


# --- here ------------------------------------------------------------------------------------------------


def ours(folder: Path, networks: list[str]) -> None:
    """Opens what timm wrote, keeps our logits of it, and exports it."""
    import jax

    from efficientnet_pod.weights.export import export
    from efficientnet_pod.weights.open import open_weights

    for network in networks:
        began = time.monotonic()
        trained = open_weights(str(folder / "timm" / network))
        assert trained.network == network.removeprefix("efficientnet").removeprefix("_"), trained.network
        assert trained.padding == ("symmetric" if network in SYMMETRIC else "same")
        levels = np.load(folder / f"{network}.npz")["levels"]
        apply = jax.jit(lambda x, t=trained: t.model.apply(t.variables, t.normalise(x), train=False))
        np.savez(folder / f"{network}.ours.npz", logits=np.asarray(apply(levels)))
        export(trained, folder / "ours" / network, ["safetensors"])
        print(f"{network}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=("make", "ours", "check", "fixtures"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("timm_agreement"))
    parser.add_argument("--models", default=",".join(COMPARED))
    parser.add_argument("--size", type=int, default=128, help="pixels")
    flags = parser.parse_args()
    networks = flags.models.split(",")
    match flags.step:
        case "make":
            make(flags.folder, networks, flags.size)
        case "ours":
            ours(flags.folder, networks)
        case "check":
            check(flags.folder, networks)
        case _:
            fixtures()


if __name__ == "__main__":
    main()
