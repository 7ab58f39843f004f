"""The Face2Diffusion workflows through a real server process."""

import asyncio
import io

import pytest
from likeness.launcher.client import Client, GraphError
from likeness.tests.support.graphs import only, workflow
from PIL import Image

pytestmark = pytest.mark.slow


def queue(url, graph):
    async def talk():
        async with Client(url) as client:
            return await client.run(graph)

    return asyncio.run(talk())


@pytest.mark.parametrize(
    "name, shown_on",
    [
        ("f2d_text_to_image", "LikenessEncodeFacePrompt"),
        ("f2d_expression", "LikenessEncodeFacePrompt"),
        ("f2d_two_people", "LikenessEncodeFacePrompt"),
        ("f2d_delayed", "LikenessEncodeDelayedFacePrompt"),
        ("f2d_best_of", "LikenessBestOf"),
    ],
)
def test_workflow(server, name, shown_on):
    graph = workflow(name)
    # A setting no other test uses: a node that the server's cache answers leaves no picture in the history.
    graph[only(graph, "LikenessLoadFaceDetector")]["inputs"]["min_score"] = 0.44
    answer = queue(server, graph)
    assert answer.status == "success"
    (file,) = answer.images[only(graph, "SaveImage")]
    assert Image.open(io.BytesIO(file.data)).size == (64, 64)
    assert answer.images[only(graph, shown_on)], "the tokens, or the scores, are shown on the node"


def test_an_error_reaches_the_person_and_the_server_goes_on(server):
    graph = workflow("f2d_text_to_image")
    graph["2"]["inputs"]["text"] = "photo of a woman"
    with pytest.raises(GraphError, match=r"LikenessEncodeFacePrompt \(node 2\): .*no placeholder"):
        queue(server, graph)
    graph["2"]["inputs"]["text"] = "photo of {face}"
    assert queue(server, graph).status == "success"
