"""EfficientNetV2-B0 to B3, S, M and L: their tables; :class:`.efficientnet.EfficientNet` is the network.

Source: arXiv 2104.00298; google/automl efficientnetv2, ``effnetv2_configs.py``. The paper's table of S has a
head of 1,792 filters, the released code and weights 1,280.
"""

from functools import partial

from efficientnet_pod.models.efficientnet import Stage, Variant

# B1 to B3 are scaled from B0's stages; S, M and L have stages of their own.
_BASE = (
    Stage(3, 1, 16, 1, 1, fused=True),
    Stage(3, 2, 32, 4, 2, fused=True),
    Stage(3, 2, 48, 4, 2, fused=True),
    Stage(3, 3, 96, 4, 2),
    Stage(3, 5, 112, 6, 1),
    Stage(3, 8, 192, 6, 2),
)
_S = (
    Stage(3, 2, 24, 1, 1, fused=True),
    Stage(3, 4, 48, 4, 2, fused=True),
    Stage(3, 4, 64, 4, 2, fused=True),
    Stage(3, 6, 128, 4, 2),
    Stage(3, 9, 160, 6, 1),
    Stage(3, 15, 256, 6, 2),
)
_M = (
    Stage(3, 3, 24, 1, 1, fused=True),
    Stage(3, 5, 48, 4, 2, fused=True),
    Stage(3, 5, 80, 4, 2, fused=True),
    Stage(3, 7, 160, 4, 2),
    Stage(3, 14, 176, 6, 1),
    Stage(3, 18, 304, 6, 2),
    Stage(3, 5, 512, 6, 1),
)
_L = (
    Stage(3, 4, 32, 1, 1, fused=True),
    Stage(3, 7, 64, 4, 2, fused=True),
    Stage(3, 7, 96, 4, 2, fused=True),
    Stage(3, 10, 192, 4, 2),
    Stage(3, 19, 224, 6, 1),
    Stage(3, 25, 384, 6, 2),
    Stage(3, 7, 640, 6, 1),
)
_Variant = partial(Variant, least_share=0.0)  # B3's first stage keeps 16 filters of 19.2
# Scaling and stages. The images are those of evaluation; the recipes train on smaller ones.
VARIANTS_V2 = {
    "v2_b0": (_Variant(1.0, 1.0, 224, 0.2), _BASE),
    "v2_b1": (_Variant(1.0, 1.1, 240, 0.2), _BASE),
    "v2_b2": (_Variant(1.1, 1.2, 260, 0.3), _BASE),
    "v2_b3": (_Variant(1.2, 1.4, 300, 0.3), _BASE),
    "v2_s": (_Variant(1.0, 1.0, 384, 0.2, stem_filters=24), _S),
    "v2_m": (_Variant(1.0, 1.0, 480, 0.3, stem_filters=24), _M),
    "v2_l": (_Variant(1.0, 1.0, 480, 0.4, stem_filters=32), _L),
}
