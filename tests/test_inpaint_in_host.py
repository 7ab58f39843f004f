"""FACT inpainting as whole graphs in the host: what changes, what does not, and what a person reads when it cannot be."""

import copy

import numpy as np
import pytest
import torch
from likeness.tests.executor import GraphError
from likeness.tests.graphs import only, workflow
from PIL import Image

NAMES = ["fact_inpaint", "fact_inpaint_one_of_three"]
TEMPLATES = {"fact_inpaint": "portrait.png", "fact_inpaint_one_of_three": "three_faces.png"}
RESULT = "13"  # the VAE Decode of the inpainted crop; the other one is the round trip


def template(base, graph) -> torch.Tensor:
    name = graph["11"]["inputs"]["image"]
    return torch.from_numpy(np.asarray(Image.open(base / "input" / name).convert("RGB")).astype(np.float32) / 255)


def node(graph, class_type) -> dict:
    return graph[only(graph, class_type)]["inputs"]


def run(executor, graph) -> tuple[torch.Tensor, list]:
    """The finished picture [H, W, 3], and what Prepare Face Crop gave."""
    outputs = executor.run(graph)
    return outputs[only(graph, "LikenessPasteFaceBack")][0][0], outputs[only(graph, "LikenessPrepareFaceCrop")]


def masked(crop) -> np.ndarray:
    """Which of the picture's pixels lie over a masked pixel of the crop: bool [H, W]."""
    (left, top, side), mask = crop.windows[0], crop.masks[0].numpy() > 0
    height, width = crop.pictures.shape[1:3]
    rows = np.floor((np.arange(height) - top + 0.5) * crop.size / side).astype(int)
    columns = np.floor((np.arange(width) - left + 0.5) * crop.size / side).astype(int)
    inside = ((rows >= 0) & (rows < crop.size))[:, None] & ((columns >= 0) & (columns < crop.size))
    return inside & mask[rows.clip(0, crop.size - 1)][:, columns.clip(0, crop.size - 1)]


@pytest.mark.parametrize("name", NAMES)
def test_published_workflows_change_the_face_and_nothing_else(executor, base, name):
    graph = workflow(name, size=128)
    assert graph["11"]["inputs"]["image"] == TEMPLATES[name]
    picture, (crop, image, mask, *guides) = run(executor, graph)
    before, face = template(base, graph), masked(crop)
    assert picture.shape == before.shape and torch.equal(picture[~face], before[~face])
    assert (picture - before).abs()[face].mean() > 0.02
    assert image.shape == (1, 128, 128, 3) and mask.shape == (1, 128, 128) and 0.1 < mask.mean() < 0.6
    assert all(guide.shape == image.shape for guide in guides) and guides[1].max() > 0.5
    off = copy.deepcopy(graph)
    node(off, "LikenessApplyFACT")["strength"] = 0.0
    assert not torch.equal(run(executor, off)[0], picture)


def test_the_chosen_face_of_three(executor, base):
    graph = workflow("fact_inpaint_one_of_three", size=64)
    before, changed = template(base, graph), []
    for index in range(3):
        node(graph, "LikenessPrepareFaceCrop")["index"] = index
        picture, _ = run(executor, graph)
        changed.append(np.nonzero((picture != before).any(dim=-1).any(dim=0).numpy())[0])
    assert all(left.max() < right.min() for left, right in zip(changed, changed[1:]))
    node(graph, "LikenessPrepareFaceCrop")["index"] = 3
    with pytest.raises(GraphError, match=r"LikenessPrepareFaceCrop: Picture 1 of 1 has no face 3, only \[0, 1, 2\]"):
        executor.run(graph)


def test_two_faces_one_after_the_other(executor, base):
    graph = workflow("fact_inpaint_one_of_three", size=64)
    second = {key: copy.deepcopy(graph[key]) for key in ("12", "13", "16", "17", "18", "20", "22", "23", "24")}
    for inputs in (entry["inputs"] for entry in second.values()):
        for key, value in inputs.items():
            if isinstance(value, list) and value[0] in second:
                inputs[key] = [f"2{value[0]}0", value[1]]
    graph |= {f"2{key}0": value for key, value in second.items()}
    graph["2160"]["inputs"]["index"], graph["2240"]["inputs"]["picture"] = 2, ["24", 0]
    graph["14"]["inputs"]["images"] = ["2240", 0]
    both, first = (executor.run(graph)[key][0][0] for key in ("2240", "24"))
    before = template(base, graph)
    middle, right = slice(400, 660), slice(740, 940)
    assert torch.equal(both[:, middle], first[:, middle]) and not torch.equal(both[:, middle], before[:, middle])
    assert torch.equal(first[:, right], before[:, right]) and not torch.equal(both[:, right], before[:, right])


