"""The images that components run in, read once when a pipeline is compiled."""

import os

CORE = os.environ.get("OMNI_CORE_IMAGE", "localhost/omni-core:dev")
TRAIN = os.environ.get("OMNI_TRAIN_IMAGE", "localhost/omni-train:dev")
