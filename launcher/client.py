"""A small client for a running ComfyUI: queue a graph, follow it, fetch its images."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

Prompt = dict[str, dict]  # API form: node id -> {"class_type", "inputs", "_meta"}
Progress = Callable[[str, float, float], None]  # node id, steps done, steps in all


class GraphError(Exception):
    """The host refused the graph or a node failed; the text names the nodes and gives their messages.

    inputs: the inputs that the host refused, each as (node id, name).
    """

    def __init__(self, text: str, inputs: frozenset[tuple[str, str]] = frozenset()):
        super().__init__(text)
        self.inputs = inputs


class HostGoneError(GraphError):
    """The host went away before a graph was done."""


@dataclass(frozen=True)
class ImageFile:
    """One file a node left: its bytes as saved, and what the host says of it (filename, subfolder, type)."""

    data: bytes
    info: dict


@dataclass(frozen=True)
class GraphResult:
    """What came of a prompt: "success" or "interrupted", the host's history entry, and the images by node id."""

    status: str
    history: dict
    images: dict[str, list[ImageFile]]


class Client:
    """One connection to a host; use it in `async with`.

    extra_data: what goes with every graph, beside it.
    """

    def __init__(self, url: str, extra_data: dict | None = None):
        self.url = url
        self.id = uuid.uuid4().hex
        self.extra_data = extra_data or {}

    async def __aenter__(self) -> "Client":
        self.session = aiohttp.ClientSession(self.url)
        return self

    async def __aexit__(self, *_) -> None:
        await self.session.close()

    async def upload_image(self, path: Path) -> str:
        """Put a file into the host's input folder, as `upload`."""
        return await self.upload(path.read_bytes(), path.name)

    async def upload(self, data: bytes, name: str) -> str:
        """Put a file's content into the host's input folder and return the name LoadImage knows it by.

        Another file of that name stays; this one then gets a number behind its name.
        """
        form = aiohttp.FormData()
        form.add_field("image", data, filename=name)
        async with self.session.post("/upload/image", data=form, raise_for_status=True) as answer:
            return (await answer.json())["name"]

    async def check(self, prompt: Prompt) -> dict:
        """Have the pack on the host look at a graph without queueing it.

        Returns "provenance", which is None or what the pictures would say of themselves, and "licences", a text; {}
        where the pack there is too old to be asked. Raises GraphError that lists all that is wrong.
        """
        async with self.session.post("/likeness/check", json={"prompt": prompt}) as answer:
            if answer.status in (404, 405):
                return {}
            answer.raise_for_status()
            reply = await answer.json()
        if reply["error"] or reply["node_errors"]:
            raise _refusal(reply, prompt)
        return reply

    async def run(self, prompt: Prompt, on_progress: Progress = lambda *_: None) -> GraphResult:
        """Queue a graph, wait for its end and fetch its images; raises as `follow`."""
        status, history = await self.follow(prompt, on_progress)
        images = {
            node: [await self.fetch(info) for info in output["images"]]
            for node, output in history["outputs"].items()
            if "images" in output
        }
        return GraphResult(status, history, images)

    async def follow(self, prompt: Prompt, on_progress: Progress = lambda *_: None) -> tuple[str, dict]:
        """Queue a graph and wait for its end; return "success" or "interrupted", and the host's history entry.

        Cancelled, it takes the graph off the host too.

        Raises:
            GraphError: the host refused the graph, a node failed, or the host went away.
        """
        async with self.session.ws_connect(f"/ws?clientId={self.id}", max_msg_size=0) as socket:
            prompt_id = await self._queue(prompt)
            try:
                status = await self._follow(socket, prompt_id, on_progress)
            except asyncio.CancelledError:
                with contextlib.suppress(aiohttp.ClientError):  # the host may have been stopped by the same Ctrl-C
                    await self._cancel(prompt_id)
                raise
        return status, (await self._get(f"/history/{prompt_id}"))[prompt_id]

    async def interrupt(self) -> None:
        """Stop what is running."""
        await self.session.post("/interrupt", raise_for_status=True)

    async def _cancel(self, prompt_id: str) -> None:
        """Take a graph off the host, whether it waits or runs."""
        await self.session.post("/queue", json={"delete": [prompt_id]}, raise_for_status=True)
        await self.session.post("/interrupt", json={"prompt_id": prompt_id}, raise_for_status=True)

    async def fetch(self, info: dict) -> ImageFile:
        """Return a file that a node left; info: what the history says of it."""
        where = {key: info[key] for key in ("filename", "subfolder", "type")}
        async with self.session.get("/view", params=where, raise_for_status=True) as answer:
            return ImageFile(await answer.read(), info)

    async def object_info(self) -> dict:
        """Return the description of every node the host has, by class."""
        return await self._get("/object_info")

    async def stats(self) -> dict:
        """Return what the host says of itself and its devices."""
        return await self._get("/system_stats")

    async def models(self, folder: str) -> list[str]:
        """Return the files in one of the host's model folders; none if there is no such folder."""
        async with self.session.get(f"/models/{folder}") as answer:
            return await answer.json() if answer.status == 200 else []

    async def _get(self, path: str) -> dict:
        async with self.session.get(path, raise_for_status=True) as answer:
            return await answer.json()

    async def _queue(self, prompt: Prompt) -> str:
        request = {"prompt": prompt, "client_id": self.id, "extra_data": self.extra_data}
        async with self.session.post("/prompt", json=request) as answer:
            reply = await answer.json()
        # With some nodes faulty the host answers 200 and runs what does not depend on them.
        if answer.status == 200 and reply["node_errors"]:
            await self._cancel(reply["prompt_id"])
        if answer.status != 200 or reply["node_errors"]:
            raise _refusal(reply, prompt)
        return reply["prompt_id"]

    async def _follow(self, socket: aiohttp.ClientWebSocketResponse, prompt_id: str, on_progress: Progress) -> str:
        status = "success"
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:  # previews
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id") != prompt_id:
                continue
            if kind == "progress_state":
                for node in data["nodes"].values():
                    if node["state"] == "running":
                        on_progress(node["display_node_id"], node["value"], node["max"])
            elif kind == "execution_error":
                raise GraphError(f"{data['node_type']} (node {data['node_id']}): {data['exception_message'].strip()}")
            elif kind == "execution_interrupted":
                status = "interrupted"
            elif kind == "executing" and data["node"] is None:  # sent once the history is written
                return status
        raise HostGoneError("The host went away before the graph was done; its log says why.")


def _refusal(reply: dict, prompt: Prompt) -> GraphError:
    """Return the host's reasons for not taking a graph, one line a reason."""
    errors = [(node, error) for node, found in reply.get("node_errors", {}).items() for error in found["errors"]]
    lines = [
        f"{prompt[node]['class_type']} (node {node}): {error['message']}: {error['details']}" for node, error in errors
    ]
    inputs = frozenset((node, error.get("extra_info", {}).get("input_name")) for node, error in errors)
    return GraphError("\n".join(lines) or reply["error"]["message"], inputs)
