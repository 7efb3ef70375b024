"""How far a layer looks back and how often it answers: the arithmetic behind exact streaming.

A layer that is VALID in time turns ``L`` input frames into ``(L - receptive) // stride + 1`` output
frames. Receptive fields and strides compose, so R, S and W of a whole network follow from its
layers; nobody types them in.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Geometry:
    """Receptive field and stride in input frames.

    Attributes:
        receptive_frames: Input frames that one output frame depends on (R).
        stride_frames: Input frames between two outputs (S).
    """

    receptive_frames: int = 1
    stride_frames: int = 1

    def then(self, later: "Geometry") -> "Geometry":
        """Return the geometry of this layer followed by ``later``."""
        return Geometry(
            self.receptive_frames + (later.receptive_frames - 1) * self.stride_frames,
            self.stride_frames * later.stride_frames,
        )

    def outputs(self, frames: int) -> int:
        """Return how many outputs ``frames`` input frames give."""
        return max(0, (frames - self.receptive_frames) // self.stride_frames + 1)

    def inputs(self, outputs: int) -> int:
        """Return the fewest input frames that give ``outputs`` outputs: ``R + (n - 1) * S``."""
        return self.receptive_frames + (outputs - 1) * self.stride_frames
