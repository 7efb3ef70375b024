"""Networks that are VALID in time, evaluated over a window or step by step."""

from streamcls.models.classifier import Classifier
from streamcls.models.geometry import Geometry
from streamcls.models.registry import ARCHITECTURES, build_model, resolve_settings

__all__ = ["ARCHITECTURES", "Classifier", "Geometry", "build_model", "resolve_settings"]
