"""Small networks with plausible statistics for the tests of models and engine."""

import jax
import numpy as np
from flax import nnx

from streamcls.models import Classifier, build_model


def build_seasoned(architecture: str, n_mels: int = 40, n_classes: int = 12) -> Classifier:
    """Build a network whose normalisation has seen data, as after training.

    With the statistics of a fresh network activations grow from layer to layer and absolute
    tolerances on logits mean nothing.
    """
    model = build_model(architecture, None, n_mels, n_classes, nnx.Rngs(0))
    model.train()
    step = nnx.jit(lambda model, x: model(x))
    generator = np.random.default_rng(7)
    for _ in range(40):
        x = generator.normal(-4, 3, (16, model.window_frames, n_mels)).astype(np.float32)
        step(model, jax.numpy.asarray(x))
    model.eval()
    return model
