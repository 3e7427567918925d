"""timm's side of the comparison on a GPU: EfficientNet in channels_last, bfloat16 autocast, SGD, averages.

It does a little less than ours: SGD instead of LARS, no guard against what is not finite, no hits counted,
and images arrive normalised.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.plain_flax import EMA_DECAY, LABEL_SMOOTHING, SCALINGS, SURVIVAL


def network(model: str) -> tuple[nn.Module, str]:
    """Returns the network with 1,000 classes, and what it is: timm's, else that of `peer_pytorch`."""
    try:
        import timm
    except ModuleNotFoundError:
        from benchmarks.peer_pytorch import efficientnet

        return efficientnet(model), "timm is not installed: the network of benchmarks/peer_pytorch.py"
    rates = {"drop_rate": SCALINGS[model].dropout, "drop_path_rate": 1 - SURVIVAL}
    return timm.create_model(f"efficientnet_{model}", **rates), f"timm {timm.__version__}"


def prepare(
    contender: str, model: str, batch: int, image_size: int, platform: str
) -> tuple[Callable[[], None], Callable[[], Any], Callable[[], dict[str, Any]]]:
    """Returns three functions: one starts a step, one waits for it, one gives the figures.

    ``timm-compiled`` goes through `torch.compile`, at the first step.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    peer, what = network(model)
    parameters, wanted = sum(parameter.numel() for parameter in peer.parameters()), SCALINGS[model].parameters
    if parameters != wanted:
        raise AssertionError(f"{model} has {wanted:,} parameters; this peer has {parameters:,}")
    peer = peer.to(platform, memory_format=torch.channels_last).train()
    averaged = AveragedModel(peer, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.01, momentum=0.9, foreach=True)
    images = torch.randn(batch, 3, image_size, image_size, dtype=torch.bfloat16, device=platform)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=platform) % 1000
    forward = torch.compile(peer) if contender == "timm-compiled" else peer

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(platform, torch.bfloat16):
            logits = forward(images)
        functional.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING).backward()
        optimizer.step()
        averaged.update_parameters(peer)

    def wait() -> None:
        if platform == "cuda":
            torch.cuda.synchronize()

    def describe() -> dict[str, Any]:
        on_gpu = platform == "cuda"
        return {
            "what": f"torch {torch.__version__}, {what}",
            "device_kind": torch.cuda.get_device_name() if on_gpu else platform,
            "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        }

    return step, wait, describe
