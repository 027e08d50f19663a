"""`omnicore recipe`: list, show, explain and compare recipes; their JSON schema."""

from __future__ import annotations

from argparse import Namespace

from omnicore.cli.parser import Parser, add_set


def add_commands(parser: Parser) -> None:
    """Add the group `recipe`."""
    group = parser.add_command("recipe", "list, show, explain and compare recipes")
    group.add_command("list", "list the shipped recipes", run_list)
    command = group.add_command("show", "print the resolved YAML", run_show)
    command.add_argument("name", help="a shipped recipe or the path of a .yaml file")
    command.add_argument("section", nargs="?", default="", help="a section or field alone: probe")
    add_set(command)
    command = group.add_command(
        "explain", "meaning, type, default and limits of fields", run_explain
    )
    command.add_argument("field", nargs="?", default="", help="field or section: probe.draws")
    command = group.add_command("diff", "fields whose values differ between two recipes", run_diff)
    command.add_argument("a", help="a shipped recipe or the path of a .yaml file")
    command.add_argument("b", help="another one")
    group.add_command("schema", "JSON schema of recipe files, for an editor", run_schema)


def run_list(_: Namespace) -> None:
    """Print the names of the shipped recipes."""
    from omnicore.config.recipe import recipe_names

    print("\n".join(recipe_names()))


def run_show(options: Namespace) -> None:
    """Print a recipe with all its values as YAML."""
    import yaml

    from omnicore.config.recipe import load_recipe

    recipe = load_recipe(options.name, options.set)
    values = recipe.model_dump(mode="json")
    if options.section:
        from omnicore.config.explain import section

        values = section(recipe, options.section)
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


def run_explain(options: Namespace) -> None:
    """Print one field in full, or a line for each field of a section."""
    from textwrap import fill

    from omnicore.config.explain import explain

    fields = explain(options.field)
    for field in fields:
        limits = f", {field.limits}" if field.limits else ""
        default = f", default {field.default}" if field.default else ", required"
        print(f"{field.path}: {field.kind}{limits}{default}")
        if field.description:
            print(fill(field.description, 96, initial_indent="    ", subsequent_indent="    "))
        if len(fields) == 1:
            key = "part of" if field.decides else "not part of"
            print(f"    {key} the key of a result")


def run_diff(options: Namespace) -> None:
    """Print a line for each field that differs."""
    from omnicore.config.explain import named_difference

    for difference in named_difference(options.a, options.b):
        print(f"{difference.path}: {difference.a} -> {difference.b}")


def run_schema(_: Namespace) -> None:
    """Print the JSON schema."""
    import json

    from omnicore.config.explain import json_schema

    print(json.dumps(json_schema(), indent=2))
