"""AmoebaNet-D a second time, in plain TensorFlow and float64, from the cells that tensorflow/tpu published.

Source: tensorflow/tpu models/official/amoeba_net, network_utils.py, model_builder.py and model_specs.py.
Nothing here is taken from the package. Weights have names of their own, and are made when they are first
asked for.
"""

import numpy as np
import tensorflow as tf

# Operations in the order of the specification, two for each of five combinations; the states they read; and
# whether a state is used inside of the cell, so that it is no output.
NORMAL = (
    [
        "1x1",
        "max_pool_3x3",
        "none",
        "1x7_7x1",
        "1x1",
        "1x7_7x1",
        "max_pool_3x3",
        "none",
        "avg_pool_3x3",
        "1x1",
    ],
    [1, 1, 1, 0, 0, 0, 2, 2, 1, 5],
    [0, 1, 1, 0, 0, 1, 0],
)
REDUCTION = (
    ["max_pool_2x2", "max_pool_3x3", "none", "3x3", "1x7_7x1", "max_pool_3x3", "none", "max_pool_2x2",
     "avg_pool_3x3", "1x1"],
    [0, 0, 2, 1, 2, 2, 3, 1, 2, 3],
    [1, 1, 1, 1, 0, 0, 0],
)  # fmt: skip
EPSILON, SMOOTHING, AUXILIARY_WEIGHT = 1e-5, 0.1, 0.4


class Weights:
    """Weights by name, float64, random until they are set; and the statistics of batch norms."""

    def __init__(self, seed):
        self._stream = np.random.default_rng(seed)
        self.tensors, self.statistics = {}, {}

    def get(self, name, *shape):
        if name not in self.tensors:
            draw = self._stream.standard_normal(shape)
            if name.endswith("/weights"):
                value = draw / np.sqrt(np.prod(shape[:-1]))
            elif name.endswith("/gamma"):
                value = 1 + draw.clip(-2, 2) / 4
            else:
                value = draw / 10
            self.tensors[name] = tf.Variable(value.astype(np.float32).astype(np.float64))
        assert self.tensors[name].shape == shape, name
        return self.tensors[name]


