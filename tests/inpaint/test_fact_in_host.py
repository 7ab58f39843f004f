"""FACT inpainting as whole graphs in the host: what changes, what does not, and what is said when it cannot be."""

import copy

import numpy as np
import pytest
import torch
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import ASSETS, only, workflow
from PIL import Image

NAMES = ["fact_inpaint", "fact_inpaint_one_of_three"]
TEMPLATES = {
    "fact_inpaint": "examples/portrait.png [temp]",
    "fact_inpaint_one_of_three": "examples/three_faces.png [temp]",
}


def template(base, graph) -> torch.Tensor:
    name = graph["11"]["inputs"]["image"]
    file = ASSETS / name.removeprefix("examples/").removesuffix(" [temp]")
    return torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).astype(np.float32) / 255)


def node(graph, class_type) -> dict:
    return graph[only(graph, class_type)]["inputs"]


def leave_unsampled(name, size=64) -> dict:
    """The workflow with the crop inverted instead of inpainted, and nothing that only the sampler needs."""
    graph = workflow(name, size=size)
    graph = {key: graph[key] for key in ("4", "5", "6", "11", "14", "15", "16", "24", "25")}
    graph["painted"] = {"class_type": "ImageInvert", "inputs": {"image": ["16", 1]}}
    graph["24"]["inputs"].update(image=["painted", 0])
    del graph["24"]["inputs"]["round_trip"]
    return graph


def run(executor, graph) -> tuple[torch.Tensor, list]:
    """The finished picture [H, W, 3], and what Prepare Face Crop gave."""
    outputs = executor.run(graph)
    return outputs[only(graph, "LikenessPasteFaceBack")][0][0], outputs[only(graph, "LikenessPrepareFaceCrop")]


