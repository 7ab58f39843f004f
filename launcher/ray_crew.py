"""Workers as Ray's actors: one a GPU, or a given number on the CPU, each with a ComfyUI of its own.

Ray is optional. Every machine of a cluster needs this checkout at the same place, with its environment; photos and
pictures travel through Ray, so that no disk need be shared.
"""

import importlib.util
import os
import re
import socket
import sys
from pathlib import Path

from ..host_process import BASE, ROOT
from .run import RunError
from .workers import Answer, Task, WorkerLostError

_PATIENCE = 30  # seconds to wait for a cluster
_STARTS = 3
_STORE = 1 << 29  # bytes of a local store: a few photos and pictures at a time


class Actor:
    """A worker in a process of Ray's, which knows nothing of this package until it has loaded the checkout."""

    def __init__(self, root: str, comfy: str, base: str, provenance: bool):
        import importlib.util
        import os
        import sys
        from pathlib import Path

        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        spec = importlib.util.spec_from_file_location(
            "likeness", Path(root) / "__init__.py", submodule_search_locations=[root]
        )
        sys.modules["likeness"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["likeness"])
        from likeness.launcher.workers import Worker

        self.worker = Worker(None, Path(comfy), Path(base), provenance)

    async def describe(self):
        return await self.worker.describe()

    async def check(self, task, *contents):
        return await self.worker.check(task, *contents)

    async def make(self, task, *contents):
        return await self.worker.make(task, *contents)


class RayCrew:
    """Workers on a Ray cluster; where `address` is "local", one is started on this machine and stopped at the end.

    Raises RunError where Ray is not installed, or the cluster cannot be joined.
    """

    def __init__(self, address: str, workers: int | None, comfy: Path, provenance: bool):
        if importlib.util.find_spec("ray") is None:
            raise RunError(f"--ray needs Ray: {sys.executable} -m pip install 'ray>=2.40,<3'")
        import ray

        self.ray = ray
        _join(ray, address, workers)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.size = workers or gpus or 1
        # Of this module a process of Ray's knows nothing.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        actor = ray.remote(max_restarts=-1, num_gpus=1 if gpus else 0, num_cpus=1)(Actor)
        self.actors = [actor.remote(str(ROOT), str(comfy), str(BASE), provenance) for _ in range(self.size)]

    async def describe(self, worker: int) -> dict:
        return await self._call(self.actors[worker].describe.remote())

    async def check(self, task: Task, contents: list) -> dict:
        return await self._call(self.actors[0].check.remote(task, *contents))

    async def make(self, worker: int, task: Task, contents: list) -> Answer:
        return await self._call(self.actors[worker].make.remote(task, *contents))

    def put(self, content: bytes) -> object:
        return self.ray.put(content)

    async def close(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)  # its ComfyUI ends with it
        self.ray.shutdown()

    async def _call(self, reference):
        """Return what a call answers; raises what the actor raised, and WorkerLostError where it died."""
        try:
            return await reference
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            raise WorkerLostError(f"A worker of Ray died ({first})") from error


def _join(ray, address: str, workers: int | None) -> None:
    """Join a cluster, or start one; raise RunError with one sentence where that fails."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    try:
        if match := re.fullmatch(r"([^/]+):(\d+)", address):  # Ray itself would try for many minutes
            socket.create_connection((match[1], int(match[2])), timeout=_PATIENCE).close()
        if address == "local":
            cpus = max(workers or 1, os.cpu_count() or 1)
            _start(ray, num_cpus=cpus, object_store_memory=_STORE, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises that very class where a node does not start in time
        text = " ".join(str(error).split())
        if "ersion mismatch" in text:
            text = f"it runs another Python or Ray than this one, {sys.version.split()[0]} with Ray {ray.__version__}"
        raise RunError(f"The Ray cluster {address} cannot be joined: {text}.") from error


def _start(ray, **options) -> None:
    """Start a cluster on this machine; on a busy one Ray may give up after 30 seconds, and succeed the next time."""
    for left in reversed(range(_STARTS)):
        try:
            ray.init(address="local", **options)
            return
        except Exception:
            ray.shutdown()
            if not left:
                raise