class Network:
    """The network with ``num_cells`` normal cells, whose first have ``filters`` channels."""

    def __init__(self, weights, num_classes, num_cells, filters, *, training):
        self.weights, self.num_classes, self.num_cells = weights, num_classes, num_cells
        self.filters, self.training = filters, training

    def __call__(self, images):
        """Returns logits of images (batch, height, width, 3), and in training those of the auxiliary head."""
        images = tf.cast(images, tf.float64)
        stem = tf.nn.conv2d(images, self.weights.get("stem/weights", 3, 3, 3, 32), 2, "VALID")
        net = self.batch_norm(stem, "stem")
        outputs, auxiliary, scaling = [None, net], None, 1 / 4
        for number in range(2):
            net = self.cell(f"stem_cell_{number}", net, outputs[-2], scaling, 2, *REDUCTION)
            outputs.append(net)
            scaling *= 2
        reductions = [self.num_cells // 3, 2 * self.num_cells // 3]
        for number in range(self.num_cells):
            if number in reductions:
                scaling *= 2
                name = f"reduction_cell_{reductions.index(number)}"
                net = self.cell(name, net, outputs[-2], scaling, 2, *REDUCTION)
                outputs.append(net)
            net = self.cell(f"cell_{number}", net, outputs[-2], scaling, 1, *NORMAL)
            outputs.append(net)
            if number == reductions[1] - 1 and self.training:
                auxiliary = self.auxiliary_head(net)
        return self.dense(tf.reduce_mean(tf.nn.relu(net), (1, 2)), "final"), auxiliary

    def auxiliary_head(self, net):
        net = tf.nn.avg_pool2d(tf.nn.relu(net), 5, 3, "VALID")
        net = tf.nn.relu(self.conv_bn(net, "aux/proj", int(128 * AUXILIARY_WEIGHT)))
        weights = self.weights.get("aux/full/weights", *net.shape[1:], int(768 * 0.4))
        net = tf.nn.relu(self.batch_norm(tf.nn.conv2d(net, weights, 1, "VALID"), "aux/full"))
        return self.dense(tf.reshape(net, (len(net), -1)), "aux/FC")

    def cell(self, name, net, previous, scaling, stride, operations, indices, used):
        filters = int(self.filters * scaling)
        previous = self.reduced(previous, net, filters, f"{name}/prev")
        states = [self.conv_bn(tf.nn.relu(net), f"{name}/begin", filters), previous]
        for number in range(5):
            sides = []
            for side, place in (("left", 2 * number), ("right", 2 * number + 1)):
                own_stride = stride if indices[place] < 2 else 1
                scope = f"{name}/comb_{number}/{side}"
                sides.append(
                    self.operation(states[indices[place]], operations[place], own_stride, filters, scope)
                )
            states.append(sides[0] + sides[1])
        return tf.concat([state for state, inside in zip(states, used, strict=True) if not inside], -1)

    def reduced(self, previous, net, filters, name):
        if previous is None:
            return net
        if previous.shape[2] != net.shape[2]:
            previous = tf.nn.relu(previous)
            shifted = tf.pad(previous, [[0, 0], [0, 1], [0, 1], [0, 0]])[:, 1:, 1:]
            paths = []
            for path, pixels in (("path1", previous), ("path2", shifted)):
                pixels = tf.nn.avg_pool2d(pixels, 1, 2, "VALID")
                weights = self.weights.get(f"{name}/{path}/weights", 1, 1, pixels.shape[3], filters // 2)
                paths.append(tf.nn.conv2d(pixels, weights, 1, "SAME"))
            return self.batch_norm(tf.concat(paths, -1), name)
        if previous.shape[3] != filters:
            return self.conv_bn(tf.nn.relu(previous), name, filters)
        return previous

    def operation(self, net, operation, stride, filters, name):
        if operation == "none":
            assert stride == 1 and net.shape[3] == filters
            return net
        if operation == "1x1":
            return self.conv_bn(tf.nn.relu(net), f"{name}/1x1", filters, stride=(stride, stride))
        if "pool" in operation:
            pool = tf.nn.max_pool2d if operation.startswith("max") else tf.nn.avg_pool2d
            net = pool(net, int(operation[-1]), stride, "SAME")
            return net if net.shape[3] == filters else self.conv_bn(net, f"{name}/1x1", filters)
        thin = filters // 4
        net = tf.nn.relu(self.conv_bn(tf.nn.relu(net), f"{name}/pre", thin))
        if operation == "3x3":
            net = self.conv_bn(net, f"{name}/3x3", thin, (3, 3), (stride, stride))
        else:
            net = tf.nn.relu(self.conv_bn(net, f"{name}/1x7", thin, (1, 7), (1, stride)))
            net = self.conv_bn(net, f"{name}/7x1", thin, (7, 1), (stride, 1))
        return self.conv_bn(tf.nn.relu(net), f"{name}/post", filters)

    def conv_bn(self, net, name, filters, size=(1, 1), stride=(1, 1)):
        weights = self.weights.get(f"{name}/weights", *size, net.shape[3], filters)
        return self.batch_norm(tf.nn.conv2d(net, weights, stride, "SAME"), name)

    def batch_norm(self, net, name):
        gamma, beta = (self.weights.get(f"{name}/{part}", net.shape[3]) for part in ("gamma", "beta"))
        if self.training:
            self.weights.statistics[name] = tf.nn.moments(net, (0, 1, 2))
        mean, variance = self.weights.statistics[name]
        return (net - mean) * (gamma / tf.sqrt(variance + EPSILON)) + beta

    def dense(self, net, name):
        weights = self.weights.get(f"{name}/weights", net.shape[1], self.num_classes)
        return net @ weights + self.weights.get(f"{name}/biases", self.num_classes)


def smoothed_loss(logits, labels):
    """Cross-entropy with targets of 1 − s at the label and s over the classes everywhere, (batch,)."""
    classes = logits.shape[1]
    targets = tf.one_hot(labels, classes, dtype=tf.float64) * (1 - SMOOTHING) + SMOOTHING / classes
    return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), 1)


def training_loss(logits, auxiliary, labels):
    """The loss without weight decay, a scalar."""
    return tf.reduce_mean(smoothed_loss(logits, labels) + AUXILIARY_WEIGHT * smoothed_loss(auxiliary, labels))
