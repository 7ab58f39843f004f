"""The host's own graph executor inside the test process: real validation, real nodes, no HTTP."""

import asyncio
from pathlib import Path

import execution
import server

import nodes


class GraphError(AssertionError):
    """The host refused a graph or a node of it failed."""


class Executor:
    """Runs API-form graphs one after another with one cache, as a session in the editor does."""

    def __init__(self, pack: Path):
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._server = server.PromptServer(self._loop)
        self.events: list[tuple[str, dict]] = []
        self._server.send_sync = lambda event, data, sid=None: self.events.append((event, data))
        self._loop.run_until_complete(nodes.init_builtin_extra_nodes())
        self._loop.run_until_complete(nodes.init_public_apis())
        if not self._loop.run_until_complete(nodes.load_custom_node(str(pack))):
            raise RuntimeError("the host could not load the pack")
        self._executor = execution.PromptExecutor(
            self._server,
            cache_type=execution.CacheType.CLASSIC,
            cache_args={"lru": 0, "ram": 0.0, "ram_inactive": 0.0},
        )

    def check(self, graph: dict) -> list[str]:
        """Have the host validate a graph and return its output nodes; raises GraphError with the host's message."""
        valid, reason, targets, node_errors = self._loop.run_until_complete(
            execution.validate_prompt("test", graph, None)
        )
        if not valid or node_errors:  # the host would run what does not depend on the faulty nodes
            raise GraphError(f"{reason} {node_errors}")
        return targets

    def run(self, graph: dict, **extra) -> dict[str, list]:
        """Run a graph and return the outputs of every node by node id; raises GraphError with the host's message.

        extra: what a request has beside the graph, such as `extra_pnginfo`.
        """
        targets = self.check(graph)
        self.events.clear()
        self._executor.execute(graph, "test", {"client_id": "test", **extra}, targets)
        for event, data in self.events:
            if event == "execution_error":
                raise GraphError(f"{data['node_type']}: {data['exception_message']}")
        return {node: self._outputs(node) for node in graph}

    def _outputs(self, node: str) -> list:
        entry = self._loop.run_until_complete(self._executor.caches.outputs.get(node))
        return [slot[0] for slot in entry.outputs] if entry else []

    def read_lists(self, node: str) -> list[list]:
        """Every output of a node of the last graph as the host's list: of an ordinary one with one entry."""
        return self._loop.run_until_complete(self._executor.caches.outputs.get(node)).outputs

    def options(self, class_type: str, name: str) -> list[str]:
        """What a combo offers, read as the editor reads it."""
        return nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()["required"][name][1]["options"]

    def forget(self) -> None:
        """Let go of all graphs and what they made."""
        self._executor.reset()

    def executed(self) -> set[str]:
        """Ids of the nodes the last graph really ran: those that the cache did not answer."""
        return {data["node"] for event, data in self.events if event == "executing" and data.get("node")}
