"""The image adapter and Infinite-ID workflows through a real server process."""

import asyncio
import io

import pytest
from likeness.launcher.client import Client, GraphError
from likeness.tests.support.graphs import only, workflow
from PIL import Image

pytestmark = pytest.mark.slow

WORKFLOWS = ["faceid_plusv2", "infinite_id_photo", "infinite_id_style", "infinite_id_mixing", "two_image_adapters"]


def queue(url, graph):
    async def talk():
        async with Client(url) as client:
            return await client.run(graph)

    return asyncio.run(talk())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow(server, name):
    graph = workflow(name, steps=1)
    # A setting no other test uses: a node that the server's cache answers leaves no picture in the history.
    graph["12"]["inputs"]["seed"] = 17
    answer = queue(server, graph)
    assert answer.status == "success"
    (file,) = answer.images[only(graph, "SaveImage")]
    assert Image.open(io.BytesIO(file.data)).size == (64, 64)


def test_errors_reach_the_person_and_the_server_goes_on(server):
    graph = workflow("infinite_id_mixing", steps=1)
    apply, sampler = only(graph, "LikenessApplyImageAdapter"), only(graph, "KSampler")
    face = graph[apply]["inputs"].pop("face_id")
    with pytest.raises(GraphError, match=r"LikenessApplyImageAdapter \(node 10\): .*needs a face embedding"):
        queue(server, graph)
    graph[apply]["inputs"]["face_id"] = face
    graph[sampler]["inputs"]["sampler_name"] = "lcm"
    assert queue(server, graph).status == "success"
