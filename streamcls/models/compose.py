"""Compositions of layers: chains and residuals, window and step alike."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from streamcls.errors import ModelError
from streamcls.models.geometry import Geometry
from streamcls.models.layers import Layer, State


class Chain(Layer):
    """Layers one after the other."""

    def __init__(self, layers: Sequence[Layer]):
        self.layers = nnx.List(layers)

    @property
    def time_valid(self) -> bool:
        """All layers are."""
        return all(layer.time_valid for layer in self.layers)

    @property
    def geometry(self) -> Geometry:
        """Composition of the layers' geometries."""
        total = Geometry()
        for layer in self.layers:
            total = total.then(layer.geometry)
        return total

    def __call__(self, x: jax.Array) -> jax.Array:
        """Evaluate a window."""
        for layer in self.layers:
            x = layer(x)
        return x

    def initial_state(self, batch: int) -> State:
        """Return one state per layer."""
        return tuple(layer.initial_state(batch) for layer in self.layers)

    def step(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Evaluate the next frames."""
        next_state = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            x, layer_state = layer.step(x, layer_state)
            next_state.append(layer_state)
        return x, tuple(next_state)

    def fold(self) -> None:
        """Fold every layer."""
        for layer in self.layers:
            layer.fold()


class Residual(Layer):
    """``activation(main(x) + shortcut(x))`` where both sides end on the same frame.

    The main path is usually the longer one; the shortcut is then cropped at its front, so that
    both have the same number of outputs. Streaming needs no crop: outputs of the same step
    belong together. The sum may broadcast over mels (BC-ResNet). Paths that are not time-valid
    are padded to the same length and need no crop.

    Args:
        main: The path with the larger receptive field.
        shortcut: The other path; an empty `Chain` for the identity.
        activation: Applied to the sum; ``None`` for linear.

    Raises:
        ModelError: If the two paths differ in stride or the shortcut looks back further.
    """

    def __init__(
        self,
        main: Layer,
        shortcut: Layer,
        activation: Callable[[jax.Array], jax.Array] | None = None,
    ):
        self.main = main
        self.shortcut = shortcut
        self.activation = activation
        self.crop_frames = 0
        if not self.time_valid:
            return
        longer, shorter = main.geometry, shortcut.geometry
        if longer.stride_frames != shorter.stride_frames:
            raise ModelError(
                f"residual: main path has stride {longer.stride_frames} frames, shortcut "
                f"{shorter.stride_frames}; they must be equal"
            )
        self.crop_frames = longer.receptive_frames - shorter.receptive_frames
        if self.crop_frames < 0:
            raise ModelError(
                f"residual: the shortcut's receptive field of {shorter.receptive_frames} frames "
                f"exceeds the main path's {longer.receptive_frames}; swap them"
            )

    @property
    def time_valid(self) -> bool:
        """Both paths are."""
        return self.main.time_valid and self.shortcut.time_valid

    @property
    def geometry(self) -> Geometry:
        """That of the main path."""
        return self.main.geometry

    def _join(self, main: jax.Array, shortcut: jax.Array) -> jax.Array:
        total = main + shortcut
        return total if self.activation is None else self.activation(total)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Evaluate a window."""
        return self._join(self.main(x), self.shortcut(x[:, self.crop_frames :]))

    def initial_state(self, batch: int) -> State:
        """Return ``(main state, shortcut state)``."""
        return self.main.initial_state(batch), self.shortcut.initial_state(batch)

    def step(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Evaluate the next frames."""
        main, main_state = self.main.step(x, state[0])
        shortcut, shortcut_state = self.shortcut.step(x, state[1])
        return self._join(main, shortcut), (main_state, shortcut_state)

    def fold(self) -> None:
        """Fold both paths."""
        self.main.fold()
        self.shortcut.fold()
