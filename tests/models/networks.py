"""Small networks with plausible statistics for the tests of models and engine."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from streamcls.models import Classifier, build_model


def build_seasoned(
    architecture: str, n_mels: int = 40, n_classes: int = 12, settings=None, seed: int = 0
) -> Classifier:
    """Build a network whose normalisation has seen data, as after training.

    With the statistics of a fresh network activations grow from layer to layer and absolute
    tolerances on logits mean nothing.
    """
    model = build_model(architecture, settings, n_mels, n_classes, nnx.Rngs(seed))
    norms = [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.BatchNorm)]
    for norm in norms:
        norm.momentum = 0.0  # the statistics become those of the one batch below
    model.train()
    x = np.random.default_rng(7).normal(-4, 3, (64, model.window_frames, n_mels))
    nnx.jit(lambda model, x: model(x))(model, jnp.asarray(x, jnp.float32))
    model.eval()
    return model
