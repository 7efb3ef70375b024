"""What the kernels of a compiled program do: read from XLA's text of it.

A kernel is an instruction of the entry computation that XLA runs by itself: a fusion, a matrix
product, a Fourier transform, a concatenation. `jax.named_scope` leaves its names in them.
"""

import math
import re
from dataclasses import dataclass

_ARITHMETIC = re.compile(
    "abs|add|divide|exponential.*|log|log-plus-one|logistic|maximum|minimum|multiply|negate|power|"
    "rsqrt|sqrt|subtract|tanh"
)
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(")
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%(\S+) = (\S+?\[[\d,]*\]|\(.*?\))\S* ([a-z-]+)\((.*)$")
_SHAPE = re.compile(r"[a-z]\w*\[([\d,]*)\]")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a program.

    Attributes:
        name: Unique in the program; profiles know the kernel by it.
        shape: Of the output; empty for scalars and tuples.
        code: What it does (``fusion``, ``dot``).
        operands: Names of what it reads.
        rest: The line behind the operands.
    """

    name: str
    shape: tuple[int, ...]
    code: str
    operands: tuple[str, ...]
    rest: str

    @property
    def size(self) -> int:
        """Numbers in the output."""
        return math.prod(self.shape)

    def setting(self, pattern: str) -> str:
        """Return what the group of a pattern matches in `rest`; empty if nothing."""
        match = re.search(pattern, self.rest)
        return match[1] if match else ""


class Program:
    """A compiled program's computations.

    Args:
        text: ``jax.stages.Compiled.as_text()``.

    Attributes:
        kernels: Instructions of the entry computation, by name, in the order they run.
    """

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, Instruction]] = {}
        self.kernels: dict[str, Instruction] = {}
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                current = self._computations[match[2]] = {}
                if match[1]:
                    self.kernels = current
            elif match := _INSTRUCTION.match(line):
                name, shape, code, rest = match.groups()
                inside, _, behind = rest.partition(")")
                operands = tuple(re.findall(r"%([^\s,]+)", inside))
                current[name] = Instruction(name, _read_shape(shape), code, operands, behind)

    def scope(self, name: str) -> tuple[str, ...]:
        """Return the named scopes a kernel was written in, outermost first.

        Where XLA has lost them, those of what the kernel reads; of a fusion its last operation's.
        """
        kernel = self.kernels[name]
        _, *scopes = kernel.setting(r'op_name="(jit\([^"]*)"').split("/")
        if len(scopes) > 1:
            return tuple(scopes[:-1])
        readers = (one for one in kernel.operands if self.kernels[one].code != "parameter")
        return next((found for one in readers if (found := self.scope(one))), ())

    def users(self, name: str) -> list[str]:
        """Return the kernels that read what a kernel writes."""
        users = [one for one in self.kernels.values() if name in one.operands]
        views = [one for one in users if one.code == "bitcast"]  # the same numbers
        behind = [user for view in views for user in self.users(view.name)]
        return [one.name for one in users if one.code not in ("bitcast", "tuple")] + behind

    def count_flops(self, name: str) -> float:
        """Return the floating-point operations of a kernel: arithmetic, products, transforms."""
        return self._count(self.kernels[name], self.kernels)

    def count_product_bytes(self, name: str) -> int:
        """Return what a matrix product or convolution reads and writes; 0 for other kernels."""
        kernel = self.kernels[name]
        if kernel.code not in ("dot", "convolution"):
            return 0
        return 4 * (kernel.size + sum(self.kernels[one].size for one in kernel.operands))

    def count_weight_bytes(self) -> int:
        """Return how large the weights are that the step reads (its argument of that name)."""
        of_weights = (one for one in self.kernels.values() if one.name.startswith("weights_"))
        return 4 * sum(one.size for one in of_weights if one.code == "parameter")

    def _count(self, one: Instruction, among: dict[str, Instruction]) -> float:
        if one.code == "fusion":
            inside = self._computations[one.setting(r"calls=%([^\s,]+)")]
            return sum(self._count(inner, inside) for inner in inside.values())
        if one.code == "dot":
            left = among[one.operands[0]].shape
            axes = one.setting(r"lhs_contracting_dims=\{([\d,]*)\}").split(",")
            return 2 * one.size * math.prod(left[int(axis)] for axis in axes if axis)
        if one.code == "convolution":
            kernel = among[one.operands[1]].shape
            _, axes, _ = re.split("_|->", one.setting(r"dim_labels=(\S+_\S+->[^\s,]+)"))
            return 2 * one.size * math.prod(kernel) / kernel[axes.index("o")]
        if one.code == "fft":  # of real numbers: half of the usual 5 n log2 n
            length = int(one.setting(r"fft_length=\{(\d+)\}"))
            return 2.5 * math.log2(length) * among[one.operands[0]].size
        if one.code in ("reduce", "reduce-window"):
            return among[one.operands[0]].size
        return one.size if _ARITHMETIC.fullmatch(one.code) else 0


def _read_shape(text: str) -> tuple[int, ...]:
    match = _SHAPE.match(text)
    return tuple(int(one) for one in match[1].split(",") if one) if match else ()
