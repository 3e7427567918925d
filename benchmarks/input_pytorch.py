"""Owns the PyTorch side of the input comparison: a DataLoader over Pillow transforms, as torchvision's are.

Written anew, since the torchvision of this torch is not among the dependencies. Pillow's `resize` is
antialiased, which torchvision relies on.
"""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

IMAGE_SIZE, RESIZED = 224, 256
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STDDEV = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
_FLIP = Image.Transpose.FLIP_LEFT_RIGHT


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def _enhance(kind: Callable) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, change: kind(image).enhance(1 + change)


# Name → (operation, its argument at full magnitude, whether the sign is random).
_OPERATIONS: dict[str, tuple[Callable, float, bool]] = {
    "Identity": (lambda image, _: image, 0, False),
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), 0, False),
    "Equalize": (lambda image, _: ImageOps.equalize(image), 0, False),
    "ShearX": (lambda image, slope: _affine(image, 1, slope, 0, 0, 1, 0), 0.3, True),
    "ShearY": (lambda image, slope: _affine(image, 1, 0, 0, slope, 1, 0), 0.3, True),
    "TranslateX": (lambda image, pixels: _affine(image, 1, 0, pixels, 0, 1, 0), 150 / 331 * 224, True),
    "TranslateY": (lambda image, pixels: _affine(image, 1, 0, 0, 0, 1, pixels), 150 / 331 * 224, True),
    "Rotate": (lambda image, degrees: image.rotate(degrees), 30, True),
    "Brightness": (_enhance(ImageEnhance.Brightness), 0.9, True),
    "Color": (_enhance(ImageEnhance.Color), 0.9, True),
    "Contrast": (_enhance(ImageEnhance.Contrast), 0.9, True),
    "Sharpness": (_enhance(ImageEnhance.Sharpness), 0.9, True),
    "Posterize": (lambda image, bits: ImageOps.posterize(image, 8 - round(bits)), 4, False),
    "Solarize": (lambda image, cut: ImageOps.solarize(image, 255 - cut), 255, False),
    "Invert": (lambda image, _: ImageOps.invert(image), 0, False),
}
_RANDAUGMENT = [name for name in _OPERATIONS if name != "Invert"]
# Operation, probability, level of 0..9, twice. Source: arXiv:1805.09501, the policy found on ImageNet.
_AUTOAUGMENT = [
    row.split()
    for row in (
        "Posterize .4 8 Rotate .6 9,Solarize .6 5 AutoContrast .6 0,Equalize .8 0 Equalize .6 0,"
        "Posterize .6 7 Posterize .6 6,Equalize .4 0 Solarize .2 4,Equalize .4 0 Rotate .8 8,"
        "Solarize .6 3 Equalize .6 0,Posterize .8 5 Equalize 1 0,Rotate .2 3 Solarize .6 8,"
        "Equalize .6 0 Posterize .4 6,Rotate .8 8 Color .4 0,Rotate .4 9 Equalize .6 0,"
        "Equalize 0 0 Equalize .8 0,Invert .6 0 Equalize 1 0,Color .6 4 Contrast 1 8,"
        "Rotate .8 8 Color 1 2,Color .8 8 Solarize .8 7,Sharpness .4 7 Invert .6 0,"
        "ShearX .6 5 Equalize 1 0,Color .4 0 Equalize .6 0,Equalize .4 0 Solarize .2 4,"
        "Solarize .6 5 AutoContrast .6 0,Invert .6 0 Equalize 1 0,Color .6 4 Contrast 1 8,"
        "Equalize .8 0 Equalize .6 0"
    ).split(",")
]


def _apply(image: Image.Image, name: str, strength: float) -> Image.Image:
    operation, full, signed = _OPERATIONS[name]
    argument = full * strength
    return operation(image, -argument if signed and random.random() < 0.5 else argument)


def _randaugment(image: Image.Image) -> Image.Image:
    for name in random.choices(_RANDAUGMENT, k=2):
        image = _apply(image, name, 9 / 30)
    return image


def _autoaugment(image: Image.Image) -> Image.Image:
    row = random.choice(_AUTOAUGMENT)
    for name, probability, level in (row[:3], row[3:]):
        if random.random() < float(probability):
            image = _apply(image, name, int(level) / 9)
    return image


_POLICIES = {"RandAugment": _randaugment, "AutoAugment": _autoaugment}


def _random_crop(image: Image.Image) -> Image.Image:
    """Returns a crop of 8 to 100 % of the area with aspect ratio 3/4 to 4/3, resized."""
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if wide <= width and high <= height:
            break
    else:
        wide = high = min(width, height)
    left, top = random.randint(0, width - wide), random.randint(0, height - high)
    crop = image.crop((left, top, left + wide, top + high))
    return crop.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)


def _centre_crop(image: Image.Image) -> Image.Image:
    """Returns the centre of the image whose short side was resized to 256."""
    scale = RESIZED / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - IMAGE_SIZE) // 2, (height - IMAGE_SIZE) // 2
    return resized.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))


class _Photos(Dataset[Tensor]):
    def __init__(self, folder: Path, task: str):
        self.paths = sorted(folder.glob("*/*.jpg"))
        self.task = task

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        if self.task == "eval":
            image = _centre_crop(image)
        else:
            image = _random_crop(image)
            image = image.transpose(_FLIP) if random.random() < 0.5 else image
            image = _POLICIES.get(self.task, lambda image: image)(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.float().div_(255).sub_(MEAN).div_(STDDEV)


def prepare(photos: Path, task: str, batch: int, *, cores: int) -> tuple[Iterator, str]:
    """Returns the endless batches of images, as torch tensors, and a description of them."""
    train = task != "eval"
    data = _Photos(photos / ("train" if train else "validation"), task)
    loader = DataLoader(
        data, batch, shuffle=train, num_workers=cores, drop_last=True, persistent_workers=True
    )
    what = f"float32 normalised, Pillow {Image.__version__}, torch {torch.__version__}, {cores} worker(s)"
    return _forever(loader), what


def _forever(loader: DataLoader) -> Iterator[Tensor]:
    while True:
        yield from loader
