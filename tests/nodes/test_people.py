"""People in places through the host's executor, and one person of many photos."""

import copy

import pytest
import torch
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import ASSETS, only, workflow
from PIL import Image

pytestmark = pytest.mark.slow

PULID = {
    "recogniser_name": "likeness_builtin_arcface.onnx",
    "eva_name": "likeness_builtin_eva02.pt",
    "parser_name": "likeness_builtin_bisenet.pth",
}
TINY = {"start_percent": 0.0, "end_percent": 1.0}


def place(where: str, **inputs) -> dict:
    inputs = {"place": where, "prompt": "", "x": 0, "y": 0, "width": 50, "height": 100, "index": 0} | inputs
    return {"class_type": "LikenessPersonInPlace", "inputs": inputs | {"face_id": ["8", 0]}}


def build(name: str, adapter: str | None = None) -> dict:
    """A workflow of one person made one of two: the same photo in both halves."""
    graph = workflow(name, steps=2)
    for key in [key for key, node in graph.items() if node["class_type"] == "PreviewImage"]:
        del graph[key]
    if adapter:
        graph["9"]["inputs"]["adapter_name"] = adapter
    graph["20"], graph["21"] = place("left half"), place("right half", people=["20", 0])
    apply = graph.pop("10")["inputs"]
    graph["10"] = {
        "class_type": "LikenessPeopleInPlaces",
        "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "people": ["21", 0], "face_adapter": ["9", 0],
            "latent": ["11", 0], "strength": 0.8, "blend": 8.0, "common_share": 0.3, **TINY,
        },
    }  # fmt: skip
    if "clip_vision" in apply:
        graph["10"]["inputs"]["clip_vision"] = apply["clip_vision"]
        for person in ("20", "21"):
            graph[person]["inputs"]["image"] = apply["image"]
    graph["12"]["inputs"]["positive"] = ["10", 1]
    return graph


@pytest.fixture(scope="module")
def fact():
    return build("fact_text_to_image")


def change(graph, node: str, **inputs) -> dict:
    graph = copy.deepcopy(graph)
    graph[node]["inputs"].update(inputs)
    return graph


def sample(executor, graph) -> torch.Tensor:
    return executor.run(graph)[only(graph, "VAEDecode")][0]


def refusal(executor, graph) -> str:
    with pytest.raises(GraphError) as caught:
        executor.run(graph)
    return str(caught.value)


def test_the_node_is_the_chain_of_its_parts(executor, fact):
    """Without prompts: Apply FACT twice, with the node's own masks."""
    outputs = executor.run(fact)
    masks, image = outputs["10"][2], outputs["13"][0]
    assert masks.shape == (2, 64, 64) and torch.allclose(masks.sum(dim=0), torch.ones(64, 64), atol=1e-6)
    chain = copy.deepcopy(fact)
    for node, model, number in (("30", ["1", 0], 0), ("31", ["30", 0], 1)):
        chain[node] = {
            "class_type": "LikenessApplyFACT",
            "inputs": {
                "model": model, "face_adapter": ["9", 0], "face_id": ["8", 0], "strength": 0.8, **TINY,
                "cfg_face": True, "mask": [f"4{number}", 0],
            },
        }  # fmt: skip
    for number in (0, 1):
        chain[f"5{number}"] = {"class_type": "MaskToImage", "inputs": {"mask": ["10", 2]}}
        chain[f"6{number}"] = {
            "class_type": "ImageFromBatch",
            "inputs": {"image": [f"5{number}", 0], "batch_index": number, "length": 1},
        }
        chain[f"4{number}"] = {"class_type": "ImageToMask", "inputs": {"image": [f"6{number}", 0], "channel": "red"}}
    chain["12"]["inputs"] |= {"model": ["31", 0], "positive": ["2", 0]}
    chained = sample(executor, chain)
    assert torch.allclose(chained, image, atol=1e-5), "but for the order in which a mask's pixels are averaged"


def test_prompts_and_places_act(executor, fact):
    images = [sample(executor, fact)]
    first = {"prompt": "a woman in a red coat"}
    told = change(fact, "10", clip=["1", 1])
    for graph in (
        change(told, "20", **first),
        change(change(told, "20", **first), "21", prompt="a man in a blue coat"),
        change(change(told, "20", **first), "10", common_share=0.0),
        change(fact, "21", place="right third"),
        change(fact, "21", place="box", x=60.0, width=30.0),
        change(fact, "10", blend=0.0),
    ):
        images.append(sample(executor, graph))
        assert torch.isfinite(images[-1]).all()
    for number, image in enumerate(images):
        assert not any(torch.equal(image, other) for other in images[:number]), number
    ignored = change(fact, "21", x=60.0, width=30.0)
    assert torch.equal(sample(executor, ignored), images[0]), "the box counts only with box"
    off = change(fact, "10", strength=0.0)
    plain = change(fact, "12", model=["1", 0], positive=["2", 0])
    assert torch.equal(sample(executor, off), sample(executor, plain))


