"""Whoever makes the pictures of a batch: a ComfyUI each, one here, several elsewhere, or Ray's actors.

A worker is asked for one graph at a time, by several callers at once, and hands back files as bytes: it writes nothing
that another one writes too.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import NamedTuple, Protocol

import aiohttp

from .. import source_label
from ..host_process import BASE
from . import hosting, run
from .client import Client, GraphError, HostGoneError, Prompt

IN_FLIGHT = 2  # graphs that a worker has at once: one runs, and the next waits beside it
_GONE = (HostGoneError, aiohttp.ClientError, ConnectionError, TimeoutError)
FOLDER = "likeness_batch"  # in the server's output folder


class WorkerLostError(Exception):
    """A worker, or its ComfyUI, died or cannot be reached; the text is a sentence."""


class Photo(NamedTuple):
    """A file that a graph reads: which input names it, and the name it gets on the server, which its content makes."""

    node: str
    input: str
    name: str


class Task(NamedTuple):
    """A graph to run. key: what its files are called on the server. photos: without their content."""

    key: str
    prompt: Prompt
    photos: tuple[Photo, ...]


class Answer(NamedTuple):
    """What came of a graph.

    files: name and content of each. outputs: what else the nodes tell, by node. facts: what the pack on the server says
    of how the pictures were made. seconds: that the server took. host: its version.
    """

    files: list[tuple[str, bytes]]
    outputs: dict[str, dict]
    facts: dict
    seconds: float
    host: str


class Crew(Protocol):
    """Workers, by number; each call raises WorkerLostError where its worker is lost, and the next one revives it."""

    size: int

    def describe(self, worker: int) -> Awaitable[dict]:
        """Return the description of every node that a worker's server has, by class."""

    def check(self, task: Task, contents: list) -> Awaitable[dict]:
        """Have the first worker's server look at a graph, as `Client.check`."""

    def make(self, worker: int, task: Task, contents: list) -> Awaitable[Answer]:
        """Have a graph run; contents: of its photos, as `put` returned them. Raises GraphError where it cannot run."""

    def put(self, content: bytes) -> object:
        """Return what stands for a photo's content in calls."""

    def close(self) -> Awaitable[None]: ...


