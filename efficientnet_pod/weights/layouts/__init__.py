"""Names and axes that other libraries give to the tensors of the same networks."""

from efficientnet_pod.weights.layouts.keras import KERAS, KERAS_NUMBERED
from efficientnet_pod.weights.layouts.layout import OWN, Layout
from efficientnet_pod.weights.layouts.lukemelas import LUKEMELAS
from efficientnet_pod.weights.layouts.tensorflow import TENSORFLOW
from efficientnet_pod.weights.layouts.timm import TIMM

LAYOUTS = (TIMM, LUKEMELAS, KERAS, KERAS_NUMBERED, TENSORFLOW, OWN)

__all__ = ["KERAS", "KERAS_NUMBERED", "LAYOUTS", "LUKEMELAS", "OWN", "TENSORFLOW", "TIMM", "Layout"]
