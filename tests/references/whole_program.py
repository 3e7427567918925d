"""EfficientNet's training as one program in TensorFlow, from the published formulas and nothing of ours.

Network, loss, gradient, learning rate, optimizer, running statistics and averages are here once more, in
float64, one tensor and one step at a time. There is no dropout and no stochastic depth, so that no random
draws have to agree. Given the same weights and images, our program must follow but for rounding.

Tensors have the names of our variables (``block2a/expand_conv/kernel``): weights are given and compared.

Source: arXiv 1905.11946 and 2011.00071; tensorflow/tpu, models/official/efficientnet: efficientnet_model.py,
efficientnet_builder.py, utils.py, lars_optimizer.py, main.py; tensorflow/python/training/rmsprop.py.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

Table = dict[str, np.ndarray]

MEAN, STD = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])

# Faults that a comparison must show, by optimizer; each changes one line.
FAULTS = {
    "lars": (
        "a learning rate one step late",
        "running variances over n - 1",
        "decay of batch norm too",
        "averages that count steps from 0",
    )
}
FAULTS["rmsprop"] = (*FAULTS["lars"], "epsilon outside the root")


class Blocks(NamedTuple):
    """A stage: number of blocks, size of their kernels, stride of the first, expansion, filters."""

    number: int
    kernel: int
    stride: int
    expansion: int
    filters: int


B0 = (
    Blocks(1, 3, 1, 1, 16),
    Blocks(2, 3, 2, 6, 24),
    Blocks(2, 5, 2, 6, 40),
    Blocks(3, 3, 2, 6, 80),
    Blocks(3, 5, 1, 6, 112),
    Blocks(4, 5, 2, 6, 192),
    Blocks(1, 3, 1, 6, 320),
)


@dataclasses.dataclass(frozen=True)
class Published:
    """A training program with the published constants.

    Attributes:
      optimizer: ``rmsprop`` or ``lars``; the first has L2 in the loss and exponential decay of its rate, the
        second has weight decay of its own and polynomial decay.
      peak: learning rate at the end of warm-up.
      steps_per_epoch: images by images of a step; a fraction.
      warmup_epochs: length of warm-up.
      total_steps: length of the run.
      end: learning rate that polynomial decay goes to.
      stages: the network.
      dtype: type of all arithmetic.
      fault: one of the optimizer's FAULTS, or none.
    """

    optimizer: str
    peak: float
    steps_per_epoch: float
    warmup_epochs: float
    total_steps: int
    end: float = 0.1
    stages: tuple[Blocks, ...] = B0
    dtype: str = "float64"
    fault: str = ""

    def train(self, weights: Table, statistics: Table, batches: Sequence[tuple[np.ndarray, np.ndarray]]):
        """Returns the loss of each step, and weights, statistics and the averages of both after the last one.

        ``batches`` are pairs of images, levels of 0..255, and labels. All images of a batch normalise
        together. The loss is the cross-entropy alone.
        """
        weights, statistics = ({n: v.astype(self.dtype) for n, v in t.items()} for t in (weights, statistics))
        averages, losses = weights | statistics, []
        momentum = {name: np.zeros_like(value) for name, value in weights.items()}
        squares = {name: np.ones_like(value) for name, value in weights.items()}
        for step, (images, labels) in enumerate(batches):
            rate = self.rate(step - (self.fault == "a learning rate one step late"))
            loss, gradients, statistics = self.gradients(weights, statistics, images, labels)
            losses.append(loss)
            for name, gradient in gradients.items():
                if self.optimizer == "lars":
                    change = rate * self.adapted(name, weights[name], gradient)
                else:
                    squares[name] = 0.9 * squares[name] + 0.1 * gradient**2
                    if self.fault == "epsilon outside the root":
                        change = rate * gradient / (np.sqrt(squares[name]) + 1e-3)
                    else:
                        change = rate * gradient / np.sqrt(squares[name] + 1e-3)
                momentum[name] = 0.9 * momentum[name] + change
                weights[name] = weights[name] - momentum[name]
            count = step + (self.fault != "averages that count steps from 0")  # read after the update
            keep = min(0.9999, (1 + count) / (10 + count))
            newest = weights | statistics
            averages = {name: keep * old + (1 - keep) * newest[name] for name, old in averages.items()}
        return np.array(losses), weights | statistics, averages

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        warmup = int(self.warmup_epochs * self.steps_per_epoch)
        if step < warmup:
            return self.peak * max(step, 0) / warmup
        if self.optimizer == "rmsprop":
            return self.peak * 0.97 ** math.floor(step / (2.4 * self.steps_per_epoch))
        done = max(1, step - warmup) / (self.total_steps - warmup + 1)
        return self.end + (self.peak - self.end) * (1 - done) ** 2

    def adapted(self, name: str, weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Returns what LARS multiplies by the learning rate; batch norm and biases it leaves as they are."""
        if "bn/" in name or name.endswith("bias"):
            decay = 1e-5 if self.fault == "decay of batch norm too" and "bn/" in name else 0.0
            return gradient + decay * weight
        w_norm, g_norm = np.sqrt(np.sum(weight**2)), np.sqrt(np.sum(gradient**2))
        trust = 0.001 * w_norm / (g_norm + 1e-5 * w_norm) if w_norm > 0 and g_norm > 0 else 1.0
        return trust * (gradient + 1e-5 * weight)

    def gradients(self, weights: Table, statistics: Table, images: np.ndarray, labels: np.ndarray):
        """Returns the cross-entropy, the gradients of the loss, and the next running statistics."""
        loss, gradients, moments = _gradients(self.stages, self.dtype)(weights, images, labels)
        gradients = {name: gradient.numpy() for name, gradient in gradients.items()}
        if self.optimizer == "rmsprop":  # ½ · 1e-5 · ‖w‖² is in the loss
            for name, weight in weights.items():
                if self.fault == "decay of batch norm too" or "bn/" not in name:
                    gradients[name] = gradients[name] + 1e-5 * weight
        following = {}
        for layer, (mean, variance, count) in moments.items():
            if self.fault == "running variances over n - 1":
                variance = variance * count / (count - 1)
            for name, new in {f"{layer}/mean": mean, f"{layer}/var": variance}.items():
                following[name] = 0.99 * statistics[name] + 0.01 * new.numpy()
        return loss.numpy(), gradients, following