def add_mask(crop) -> np.ndarray:
    """Which of the picture's pixels lie over a masked pixel of the crop: bool [H, W]."""
    (left, top, side), mask = crop.windows[0], crop.masks[0].numpy() > 0
    height, width = crop.originals.shape[1:3]
    rows = np.floor((np.arange(height) - top + 0.5) * crop.size / side).astype(int)
    columns = np.floor((np.arange(width) - left + 0.5) * crop.size / side).astype(int)
    inside = ((rows >= 0) & (rows < crop.size))[:, None] & ((columns >= 0) & (columns < crop.size))
    return inside & mask[rows.clip(0, crop.size - 1)][:, columns.clip(0, crop.size - 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_published_workflows_change_the_face_and_nothing_else(executor, base, name):
    graph = workflow(name)
    assert graph["11"]["inputs"]["image"] == TEMPLATES[name]
    original, (crop, image, mask, *guides) = run(executor, graph)
    before, face = template(base, graph), add_mask(crop)
    assert original.shape == before.shape and torch.equal(original[~face], before[~face])
    assert (original - before).abs()[face].mean() > 0.02
    assert image.shape == (1, 64, 64, 3) and mask.shape == (1, 64, 64) and 0.1 < mask.mean() < 0.6
    assert all(guide.shape == image.shape for guide in guides) and guides[1].max() > 0.5
    node(graph, "LikenessApplyFACT")["strength"] = 0.0
    assert not torch.equal(run(executor, graph)[0], original)


@pytest.mark.slow
def test_without_sampling_the_image_stays(executor, base):
    """What the VAE did comes off again: denoise 0 is the round trip, and the round trip is what is returned."""
    graph = workflow("fact_inpaint")
    node(graph, "KSampler")["denoise"] = 0.0
    for blend in ("mask", "whole crop"):
        node(graph, "LikenessPasteFaceBack")["blend"] = blend
        image, (crop, *_) = run(executor, graph)
        before, face = template(base, graph), add_mask(crop)
        grown = torch.nn.functional.max_pool2d(torch.from_numpy(face)[None].float(), 33, 1, 16)[0].bool()
        assert torch.equal(image[~grown], before[~grown]) and not torch.equal(image, before), blend


@pytest.mark.slow
def test_the_chosen_face_of_three(executor, base):
    graph, changed = leave_unsampled("fact_inpaint_one_of_three"), []
    before = template(base, graph)
    for index in range(3):
        graph["16"]["inputs"]["index"] = index
        image, (crop, *_) = run(executor, graph)
        assert torch.equal(image[~add_mask(crop)], before[~add_mask(crop)])
        changed.append(np.nonzero((image != before).any(dim=-1).any(dim=0).numpy())[0])
    assert all(left.max() < right.min() for left, right in zip(changed, changed[1:]))
    graph["16"]["inputs"]["index"] = 3
    with pytest.raises(GraphError, match=r"LikenessPrepareFaceCrop: Picture 1 of 1 has no face 3, only \[0, 1, 2\]"):
        executor.run(graph)


def test_two_faces_one_after_the_other(executor, base):
    graph = leave_unsampled("fact_inpaint_one_of_three")
    ends = []
    for first, second in ((1, 2), (2, 1)):
        for key, index in (("", first), ("again", second)):
            for name in ("16", "painted", "24"):
                graph[name + key] = copy.deepcopy(graph[name])
            graph["16" + key]["inputs"]["index"] = index
            graph["painted" + key]["inputs"]["image"] = ["16" + key, 1]
            graph["24" + key]["inputs"].update(face_crop=["16" + key, 0], image=["painted" + key, 0])
        graph["24again"]["inputs"]["picture"], graph["14"]["inputs"]["images"] = ["24", 0], ["24again", 0]
        outputs = executor.run(graph)
        ends.append((outputs["24"][0], outputs["24again"][0]))
    assert torch.equal(ends[0][1], ends[1][1])
    assert not any(torch.equal(alone, both) for alone, both in ends)


def test_the_crop_comes_back_bit_for_bit_through_the_nodes(executor, base):
    graph = leave_unsampled("fact_inpaint_one_of_three", size=200)
    graph["24"]["inputs"].update(image=["16", 1], round_trip=["16", 1])
    for index in range(3):
        graph["16"]["inputs"]["index"] = index
        for blend in ("mask", "whole crop"):
            graph["24"]["inputs"]["blend"] = blend
            assert torch.equal(run(executor, graph)[0], template(base, graph))


def test_several_results_of_one_crop_give_as_many_images(executor, base):
    graph = leave_unsampled("fact_inpaint")
    graph["two"] = {"class_type": "ImageBatch", "inputs": {"image1": ["painted", 0], "image2": ["16", 1]}}
    graph["24"]["inputs"]["image"] = ["two", 0]
    images = executor.run(graph)["24"][0]
    assert images.shape == (2, 512, 448, 3)
    assert torch.equal(images[1], template(base, graph)) and not torch.equal(images[0], images[1])


def test_a_donor_widens_what_is_painted_and_shows_in_the_composite(executor):
    graph = leave_unsampled("fact_inpaint", size=128)
    graph["16"]["inputs"]["face_share"] = 0.4
    plain = run(executor, graph)[1]
    graph["16"]["inputs"]["donor"] = ["6", 0]
    _, image, mask, _, _, _, composite = run(executor, graph)[1]
    assert torch.equal(plain[6], plain[1]) and torch.equal(image, plain[1]) and (mask >= plain[2]).all()
    shown = (composite != image).any(dim=-1)[0]
    assert 0.2 < shown.float().mean() < 0.95 and shown[64, 64]


def paint_mask(graph, width, height, value):
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": value, "width": width, "height": height}}
    graph["16"]["inputs"]["face_mask"] = ["mask", 0]


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda graph: paint_mask(graph, 448, 512, 0.0), "There is nothing to paint over: the mask of face 0"),
        (
            lambda graph: paint_mask(graph, 512, 512, 1.0),
            "face_mask is 512 x 512 pixels, the picture .* is 448 x 512",
        ),
        (
            lambda graph: graph["25"]["inputs"].update(image="examples/pose.png [temp]"),
            "control_image is 512 x 512 pixels, the picture",
        ),
        pytest.param(
            lambda graph: graph["15"]["inputs"].update(min_size=4000), "No face was found", marks=pytest.mark.slow
        ),
        (
            lambda graph: graph["24"]["inputs"].update(image=["11", 0]),
            "image is 448 x 512 pixels, but has to be 64 x 64",
        ),
        (lambda graph: graph["24"]["inputs"].update(picture=["4", 0]), "picture is 512 x 512 .* has to be 448 x 512"),
    ],
)
def test_bad_input_is_one_sentence_and_the_next_graph_runs(executor, break_it, message):
    graph = leave_unsampled("fact_inpaint")
    good = copy.deepcopy(graph)
    break_it(graph)
    with pytest.raises(GraphError, match=message) as caught:
        executor.run(graph)
    assert "\n" not in str(caught.value).strip() and len(str(caught.value)) < 600
    run(executor, good)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_published_workflows_run_through_the_server(server, base, name):
    from likeness.tests.nodes.test_server import queue, result

    graph = workflow(name, size=64)
    node(graph, "LikenessLoadFaceDetector")["min_score"] = 0.44  # see test_server: a cached node leaves no picture
    answer = queue(server, graph)
    assert answer.status == "success"
    before = (template(base, graph) * 255).round().numpy()
    changed = (result(graph, answer) != before).any(axis=-1)
    assert 0.005 < changed.mean() < 0.2
