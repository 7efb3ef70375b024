"""Recipes: everything that decides a training, as one frozen, typed value.

A recipe is a module of this package with a function ``recipe() -> Recipe``; its docstring opens
with the command, the run time and the expected score. ``--set key=value`` overrides one setting
(``--set epochs=3 --set augment.mixup_probability=0``).
"""

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

import msgspec

from streamcls.features import FrontEnd
from train.augment import Augment
from train.data import Source, Task
from train.errors import RecipeError
from train.split import FoldBy

Precision = Literal["float32", "bfloat16"]
Optimizer = Literal["muon", "adamw"]


@dataclass(frozen=True)
class Synthesis:
    """Words to be rendered by `train.synth` before training, as extra speakers."""

    folder: str
    """Where the rendered clips go, relative to the synthesis root."""
    words: tuple[str, ...]
    """Rendered with their own spelling as the label."""
    renderings: int = 60
    """Voices per word."""


@dataclass(frozen=True)
class Recipe:
    """One training, completely described."""

    name: str
    title: str
    labels: tuple[str, ...]
    unknown: str | None
    """Label of sounds that are words but none of the others; None if there is none."""
    silence: str | None
    """Label of windows without a word; None if there is none."""
    sources: tuple[Source, ...]
    front_end: FrontEnd
    architecture: str
    model: dict[str, Any] = field(default_factory=dict)
    """Settings that differ from the architecture's defaults."""
    synthesis: tuple[Synthesis, ...] = ()
    task: Task = "single-label"
    """Whether the labels exclude each other (softmax) or each is its own question (sigmoid)."""
    leave_one_out: str | None = None
    """Source whose groups are the folds; None: five folds by hash of the group."""
    fold_by: FoldBy = "group"
    """With ``split`` the folds are those that the source ``leave_one_out`` itself names."""
    validate: bool = True
    """Keep a tenth of the groups to choose the best checkpoint; otherwise the last is kept."""
    class_weight: dict[str, float] = field(default_factory=dict)
    """How often a class is drawn, relative to 1."""
    noise_labels: tuple[str, ...] = ()
    """Clips of these labels also serve as noise under the words."""
    augment: Augment = field(default_factory=Augment)
    epochs: int = 30
    steps_per_epoch: int = 60
    batch_size: int = 128
    """Examples of one optimiser step, over all devices."""
    accumulate_steps: int = 1
    """Parts that a batch is differentiated in, one after the other: less memory, same gradients.
    Only batch norms notice: each part is normalised by its own statistics."""
    views: int = 2
    """Differently warped and masked copies of each window in a batch (repeated augmentation)."""
    optimizer: Optimizer = "muon"
    """``muon`` trains the kernels of convolutions by Muon and the rest by AdamW."""
    learning_rate: float = 6e-3
    """Highest rate of AdamW."""
    kernel_rate: float = 0.05
    """Highest rate of Muon: the spectral norm of a kernel's update."""
    kernel_decay: float = 0.05
    """Weight decay of Muon, a share of its rate."""
    trunk_rate: float = 1.0
    """Learning rate of the trunk relative to that of the head; 0 freezes it, batch norms too."""
    warmup_fraction: float = 0.1
    weight_decay: float = 1e-3
    label_smoothing: float = 0.05
    word_weight: float = 0.5
    """Weight of the second loss, which names every word (see `train.state.WordHead`)."""
    ema_decay: float = 0.99
    clip_norm: float = 5.0
    """Largest global norm of a gradient."""
    precision: Precision = "float32"
    """What the network computes in. Weights, their updates, statistics of batch norms, log-mel
    frames and losses are float32 in any case."""
    seed: int = 0
    licence: str = ""
    """Licences and attribution of the training data, for the checkpoint's header."""

    def __post_init__(self) -> None:
        for name in (
            "epochs", "steps_per_epoch", "batch_size", "accumulate_steps", "learning_rate",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise RecipeError(f"{name} = {getattr(self, name)}, must be positive")
        for name in ("warmup_fraction", "label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)}, must be in [0, 1)")
        if not 0 <= self.trunk_rate <= 1:
            raise RecipeError(f"trunk_rate = {self.trunk_rate}, must be in [0, 1]")
        if self.views < 1 or self.batch_size % self.views:
            raise RecipeError(f"views = {self.views}, must divide batch_size = {self.batch_size}")
        if self.n_drawn % self.accumulate_steps:
            raise RecipeError(
                f"accumulate_steps = {self.accumulate_steps}, must divide batch_size / views = "
                f"{self.n_drawn}"
            )
        for name in (self.unknown, self.silence):
            if name is not None and name not in self.labels:
                raise RecipeError(f"label {name!r} is none of {', '.join(self.labels)}")

    @property
    def unknown_labels(self) -> list[str]:
        """Labels that mean "nothing I know", in the order of a checkpoint's header."""
        return [name for name in (self.unknown, self.silence) if name is not None]

    def without_synthesis(self) -> "Recipe":
        """Return the recipe without rendered speakers."""
        recorded = tuple(source for source in self.sources if not source.rendered)
        return dataclasses.replace(self, sources=recorded, synthesis=())

    @property
    def n_drawn(self) -> int:
        """Clips drawn for one batch; each is seen in `views` variants."""
        return self.batch_size // self.views

    @property
    def n_at_a_time(self) -> int:
        """Of those, how many are worked on at a time; the devices share them."""
        return self.n_drawn // self.accumulate_steps

    @property
    def n_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * self.steps_per_epoch


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_recipe(name: str, overrides: dict[str, str] | None = None) -> Recipe:
    """Return a recipe by name with ``key=value`` overrides applied.

    Raises:
        RecipeError: Unknown recipe or setting, or a value of the wrong type or range.
    """
    if name not in recipe_names():
        raise RecipeError(f"unknown recipe {name!r}; known are {', '.join(recipe_names())}")
    return apply_overrides(
        importlib.import_module(f"train.recipes.{name}").recipe(), overrides or {}
    )


def apply_overrides(recipe: Recipe, overrides: dict[str, str]) -> Recipe:
    """Return a recipe with ``key=value`` overrides applied.

    Raises:
        RecipeError: Unknown setting, or a value of the wrong type or range.
    """
    if overrides.get("architecture", recipe.architecture) != recipe.architecture:
        # The recipe's settings are those of its own architecture; other ones start from theirs.
        recipe = dataclasses.replace(recipe, model={})
    for key, text in overrides.items():
        recipe = _override(recipe, key, key.split("."), text)
    return recipe


def _override(target: Any, key: str, path: list[str], text: str) -> Any:
    """Return ``target`` with the setting at ``path`` replaced by the parsed ``text``."""
    first, *rest = path
    if isinstance(target, dict):
        if rest:
            raise RecipeError(f"--set {key}: {first} has no settings of its own")
        return {**target, first: _parse(key, text, Any)}
    known = [f.name for f in dataclasses.fields(target)]
    if first not in known:
        raise RecipeError(f"--set {key}: no such setting; known are {', '.join(known)}")
    current = getattr(target, first)
    if rest:
        if not (dataclasses.is_dataclass(current) or isinstance(current, dict)):
            raise RecipeError(f"--set {key}: {first} has no settings of its own")
        return dataclasses.replace(target, **{first: _override(current, key, rest, text)})
    return dataclasses.replace(
        target, **{first: _parse(key, text, get_type_hints(type(target))[first])}
    )


def _parse(key: str, text: str, wanted: Any) -> Any:
    """Convert JSON text (or a bare word) to the wanted type."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = text
    try:
        return msgspec.convert(value, wanted)
    except (msgspec.ValidationError, TypeError) as error:
        raise RecipeError(f"--set {key}={text}: {error}") from None
