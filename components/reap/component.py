from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def reap() -> None:
    """Delete what this run has left on the cluster; runs last, after success and failure."""
    from components.reap.run import reap

    reap()
