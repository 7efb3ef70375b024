"""Compositions of layers: chains, residuals and branches, window and step alike."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from streamcls.errors import ModelError
from streamcls.models.geometry import Geometry
from streamcls.models.layers import Layer, State


class Chain(Layer):
    """Layers one after the other; profiles know each by its place and kind (``3_Residual``)."""

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
        for index, layer in enumerate(self.layers):
            with jax.named_scope(f"{index}_{type(layer).__name__}"):
                x = layer(x)
        return x

    def initial_state(self, batch: int) -> State:
        """Return one state per layer."""
        return tuple(layer.initial_state(batch) for layer in self.layers)

    def step(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Evaluate the next frames."""
        next_state = []
        for index, (layer, layer_state) in enumerate(zip(self.layers, state, strict=True)):
            with jax.named_scope(f"{index}_{type(layer).__name__}"):
                x, layer_state = layer.step(x, layer_state)
            next_state.append(layer_state)
        return x, tuple(next_state)

    def fold(self) -> None:
        """Fold every layer."""
        for layer in self.layers:
            layer.fold()

    def prepare(self, n_frames: int) -> None:
        """Prepare every layer for what the ones before it give."""
        for layer in self.layers:
            layer.prepare(n_frames)
            n_frames //= layer.geometry.stride_frames


class _Parallel(Layer):
    """Paths over the same input whose outputs end on the same frame.

    Paths that look back less far are cropped at their front, so that all have the same number of
    outputs. Streaming needs no crop: outputs of the same step belong together. Paths that are not
    time-valid are padded to the same length and need none either.
    """

    @property
    @abstractmethod
    def paths(self) -> Sequence[Layer]:
        """The paths, in the order in which `join` gets their outputs."""

    @abstractmethod
    def join(self, outputs: Sequence[jax.Array]) -> jax.Array:
        """Make one output of one per path."""

    def check_strides(self) -> None:
        """Raise `ModelError` if the paths answer at different rates."""
        strides = sorted({path.geometry.stride_frames for path in self.paths})
        if len(strides) > 1:
            raise ModelError(
                f"parallel paths have strides of {' and '.join(map(str, strides))} frames; they "
                f"must be equal"
            )

    @property
    def time_valid(self) -> bool:
        """All paths are."""
        return all(path.time_valid for path in self.paths)

    @property
    def geometry(self) -> Geometry:
        """That of the path which looks back furthest."""
        return max((path.geometry for path in self.paths), key=lambda g: g.receptive_frames)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Evaluate a window."""
        reach = self.geometry.receptive_frames
        outputs = []
        for path in self.paths:
            crop_frames = reach - path.geometry.receptive_frames if self.time_valid else 0
            outputs.append(path(x[:, crop_frames:]))
        return self.join(outputs)

    def initial_state(self, batch: int) -> State:
        """Return one state per path."""
        return tuple(path.initial_state(batch) for path in self.paths)

    def step(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Evaluate the next frames."""
        stepped = [path.step(x, one) for path, one in zip(self.paths, state, strict=True)]
        return self.join([output for output, _ in stepped]), tuple(one for _, one in stepped)

    def fold(self) -> None:
        """Fold every path."""
        for path in self.paths:
            path.fold()

    def prepare(self, n_frames: int) -> None:
        """Prepare every path."""
        for path in self.paths:
            path.prepare(n_frames)


class Residual(_Parallel):
    """``activation(main(x) + shortcut(x))``; the sum may broadcast over mels (BC-ResNet).

    Args:
        main: Any path.
        shortcut: The other path; an empty `Chain` for the identity.
        activation: Applied to the sum; ``None`` for linear.

    Raises:
        ModelError: If the two paths differ in stride.
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
        self.check_strides()

    @property
    def paths(self) -> Sequence[Layer]:
        """Main path and shortcut."""
        return self.main, self.shortcut

    def join(self, outputs: Sequence[jax.Array]) -> jax.Array:
        """Add and activate."""
        main, shortcut = outputs
        total = main + shortcut
        return total if self.activation is None else self.activation(total)


class Branches(_Parallel):
    """Paths side by side, their channels concatenated (Inception).

    Args:
        branches: Paths of the same stride and number of mels; receptive fields may differ.

    Raises:
        ModelError: If the paths differ in stride.
    """

    def __init__(self, branches: Sequence[Layer]):
        self.branches = nnx.List(branches)
        self.check_strides()

    @property
    def paths(self) -> Sequence[Layer]:
        """The branches."""
        return self.branches

    def join(self, outputs: Sequence[jax.Array]) -> jax.Array:
        """Concatenate the channels."""
        return jnp.concatenate(outputs, axis=-1)
