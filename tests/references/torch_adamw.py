"""Tensors, gradients and rates for fifty steps of an optimizer, and PyTorch's AdamW on them.

Where PyTorch is, `python tests/references/torch_adamw.py` writes tests/files/torch_adamw.npz.
"""

from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "files"
SHAPES = {
    "stem_conv/kernel": (3, 3, 3, 8),
    "stem_bn/scale": (8,),
    "stem_bn/bias": (8,),
    "se_reduce/kernel": (1, 1, 8, 2),
    "se_reduce/bias": (2,),
    "classifier/kernel": (8, 5),
    "classifier/bias": (5,),
    "dead_conv/kernel": (1, 1, 8, 4),
    "zero_conv/kernel": (1, 1, 4, 4),
}
STEPS = 50
# Warm-up from 0, then decay: a rate that changes each step tells inside the momentum buffer from outside.
RATES = np.concatenate([np.linspace(0, 2, 10, endpoint=False), 2 * np.linspace(1, 0.05, 40) ** 2])


def initial_weights() -> dict[str, np.ndarray]:
    """Returns the first weights: kernels at random, scales one, all else and one kernel zero."""
    rng = np.random.default_rng(0)
    weights = {name: 0.3 * rng.standard_normal(shape) for name, shape in SHAPES.items()}
    for name, shape in SHAPES.items():
        if name.endswith("bias") or name.startswith("zero"):
            weights[name] = np.zeros(shape)
        if name.endswith("scale"):
            weights[name] = np.ones(shape)
    return {name: np.float32(value) for name, value in weights.items()}


def gradients(step: int) -> dict[str, np.ndarray]:
    """Returns the gradients of a step; one kernel's are zero at every third step."""
    rng = np.random.default_rng(1000 + step)
    leaves = {name: np.float32(0.02 * rng.standard_normal(shape)) for name, shape in SHAPES.items()}
    leaves["dead_conv/kernel"] *= np.float32(step % 3 != 0)
    return leaves


def main() -> None:
    import torch

    weights = {name: torch.nn.Parameter(torch.from_numpy(w)) for name, w in initial_weights().items()}
    groups = [
        {"params": [w], "weight_decay": 0.5 if name.endswith("kernel") else 0.0}
        for name, w in weights.items()
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.6, 0.995))
    trajectory: dict[str, list[np.ndarray]] = {name: [] for name in SHAPES}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * RATES[step]
        for name, gradient in gradients(step).items():
            weights[name].grad = torch.from_numpy(gradient)
        optimizer.step()
        for name, weight in weights.items():
            trajectory[name].append(weight.detach().numpy().copy())
    np.savez_compressed(DATA / "torch_adamw.npz", **trajectory)


if __name__ == "__main__":
    main()
