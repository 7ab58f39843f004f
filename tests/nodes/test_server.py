"""The FACT graph through a real server process: HTTP, websocket, history, interrupt."""

import asyncio
import io

import numpy as np
import pytest
import torch
from likeness.launcher import hosting
from likeness.launcher.client import Client, GraphError
from likeness.launcher.environment import find_host
from likeness.tests.support.graphs import only, workflow
from PIL import Image

pytestmark = pytest.mark.slow


def queue(url, graph, on_progress=lambda *_: None):
    async def talk():
        async with Client(url) as client:
            return await client.run(graph, on_progress)

    return asyncio.run(talk())


def result(graph, answer) -> np.ndarray:
    (file,) = answer.images[only(graph, "SaveImage")]
    assert file.info["type"] == "output"
    return np.asarray(Image.open(io.BytesIO(file.data)))


def test_progress_previews_and_image(server):
    graph, reports = workflow("fact_text_to_image", steps=3), []
    # A setting no other test uses: a node that the server's cache answers leaves no picture in the history.
    graph[only(graph, "LikenessLoadFaceDetector")]["inputs"]["min_score"] = 0.45
    answer = queue(server, graph, lambda node, value, most: reports.append((node, value, most)))
    assert answer.status == "success"
    assert {value for node, value, most in reports if node == only(graph, "KSampler") and most == 3} >= {1, 2}
    assert result(graph, answer).shape == (64, 64, 3)
    (saved,) = answer.images[only(graph, "SaveImage")]
    assert b"trainedAlgorithmicMedia" in Image.open(io.BytesIO(saved.data)).info["xmp"]
    overlay = answer.images[only(graph, "LikenessDetectFaces")]
    assert Image.open(io.BytesIO(overlay[0].data)).size == (512, 512), "Detect Faces shows what it found on itself"


def test_the_same_graph_twice_and_the_adapter_off(server):
    graph = workflow("fact_text_to_image")
    first = result(graph, queue(server, graph))
    graph[only(graph, "KSampler")]["inputs"]["seed"] = 2
    other_seed = result(graph, queue(server, graph))
    graph[only(graph, "KSampler")]["inputs"]["seed"] = 1
    assert (result(graph, queue(server, graph)) == first).all() and (other_seed != first).any()
    graph[only(graph, "LikenessApplyFACT")]["inputs"]["strength"] = 0.0
    assert (result(graph, queue(server, graph)) != first).any()


def test_interrupt_in_the_middle_leaves_the_server_usable(server):
    graph = workflow("fact_text_to_image", steps=500)

    async def talk():
        async with Client(server) as client:
            waiting = []

            def stop_at_step(node, value, most):
                if most == 500 and value >= 2 and not waiting:
                    waiting.append(asyncio.ensure_future(client.interrupt()))

            return await client.run(graph, stop_at_step)

    assert asyncio.run(talk()).status == "interrupted"
    again = workflow("fact_text_to_image")
    assert queue(server, again).status == "success"


def test_errors_reach_the_person_and_the_server_goes_on(server):
    graph = workflow("fact_text_to_image")
    graph[only(graph, "LikenessLoadFaceAdapter")]["inputs"]["adapter_name"] = "gone.ckpt"
    with pytest.raises(GraphError, match=r"LikenessLoadFaceAdapter \(node 9\): .*'gone.ckpt' is missing"):
        queue(server, graph)
    graph = workflow("fact_text_to_image")
    graph[only(graph, "LikenessLoadFaceEncoder")]["inputs"]["encoder_name"] = "likeness_builtin_fact.ckpt"
    with pytest.raises(GraphError, match=r"LikenessLoadFaceEncoder \(node 7\): .*is not a TransFace encoder"):
        queue(server, graph)
    assert queue(server, workflow("fact_text_to_image")).status == "success"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the host takes --novram only where there is a GPU")
def test_novram_gives_the_same_image(server, base):
    graph = workflow("fact_text_to_image")
    expected = result(graph, queue(server, graph))
    with hosting.start(base, find_host(), extra_args=["--novram"]) as host:
        file = result(graph, queue(host.url, graph))
    assert abs(file.astype(int) - expected).max() <= 1