def test_without_sampling_the_picture_stays(executor, base):
    """What the VAE did comes off again: denoise 0 is the round trip, and the round trip is what is returned."""
    graph = workflow("fact_inpaint", size=128)
    node(graph, "KSampler")["denoise"] = 0.0
    for blend in ("mask", "whole crop"):
        node(graph, "LikenessPasteFaceBack")["blend"] = blend
        picture, (crop, *_) = run(executor, graph)
        before, face = template(base, graph), masked(crop)
        grown = torch.nn.functional.max_pool2d(torch.from_numpy(face)[None].float(), 17, 1, 8)[0].bool()
        assert torch.equal(picture[~grown], before[~grown]), blend
    graph["24"]["inputs"]["image"] = ["16", 1]
    assert torch.equal(run(executor, graph)[0], before), "the prepared crop itself, without any VAE"


def test_the_crop_comes_back_bit_for_bit_through_the_nodes(executor, base):
    graph = workflow("fact_inpaint_one_of_three", size=200)
    graph = {key: graph[key] for key in ("5", "11", "15", "16", "24", "25", "14")}
    graph["24"]["inputs"].update(image=["16", 1], round_trip=["16", 1])
    for index in range(3):
        graph["16"]["inputs"]["index"] = index
        for blend in ("mask", "whole crop"):
            graph["24"]["inputs"]["blend"] = blend
            assert torch.equal(run(executor, graph)[0], template(base, graph))


def test_a_batch_of_latents_gives_as_many_pictures(executor, base):
    graph = workflow("fact_inpaint", size=64)
    graph["repeat"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["18", 0], "amount": 2}}
    node(graph, "KSampler")["latent_image"] = ["repeat", 0]
    pictures = executor.run(graph)["24"][0]
    assert pictures.shape == (2, 512, 448, 3) and not torch.equal(pictures[0], pictures[1])


def test_a_donor_widens_what_is_painted_and_shows_in_the_composite(executor, base):
    graph = workflow("fact_inpaint", size=128)
    plain = run(executor, graph)[1]
    node(graph, "LikenessPrepareFaceCrop")["donor"] = ["6", 0]
    crop, image, mask, _, _, _, composite = run(executor, graph)[1]
    assert torch.equal(plain[6], plain[1]) and torch.equal(image, plain[1]) and (mask >= plain[2]).all()
    shown = (composite != image).any(dim=-1)[0]
    assert 0.2 < shown.float().mean() < 0.95 and shown[64, 64]


def painted_mask(graph, width, height, value):
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": value, "width": width, "height": height}}
    node(graph, "LikenessPrepareFaceCrop")["face_mask"] = ["mask", 0]


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda graph: painted_mask(graph, 448, 512, 0.0), "There is nothing to paint over: the mask of face 0"),
        (
            lambda graph: painted_mask(graph, 512, 512, 1.0),
            "face_mask is 512 x 512 pixels, the picture .* is 448 x 512",
        ),
        (
            lambda graph: graph["25"]["inputs"].update(image="pose.png"),
            "control_image is 512 x 512 pixels, the picture",
        ),
        (lambda graph: graph["15"]["inputs"].update(face_detector=["5", 0], min_size=4000), "No face was found"),
        (
            lambda graph: graph["24"]["inputs"].update(image=["11", 0]),
            "image is 448 x 512 pixels, but has to be 64 x 64",
        ),
        (lambda graph: graph["24"]["inputs"].update(picture=["4", 0]), "picture is 512 x 512 .* has to be 448 x 512"),
    ],
)
def test_bad_input_is_one_sentence_and_the_next_graph_runs(executor, break_it, message):
    graph = workflow("fact_inpaint", size=64)
    good = copy.deepcopy(graph)
    break_it(graph)
    with pytest.raises(GraphError, match=message) as caught:
        executor.run(graph)
    assert "\n" not in str(caught.value).strip() and len(str(caught.value)) < 600
    run(executor, good)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_published_workflows_run_through_the_server(server, base, name):
    from likeness.tests.test_server import queue, result

    graph = workflow(name, size=64)
    node(graph, "LikenessLoadFaceDetector")["min_score"] = 0.44  # see test_server: a cached node leaves no picture
    answer = queue(server, graph)
    assert answer.status == "success"
    before = (template(base, graph) * 255).round().numpy()
    changed = (result(graph, answer) != before).any(axis=-1)
    assert 0.005 < changed.mean() < 0.2
