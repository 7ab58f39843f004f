"""The FaceA workflows through a real server process: training, painting, progress, Cancel."""

import asyncio
import io

import numpy as np
import pytest
from likeness.launcher.client import Client, GraphError
from likeness.tests.support.facea_identity import save_drawn, small
from likeness.tests.support.graphs import only
from PIL import Image

pytestmark = pytest.mark.slow

REFINE = "LikenessRefineFaces"
PAINTED = {"facea_refine": 1, "facea_expression": 2, "facea_style": 1, "facea_two_people": 1, "facea_transfer": 1}


@pytest.fixture(scope="module", autouse=True)
def identities(base):
    save_drawn(base)


@pytest.fixture(autouse=True)
def nothing_saved_stays(base):
    yield
    for path in (base / "output" / "facea").glob("her_*.safetensors"):
        path.unlink()


def queue(url, graph, on_progress=lambda *_: None):
    async def talk():
        async with Client(url) as client:
            return await client.run(graph, on_progress)

    return asyncio.run(talk())


def avoid_cache(graph, number=0.43) -> dict:
    """The graph with a setting no other test uses: a node that the server's cache answers leaves no picture."""
    graph[only(graph, "LikenessLoadFaceDetector")]["inputs"]["min_score"] = number
    return graph


@pytest.mark.parametrize("name", PAINTED)
def test_workflow(server, base, name):
    answer = queue(server, avoid_cache(small(name)))
    assert answer.status == "success"
    graph = small(name)
    saved = [answer.images[key] for key, node in graph.items() if node["class_type"] == "SaveImage"]
    assert len(saved) == PAINTED[name]
    for (file,) in saved:
        pixels = np.asarray(Image.open(io.BytesIO(file.data)))
        assert file.info["type"] == "output" and min(pixels.shape[:2]) >= 448 and pixels.std() > 20


def test_training_saves_a_person_that_can_be_painted(server, base):
    graph = avoid_cache(small("facea_train"))
    answer = queue(server, graph)
    assert answer.status == "success" and answer.images["12"], "the loss curve is shown"
    (path,) = (base / "output" / "facea").glob("her_*.safetensors")
    train, outputs = only(graph, "LikenessTrainFaceA"), answer.history["outputs"]
    assert len(outputs[train]["losses"]) > 1 and f"{len(outputs[train]['losses'])} steps" in outputs[train]["text"][0]
    (saved,) = (output["files"] for output in outputs.values() if "files" in output)
    assert saved == [{"filename": path.name, "subfolder": "facea", "type": "output"}]
    graph = avoid_cache(small("facea_expression"), 0.42)
    graph["10"]["inputs"]["identity_name"] = path.name
    assert queue(server, graph).status == "success"


def test_the_progress_of_each_face_is_seen(server):
    graph, reports = avoid_cache(small("facea_two_people", steps=3), 0.41), []
    queue(server, graph, lambda node, value, most: reports.append((node, value, most)))
    steps = [value for node, value, most in reports if node == only(graph, REFINE) and most == 3]
    assert {1, 2} <= set(steps) and any(later < earlier for earlier, later in zip(steps, steps[1:])), "two faces"


def test_cancel_in_the_middle_of_a_face_leaves_the_server_usable(server):
    graph = avoid_cache(small("facea_refine", steps=500), 0.4)
    graph["5"]["inputs"]["steps"] = 2

    async def talk():
        async with Client(server) as client:
            waiting = []

            def stop_at_step(node, value, most):
                if node == only(graph, REFINE) and value >= 2 and not waiting:
                    waiting.append(asyncio.ensure_future(client.interrupt()))

            return await client.run(graph, stop_at_step)

    answer = asyncio.run(talk())
    assert answer.status == "interrupted" and only(graph, "SaveImage") not in answer.images
    assert queue(server, avoid_cache(small("facea_refine"), 0.4)).status == "success"


def test_errors_reach_the_person_and_the_server_goes_on(server):
    graph = avoid_cache(small("facea_expression"), 0.39)
    graph["11"]["inputs"]["index"] = 7
    with pytest.raises(GraphError, match=rf"{REFINE} \(node 12\): There is no face 7 in any picture, only \[0\]"):
        queue(server, graph)
    graph["11"]["inputs"]["index"] = 0
    graph["10"]["inputs"]["identity_name"] = "gone.safetensors"
    with pytest.raises(GraphError, match="gone.safetensors"):
        queue(server, graph)
    assert queue(server, avoid_cache(small("facea_expression"), 0.39)).status == "success"
