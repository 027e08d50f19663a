"""`omnicore recipe`: list the shipped recipes, show one with all its values."""

from __future__ import annotations

from argparse import Namespace

from omnicore.cli.parser import Parser, add_set


def add_commands(parser: Parser) -> None:
    """Add the group `recipe`."""
    group = parser.add_command("recipe", "list the shipped recipes, show one with all its values")
    group.add_command("list", "list the shipped recipes", run_list)
    command = group.add_command("show", "print the resolved YAML", run_show)
    command.add_argument("name", help="a shipped recipe or the path of a .yaml file")
    add_set(command)


def run_list(_: Namespace) -> None:
    """Print the names of the shipped recipes."""
    from omnicore.config.recipe import recipe_names

    print("\n".join(recipe_names()))


def run_show(options: Namespace) -> None:
    """Print a recipe with all its values as YAML."""
    import yaml

    from omnicore.config.recipe import load_recipe

    values = load_recipe(options.name, options.set).model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