def test_places_by_faces_and_masks(executor, fact):
    outputs = executor.run(change(fact, "21", faces=["6", 0]))
    head = outputs["10"][2][1]
    assert 0 < head.mean() < 0.7
    graph = copy.deepcopy(fact)
    graph["70"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 32, "height": 32}}
    masks = executor.run(change(graph, "21", mask=["70", 0]))["10"][2]
    assert (masks[1][:, 40:] == 1).all() and (masks[1][:, :20] == 0.5).all(), "an overlap is shared"
    assert "disconnect one of them" in refusal(executor, change(graph, "21", mask=["70", 0], faces=["6", 0]))
    more = change(fact, "21", faces=["6", 0], index=3)
    assert "face 3 is asked for, but the picture has 1 (numbered from 0). Choose another" in refusal(executor, more)
    assert torch.equal(executor.run(change(more, "21", index=0))["10"][2][1], head)


@pytest.mark.parametrize("kind", ["instantid", "pulid", "plus_face_sdxl", "faceid_plusv2_sdxl"])
def test_image_adapters(executor, kind):
    graph = build("faceid_plusv2", f"likeness_builtin_{kind}.bin")
    if kind == "pulid":
        graph["7"] = {"class_type": "LikenessLoadPulidEncoder", "inputs": PULID}
    outputs = executor.run(graph)
    both, base = outputs["13"][0], sample(executor, change(graph, "12", model=["1", 0], positive=["2", 0]))
    assert torch.isfinite(both).all() and not torch.equal(both, base)
    if kind == "pulid":  # the quickest
        one = change(graph, "21", place="box", x=0.0, y=0.0, width=100.0, height=100.0)
        del one["21"]["inputs"]["people"]
        assert not torch.equal(sample(executor, one), both)
    lora = {key: len(patches) for key, patches in outputs["10"][0].patches.items()}
    assert set(lora.values()) == ({1} if kind.startswith("faceid") else set()), "a LoRA is added once, for all people"


def test_what_is_refused_and_what_helps(executor, fact):
    """Each sentence's own remedy gives the image of the graph that was not broken."""
    good, told = sample(executor, fact), change(fact, "20", prompt="a woman")
    assert "connect clip" in refusal(executor, told)
    assert torch.isfinite(sample(executor, change(told, "10", clip=["1", 1]))).all()
    nothing = change(fact, "20", place="box", width=0.0)
    assert "place of person 1 covers nothing of the picture: look at its mask or box" in refusal(executor, nothing)
    assert torch.equal(sample(executor, change(nothing, "20", width=50.0)), good)
    nobody = copy.deepcopy(fact)
    del nobody["21"]["inputs"]["face_id"]
    assert "Person 2: there is no face: connect face_id" in refusal(executor, nobody)
    assert torch.equal(sample(executor, change(nobody, "21", face_id=["8", 0])), good)
    words = change(fact, "9", adapter_name="likeness_builtin_mapping.pt")
    assert "puts people into words and not into places" in refusal(executor, words)
    other = copy.deepcopy(fact)
    other["77"] = change(fact, "7", encoder_name="likeness_builtin_arcface.onnx")["7"]
    other["88"] = change(fact, "8", face_encoder=["77", 0])["8"]
    other["21"]["inputs"]["face_id"] = ["88", 0]
    sentence = refusal(executor, other)
    assert "Person 2: Apply FACT: " in sentence and "Choose the matching encoder in Load Face Encoder" in sentence
    matching = change(other, "77", encoder_name=fact["7"]["inputs"]["encoder_name"])
    assert torch.equal(sample(executor, matching), good)


def test_a_person_twice_is_said(executor, fact):
    executor.run(change(fact, "10", blend=7.0))
    (output,) = [data["output"] for event, data in executor.events if event == "executed" and data["node"] == "10"]
    assert list(output["text"]) == ["Person 1 and person 2 have the same face, once in each place."]


@pytest.fixture
def folder(base):
    """Three photos of one person, twice in the last, and one of nobody in a folder, of different sizes."""
    folder = base / "input" / "one person"
    folder.mkdir(exist_ok=True)
    photo = Image.open(ASSETS / "astronaut.png").convert("RGB")
    for number, side in enumerate((512, 400, 448)):
        photo.resize((side, side)).save(folder / f"{number}.png")
    pair = Image.new("RGB", (700, 448), "grey")
    pair.paste(photo.resize((252, 252)))
    pair.paste(photo.resize((448, 448)), (252, 0))
    pair.save(folder / "2.png")
    Image.new("RGB", (96, 64), "grey").save(folder / "3.png")
    yield folder.name
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_a_folder_makes_one_person(executor, fact, folder):
    graph = {key: fact[key] for key in ("5", "7")}
    graph["1"] = {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": folder}}
    graph["2"] = {
        "class_type": "LikenessLoadPerson",
        "inputs": {
            "photos": ["1", 0], "face_detector": ["5", 0], "face_encoder": ["7", 0], "odd_photos": "mark",
            "min_agreement": 0.5,
        },
    }  # fmt: skip
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}}
    face_id, crops, report = executor.run(graph)["2"]
    assert len(face_id.features) == 3 == len(crops)
    assert "Photo 3 shows 2 faces: the largest was taken.\n" in report and report.count("faces") == 1
    assert "shows no face." in report and "made of 3 of 4 photos" in report
    graph["2"]["inputs"] |= {"odd_photos": "drop", "min_agreement": 1.0}
    face_id, _, report = executor.run(graph)["2"]
    assert len(face_id.features) == 2 and "was dropped" in report and "made of 2 of 4 photos" in report
