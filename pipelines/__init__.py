"""The pipelines: what depends on what. What a step does is in `omnicore`, what it runs on in `place`."""

from kfp import dsl


def place(task: dsl.PipelineTask, name: str, *, gpu: bool = False) -> dsl.PipelineTask:
    """Names a task and says what it needs on a cluster; a local run ignores all of it."""
    task.set_display_name(name).set_cpu_request("4" if gpu else "500m").set_memory_request("32Gi" if gpu else "1Gi")
    return task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1) if gpu else task
