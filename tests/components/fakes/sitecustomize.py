"""On PYTHONPATH in tests of the runner: every step is `fake_step.py`, and the heavy modules are
empty."""

import sys
from importlib.abc import MetaPathFinder
from importlib.util import spec_from_file_location
from pathlib import Path

HERE = Path(__file__).parent
HEAVY = {"omnicore.engines.transformers", "omnicore.training.sft", "omnicore.training.rlvr"}


class Fakes(MetaPathFinder):
    def find_spec(self, name, *_):
        if name.startswith("omnicore.steps."):
            return spec_from_file_location(name, HERE / "fake_step.py")
        return spec_from_file_location(name, HERE / "empty.py") if name in HEAVY else None


sys.meta_path.insert(0, Fakes())
