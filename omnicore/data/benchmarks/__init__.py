"""Benchmarks: one module each.

`synthetic` is embedded; the others read a local copy as its publisher lays it out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from omnicore.data.benchmarks.adapter import Adapter
from omnicore.errors import ConfigError
from omnicore.schema import Query

ENTRY_POINTS = "omnicore.benchmarks"
NAMES = (
    "av_odyssey",
    "avhbench",
    "cg_av_counting",
    "daily_omni",
    "intentbench",
    "jointavbench",
    "music_avqa",
    "omnibench",
    "omnivideobench",
    "uno_bench",
    "video_holmes",
    "worldsense",
)


def get_adapter(name: str) -> Adapter:
    """Return the adapter of a benchmark: one of `NAMES`, or of an installed package.

    A package offers an adapter, a module or object as `data/benchmarks/adapter.py` describes it,
    under the entry point group `omnicore.benchmarks`.

    Raises:
        ConfigError: No adapter has that name.
    """
    if name in NAMES:
        return cast(Adapter, import_module(f"omnicore.data.benchmarks.{name}"))
    installed = entry_points(group=ENTRY_POINTS)
    if name in installed.names:
        return cast(Adapter, installed[name].load())
    others = [*NAMES, *sorted(installed.names)]
    raise ConfigError(
        f"no benchmark {name!r}: there are {', '.join(others)}, and the embedded `synthetic`; a"
        " table of your own is given with --columns",
        code="benchmark-unknown",
        field=f"prepare.sources.{name}",
    )


def official_scorer(name: str) -> Callable[[Query, str], float | None] | None:
    """Return the publisher's rule for one reply, in 0..1; None without a publisher."""
    return get_adapter(name).official_score if has_adapter(name) else None


def has_adapter(name: str) -> bool:
    """Return whether a benchmark has an adapter, here or in an installed package."""
    return name in NAMES or name in entry_points(group=ENTRY_POINTS).names
