from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def reap() -> None:
    """Removes what this run has left on the cluster; runs last, whether the run succeeded or
    not."""
    from components.reap.run import reap

    reap()