class Worker:
    """One ComfyUI: the server at `url`, or where that is None one that is started here, and again where it died.

    comfy, base: what is started, and its base directory.
    """

    def __init__(self, url: str | None, comfy: Path | None, base: Path, provenance: bool):
        self.url, self.comfy, self.base, self.provenance = url, comfy, base, provenance
        self.lock = asyncio.Lock()
        self.stack = contextlib.ExitStack()
        self.host: hosting.RunningHost | None = None
        self.temporary: Path | None = None
        self.clients: list[Client] = []
        self.uploaded: dict[str, str] = {}
        self.version = ""
        self.known: dict = {}

    async def describe(self) -> dict:
        async with self._client():
            return self.known

    async def check(self, task: Task, *contents: bytes) -> dict:
        async with self._client() as client:
            return await client.check(await self._place_photos(client, task, contents))

    async def make(self, task: Task, *contents: bytes) -> Answer:
        async with self._client() as client:
            prompt = self._name_files(await self._place_photos(client, task, contents), task.key)
            status, history = await client.follow(prompt)
            if status != "success":
                raise GraphError("it was stopped on the server")
            if missing := run.find_missing(prompt, self.known, history["outputs"]):
                raise GraphError(f"nothing came of {', '.join(missing)}")
            answer = await self._fetch(client, history)
            if self.provenance:
                return answer
            facts = (await client.check(prompt)).get("provenance")  # for the manifest: the pictures say nothing
            return answer._replace(facts=facts or {})

    async def close(self) -> None:
        """Let go of the server, and stop it where it was started here."""
        clients, self.clients, self.known, self.host = self.clients, [], {}, None
        for client in clients:
            await client.__aexit__()
        await asyncio.to_thread(self.stack.close)

    @contextlib.asynccontextmanager
    async def _client(self):
        """Lend a connection, of which each carries one graph at a time; start or reach the server first."""
        known = None
        try:
            async with self.lock:
                if self.host and self.host.process.poll() is not None:
                    await self.close()
                if not self.known:
                    await self._open()
                known, client = self.known, self.clients.pop() if self.clients else await self._connect()
            try:
                yield client
            finally:
                if known is self.known:
                    self.clients.append(client)
                else:
                    await client.__aexit__()
        except _GONE as error:
            async with self.lock:
                if known is None or known is self.known:  # else another caller has found so, and begun anew
                    await self.close()
            raise WorkerLostError(f"The ComfyUI at {self.url or 'this machine'} cannot be reached ({error})") from error

    async def _open(self) -> None:
        if self.url is None:
            self.temporary = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="likeness-")))
            # The host empties its temporary folder, which others may share.
            arguments = ["--temp-directory", str(self.temporary)]
            host = hosting.start(self.base, self.comfy, extra_args=arguments, log=self.temporary / "host.log")
            self.host = await asyncio.to_thread(self.stack.enter_context, host)
        client = await self._connect()
        self.clients.append(client)
        self.uploaded.clear()
        self.known = await client.object_info()
        self.version = (await client.stats())["system"]["comfyui_version"]

    async def _connect(self) -> Client:
        return await Client(self.host.url if self.host else self.url, {"likeness": self.provenance}).__aenter__()

    async def _place_photos(self, client: Client, task: Task, contents: tuple[bytes, ...]) -> Prompt:
        """Upload what is not there yet, and return the graph with the photos' names."""
        prompt = {key: {**node, "inputs": dict(node["inputs"])} for key, node in task.prompt.items()}
        for photo, content in zip(task.photos, contents):
            if photo.name not in self.uploaded:
                self.uploaded[photo.name] = await client.upload(content, photo.name)
            prompt[photo.node]["inputs"][photo.input] = self.uploaded[photo.name]
        return prompt

    def _name_files(self, prompt: Prompt, key: str) -> Prompt:
        """Give what is saved a name of its own: ComfyUI's own nodes let two servers take the same number."""
        for name, node in prompt.items():
            if "filename_prefix" in node["inputs"] and run.shows_media(self.known[node["class_type"]]):
                # The host reads the whole folder for every file that it saves.
                node["inputs"]["filename_prefix"] = f"{FOLDER}/{key[:2]}/{key}_{name}"
        return prompt

    async def _fetch(self, client: Client, history: dict) -> Answer:
        facts = history["prompt"][3].get("extra_pnginfo", {}).get("likeness")
        files, outputs = [], {}
        for node, output in history["outputs"].items():
            for key, items in output.items():
                for item in items if isinstance(items, list) else [items]:
                    if not (isinstance(item, dict) and {"filename", "subfolder", "type"} <= item.keys()):
                        outputs.setdefault(node, {}).setdefault(key, []).append(item)
                    elif item["type"] == "output":
                        data = source_label.add((await client.fetch(item)).data, facts)
                        files.append((item["filename"], data))
                    self._forget(item)
        times = {name: values["timestamp"] for name, values in history["status"]["messages"] if "timestamp" in values}
        seconds = (times.get("execution_success", 0) - times.get("execution_start", 0)) / 1000
        return Answer(files, outputs, facts or {}, seconds, self.version)

    def _forget(self, item: object) -> None:
        """Remove what a server that was started here has saved of a batch: the caller has it."""
        if self.host is None or not isinstance(item, dict) or "filename" not in item:
            return
        folders = {"temp": self.temporary / "temp", "output": self.base / "output"}
        if item["type"] == "temp" or item["subfolder"].startswith(FOLDER):
            with contextlib.suppress(OSError):
                (folders[item["type"]] / item["subfolder"] / item["filename"]).unlink()


class LocalCrew:
    """Workers in this very process, one for each server, or one that starts its own."""

    def __init__(self, urls: list[str], comfy: Path | None, provenance: bool):
        self.workers = [Worker(url, comfy, BASE, provenance) for url in urls or [None]]
        self.size = len(self.workers)

    async def describe(self, worker: int) -> dict:
        return await self.workers[worker].describe()

    async def check(self, task: Task, contents: list) -> dict:
        return await self.workers[0].check(task, *contents)

    async def make(self, worker: int, task: Task, contents: list) -> Answer:
        return await self.workers[worker].make(task, *contents)

    def put(self, content: bytes) -> bytes:
        return content

    async def close(self) -> None:
        for worker in self.workers:
            await worker.close()
