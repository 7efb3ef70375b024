"""Small networks with plausible statistics for the tests of models and engine."""

from functools import partial

import jax
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
    build = partial(build_model, architecture, settings, n_mels, n_classes)
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    fill(model, seed)
    norms = [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.BatchNorm)]
    for norm in norms:
        norm.momentum = 0.0  # the statistics become those of the one batch below
    model.train()
    x = np.random.default_rng(7).normal(-4, 3, (16, model.window_frames, n_mels))
    nnx.jit(lambda model, x: model(x))(model, jnp.asarray(x, jnp.float32))
    model.eval()
    return model


def fill(model: Classifier, seed: int) -> None:
    """Give an abstract model random weights and statistics; NumPy compiles nothing."""
    generator = np.random.default_rng(seed)
    filled = []
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        shape = variable.shape
        if isinstance(variable, nnx.RngKey):
            value = jax.random.key(0)
        elif isinstance(variable, nnx.RngState):
            value = np.zeros(shape, variable.dtype)
        elif path[-1] in ("var", "scale"):
            value = generator.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            deviation = (2 / np.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.1
            value = generator.normal(0, deviation, shape).astype(np.float32)
        filled.append((path, variable.replace(jnp.asarray(value))))
    nnx.update(model, nnx.from_flat_state(filled))
