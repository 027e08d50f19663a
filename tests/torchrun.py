"""Torchrun's own agent in a fork of this process, and the processes that it starts as forks of
that: torch is imported already."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omnicore.cli import main
from tests.forks import fork


def agent(flags: Sequence[str], work: Callable[[], Any], env: Mapping[str, str] = {}) -> int:
    """`torchrun FLAGS`, whose processes do the work; the id of its process."""
    # Here and not in the fork, which would import torch again in every process.
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, get_args_parser

    def launch() -> None:
        os.environ.update(env)
        config, _, _ = config_from_args(
            get_args_parser().parse_args([*flags, "--no-python", "omnicore"])
        )
        config.start_method, config.local_addr, config.monitor_interval = "fork", "127.0.0.1", 0.1
        elastic_launch(config, work)()

    return fork(launch)


def omnicore(arguments: Sequence[str], first: Callable[[], Any] = int) -> Callable[[], None]:
    """The command, as work of a process; `first` is called before it."""

    def work() -> None:
        first()
        if status := main.main(arguments):
            os._exit(status)

    return work
