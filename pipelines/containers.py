"""Run the tasks of a local run in their images: kfp.local's DockerRunner on Docker or podman.

KFP 2.17 asks the engine to remove a container as it ends, then asks how it ended. On podman, and
for a quick end on Docker too, it is gone by then, and KFP takes that for success: a failed step
ends green. Its tasks also lose what the runner's `environment` says as soon as one has a variable
of its own. Here a container is removed once its exit code is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import docker
    from kfp.local import DockerRunner


def container_runner(
    user: str, shared: Sequence[Path] = (), environment: Mapping[str, str] | None = None
) -> DockerRunner:
    """Create a runner with containers as Pod Security `restricted` requires them.

    They have no capabilities, a read-only root and /tmp in memory.

    They see the network of this machine, and the directories `shared` at their own paths. `user` is
    numeric, uid:gid; it must be able to write there and in the pipeline root.
    """
    from docker.types import Mount
    from kfp.local import DockerRunner, docker_task_handler

    def run(
        client: docker.DockerClient,
        image: str,
        command: list[str],
        volumes: dict[str, Any],
        **settings: Any,
    ) -> int:
        settings["environment"] = dict(environment or {}) | settings.get("environment", {})
        return run_container(client, image, command, volumes=volumes, **settings)

    docker_task_handler.run_docker_container = run
    return DockerRunner(
        user=user,
        network_mode="host",
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        mounts=[Mount(str(path), str(path), type="bind") for path in shared],
    )


def run_container(
    client: docker.DockerClient, image: str, command: list[str], **settings: Any
) -> int:
    """Run a container to its end, print its output and return its exit code.

    It is removed in every case.
    """
    from docker.errors import ImageNotFound

    try:
        client.images.get(image)
    except ImageNotFound:
        client.images.pull(image)
    container = client.containers.create(image, command, **settings)
    try:
        container.start()
        # podman replies with the first line only: a step that prints nothing for a minute would
        # time out.
        client.api.timeout = None
        # A line may arrive in pieces, and KFP puts each print on a line of its own.
        held = b""
        for piece in container.logs(stream=True, follow=True):
            *lines, held = (held + piece).split(b"\n")
            for line in lines:
                print(line.decode(errors="replace"), flush=True)
        if held:
            print(held.decode(errors="replace"), flush=True)
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)