@functools.cache
def _gradients(stages: tuple[Blocks, ...], dtype: str):
    """Returns a function from weights, images and labels to the cross-entropy, its gradients, and moments."""

    @tf.function(autograph=False, reduce_retracing=True)
    def gradients(weights, images, labels):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            network = Pass(weights, stages)
            logits = network.logits((tf.cast(images, dtype) - MEAN.astype(dtype)) / STD.astype(dtype))
            classes = logits.shape[1]
            target = tf.one_hot(labels, classes, dtype=dtype) * 0.9 + 0.1 / classes
            loss = -tf.reduce_mean(tf.reduce_sum(target * tf.nn.log_softmax(logits), axis=1))
        return loss, tape.gradient(loss, weights), network.moments

    return lambda *arguments: gradients(*tf.nest.map_structure(tf.constant, arguments))


class Pass:
    """One pass of training images through the network; notes the moments of each batch norm."""

    def __init__(self, variables: dict[str, tf.Tensor], stages: tuple[Blocks, ...]):
        self.variables, self.stages = variables, stages
        self.moments: dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]] = {}

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        x = swish(self.norm("stem_bn", self.conv("stem_conv", x, 2)))
        for number, stage in enumerate(self.stages, 1):
            for i in range(stage.number):
                name = f"block{number}{chr(ord('a') + i)}"
                x = self.block(name, x, stage.stride if i == 0 else 1, stage)
        x = swish(self.norm("head_bn", self.conv("head_conv", x, 1)))
        return self.dense("classifier", tf.reduce_mean(x, [1, 2]))

    def block(self, name: str, inputs: tf.Tensor, stride: int, stage: Blocks) -> tf.Tensor:
        x = inputs
        if stage.expansion > 1:
            x = swish(self.norm(f"{name}/expand_bn", self.conv(f"{name}/expand_conv", x, 1)))
        kernel = tf.transpose(self.variables[f"{name}/depthwise_conv/kernel"], [0, 1, 3, 2])
        assert kernel.shape[0] == stage.kernel
        x = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")
        x = swish(self.norm(f"{name}/depthwise_bn", x))
        squeezed = swish(self.dense(f"{name}/se_reduce", tf.reduce_mean(x, [1, 2])))
        assert squeezed.shape[1] == max(1, int(inputs.shape[3] * 0.25))
        x *= tf.sigmoid(self.dense(f"{name}/se_expand", squeezed))[:, None, None]
        x = self.norm(f"{name}/project_bn", self.conv(f"{name}/project_conv", x, 1))
        assert x.shape[3] == stage.filters
        return x + inputs if stride == 1 and inputs.shape[3] == stage.filters else x

    def conv(self, name: str, x: tf.Tensor, stride: int) -> tf.Tensor:
        return tf.nn.conv2d(x, self.variables[f"{name}/kernel"], stride, "SAME")

    def dense(self, name: str, x: tf.Tensor) -> tf.Tensor:
        return x @ self.variables[f"{name}/kernel"] + self.variables[f"{name}/bias"]

    def norm(self, name: str, x: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(x, [0, 1, 2])
        variance = tf.reduce_mean(x**2, [0, 1, 2]) - mean**2
        self.moments[name] = mean, variance, tf.cast(tf.reduce_prod(x.shape[:3]), x.dtype)
        scale, bias = self.variables[f"{name}/scale"], self.variables[f"{name}/bias"]
        return scale * (x - mean) / tf.sqrt(variance + 1e-3) + bias


def swish(x: tf.Tensor) -> tf.Tensor:
    return x * tf.sigmoid(x)
