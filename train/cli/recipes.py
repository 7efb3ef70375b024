"""``python -m train recipes``: list the recipes."""

import argparse
from typing import Any

from train.cli.flags import say


def add_parser(commands: Any) -> None:
    """Add ``recipes`` to the commands."""
    recipes = commands.add_parser("recipes", help="list the recipes")
    recipes.set_defaults(run=_recipes)


def _recipes(_: argparse.Namespace) -> None:
    from train.recipes import load_recipe, recipe_names

    for name in recipe_names():
        say(f"{name:12s} {load_recipe(name).title}")
