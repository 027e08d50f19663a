"""Benchmarks: one file each.

`synthetic` is embedded; the others read a local copy as its publisher lays it out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from omnicore.data.benchmarks.base import Adapter
from omnicore.errors import ConfigError
from omnicore.schema import Query

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
    """The adapter of a public benchmark.

    Raises ConfigError for a name that is not in `NAMES`.
    """
    if name not in NAMES:
        raise ConfigError(
            f"no benchmark {name!r}: there are {', '.join(NAMES)}, and the embedded `synthetic`"
        )
    return cast(Adapter, import_module(f"omnicore.data.benchmarks.{name}"))


def official_scorer(name: str) -> Callable[[Query, str], float | None] | None:
    """The publisher's rule for one reply, in 0..1; None for benchmarks without a publisher."""
    return get_adapter(name).official_score if name in NAMES else None
