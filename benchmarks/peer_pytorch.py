"""Owns the PyTorch side of the CPU comparisons: EfficientNet in channels_last, and one SGD step of B0."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from efficientnet_pod.models.efficientnet import VARIANTS, round_filters

# Repeats, kernel, stride, expansion, input and output filters. Source: the code of arXiv 1905.11946.
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


def _unit(
    inputs: int, outputs: int, kernel: int, stride: int, *, groups: int = 1, activation: nn.Module | None
) -> nn.Sequential:
    """A convolution, its batch norm and, if given, an activation."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    ]
    return nn.Sequential(*layers, activation) if activation else nn.Sequential(*layers)


class _SqueezeExcite(nn.Module):
    def __init__(self, filters: int, squeezed: int):
        super().__init__()
        self.reduce = nn.Conv2d(filters, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, filters, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = functional.silu(self.reduce(x.mean((2, 3), keepdim=True)), inplace=True)
        return x * torch.sigmoid(self.expand(squeezed))


class _Block(nn.Module):
    def __init__(
        self,
        kernel: int,
        stride: int,
        expansion: int,
        inputs: int,
        outputs: int,
        survival: float,
        *,
        lite: bool,
    ):
        super().__init__()
        filters = inputs * expansion
        activation = nn.ReLU6(inplace=True) if lite else nn.SiLU(inplace=True)
        expand = [_unit(inputs, filters, 1, 1, activation=activation)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            _unit(filters, filters, kernel, stride, groups=filters, activation=activation),
            *([] if lite else [_SqueezeExcite(filters, max(1, inputs // 4))]),
            _unit(filters, outputs, 1, 1, activation=None),
        )
        self.residual = stride == 1 and inputs == outputs
        self.survival = survival

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if not self.residual:
            return y
        if not self.training:
            return x + y
        kept = torch.empty(len(y), 1, 1, 1).bernoulli_(self.survival) / self.survival
        return torch.addcmul(x, y, kept)


def efficientnet(network: str) -> nn.Module:
    """Returns a network by its name in the registry, with 1,000 classes and PyTorch's symmetric padding."""
    variant = VARIANTS[network]
    activation = nn.ReLU6(inplace=True) if variant.lite else nn.SiLU(inplace=True)
    stem, head = variant.end_filters(32), variant.end_filters(1280)
    layers: list[nn.Module] = [_unit(3, stem, 3, 2, activation=activation)]
    depths = [
        repeats if variant.lite and number in (0, len(_STAGES) - 1) else math.ceil(variant.depth * repeats)
        for number, (repeats, *_) in enumerate(_STAGES)
    ]
    filters, index = stem, 0
    for depth, (_, kernel, stride, expansion, _, outputs) in zip(depths, _STAGES, strict=True):
        scaled = round_filters(outputs, variant.width)
        for repeat in range(depth):
            survival = 1 - 0.2 * index / sum(depths)
            first = stride if repeat == 0 else 1
            layers.append(_Block(kernel, first, expansion, filters, scaled, survival, lite=variant.lite))
            filters, index = scaled, index + 1
    layers += [_unit(filters, head, 1, 1, activation=activation), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(variant.dropout), nn.Linear(head, 1000))


def prepare(batch: int, image_size: int, threads: int, *, compiled: bool) -> tuple[Callable[[], None], str]:
    """Returns a function that runs one training step to its end, and a description of it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = efficientnet("b0").to(memory_format=torch.channels_last).train()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters != 5_288_548:
        raise AssertionError(f"EfficientNet-B0 has 5,288,548 parameters; this peer has {parameters:,}")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, image_size, image_size).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 1000
    run = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(run(images), labels).backward()
        optimizer.step()

    how = "channels_last, torch.compile" if compiled else "channels_last"
    return step, f"torch {torch.__version__}, {how}, {torch.get_num_threads()} threads"
