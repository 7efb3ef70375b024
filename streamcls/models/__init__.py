"""Networks written once as layers, evaluated over a window or step by step.

`layers` says what a layer is; `sliding`, `conv`, `pooling`, `norms` and `whole` are kinds of them;
`compose` puts them together; `heads` and `classifier` make a classifier of them; every other
module is one family of networks, by name in `registry`.
"""

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Branches, Chain, Residual
from streamcls.models.conv import Conv
from streamcls.models.geometry import Geometry
from streamcls.models.heads import MeanHead
from streamcls.models.pooling import Pool
from streamcls.models.registry import ARCHITECTURES, build_model, resolve_settings

__all__ = [
    "ARCHITECTURES",
    "Branches",
    "Chain",
    "Classifier",
    "Conv",
    "Geometry",
    "MeanHead",
    "Pool",
    "Residual",
    "build_model",
    "resolve_settings",
]
