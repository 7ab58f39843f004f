"""Workflows for jobs of several steps, through the host's executor: groups, an edit model, folders, few steps."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
import torch
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import ASSETS, WORKFLOWS, node, workflow
from PIL import Image

pytestmark = pytest.mark.slow

LIGHTNING = (4, 1.0, "euler", "sgm_uniform")
LCM = (6, 1.0, "lcm", "sgm_uniform")
# Workflows of few steps, the ordinary ones they are made of, and their settings.
FEW_STEPS = [
    ("fact_few_steps", "fact_text_to_image", LCM),
    ("f2d_few_steps", "f2d_text_to_image", LCM),
    ("facea_few_steps", "facea_expression", LCM),
    ("faceid_few_steps", "faceid_plusv2", LIGHTNING),
    ("instantid_few_steps", "instantid", LIGHTNING),
    ("infinite_id_few_steps", "infinite_id_photo", LIGHTNING),
]
SAMPLER = ("steps", "cfg", "sampler_name", "scheduler")
OTHERS = ("ckpt_name", "filename_prefix", "strength", "face_prompt")  # what may differ, too


def draw_group(folder, name: str, count: int) -> dict:
    """A file with `count` faces side by side on grey, each another pixel pattern, and the node that loads it."""
    photo = Image.open(ASSETS / "astronaut.png").convert("RGB").crop((120, 20, 340, 290)).resize((150, 184))
    picture = Image.new("RGB", (960, 256), (128, 128, 128))
    for i in range(count):
        picture.paste(photo, (20 + 190 * i, 36 - 6 * i))
    picture.save(folder / name)
    return node("LoadImage", image=name)


def difference(before, after) -> np.ndarray:
    """Where two pictures [H, W, C] are not the same, to the bit: [H, W]."""
    return (before != after).any(dim=-1).numpy()


def count_parts(changed: np.ndarray) -> int:
    """In how many pieces along the picture's width something changed; they lie 190 pixels apart."""
    columns = np.flatnonzero(changed.any(axis=0))
    return 0 if not len(columns) else 1 + int((np.diff(columns) > 20).sum())


@pytest.fixture
def group(base):
    """The workflow for groups with pictures of two, no and five faces, quickly."""
    graph = workflow("fix_group")
    graph["12"]["inputs"].update(size=64, steps=1, expand=0, feather=2)
    for key in ("18", "23"):
        graph[key]["inputs"]["min_likeness"] = -1.0
    for number, count in enumerate((2, 0, 5)):
        graph[f"4{number}"] = draw_group(base / "input", f"likeness_group_{count}.png", count)
    graph["50"] = node("ImageBatch", image1=["40", 0], image2=["41", 0])
    graph["51"] = node("ImageBatch", image1=["50", 0], image2=["42", 0])
    for key in ("12", "15"):
        graph[key]["inputs"]["image"] = ["51", 0]
    del graph["11"]
    return graph


def test_a_batch_of_groups_gets_each_person_once_a_picture(executor, group):
    """Pictures with two, no and five faces, by likeness: two people in the first and third, nobody in the second."""
    outputs = executor.run(group)
    before, after = outputs["51"][0], outputs["12"][0]
    assert [len(faces) for faces in outputs["15"][0].per_image] == [2, 0, 5]
    assert [count_parts(difference(*pair)) for pair in zip(before, after)] == [2, 0, 2]
    assert len(outputs["12"][1]) == 4 and torch.isfinite(after).all()
    strangers = copy.deepcopy(group)
    for key in ("18", "23"):
        strangers[key]["inputs"]["min_likeness"] = 1.0
    with pytest.raises(GraphError, match="No face of the picture is like any of the people: lower min_likeness"):
        executor.run(strangers)


def test_one_person_in_the_same_batch(executor, group):
    """The workflow for one person: the face most like the photo, in each picture that has any."""
    graph = workflow("fix_faces")
    graph["12"]["inputs"].update(size=64, steps=1, expand=0, feather=2)
    graph["18"]["inputs"]["min_likeness"] = -1.0
    graph |= {key: group[key] for key in ("40", "41", "42", "50", "51")}
    for key in ("12", "15"):
        graph[key]["inputs"]["image"] = ["51", 0]
    del graph["11"]
    outputs = executor.run(graph)
    pairs = zip(outputs["51"][0], outputs["12"][0])
    assert [count_parts(difference(*pair)) for pair in pairs] == [1, 0, 1]


def test_a_crop_goes_to_another_model_and_comes_back(executor):
    """The workflow around an edit model, with SD1.5 from picture to picture in that model's place."""
    graph = workflow("edit_face")
    for key in ("1", "2", "3", "7", "8", "9", "10", "16", "17", "18", "19", "20", "21", "22", "12", "13"):
        del graph[key]
    plain = workflow("fact_text_to_image")
    graph |= {key: plain[key] for key in ("1", "2", "3", "12", "13")}
    graph["9"] = node("VAEEncode", pixels=["15", 1], vae=["1", 2])
    graph["12"]["inputs"] |= {"model": ["1", 0], "latent_image": ["9", 0], "denoise": 0.6, "steps": 1}
    graph["15"]["inputs"].update(size=256, expand=8)
    graph["23"]["inputs"]["feather"] = 4
    outputs = executor.run(graph)
    before, after = outputs["11"][0], outputs["23"][0]
    changed = difference(before[0], after[0])
    crop = outputs["15"][0]
    (left, top, side), limit = crop.windows[0], crop.limits[0].numpy()
    mine = np.zeros_like(changed)
    mine[top : top + side, left : left + side] = limit
    assert changed[mine].mean() > 0.9 and not changed[~mine].any()


def test_the_edit_model_s_nodes_fit_together(executor):
    """Nothing but the model's files is missing."""
    with pytest.raises(GraphError) as refused:
        executor.check(workflow("edit_face"))
    assert set(re.findall(r"'type': '(\w+)'", str(refused.value))) == {
        "prompt_outputs_failed_validation",
        "value_not_in_list",
    }
    assert str(refused.value).count("'value_not_in_list'") == 3


def test_two_people_of_two_photos(executor):
    outputs = executor.run(workflow("fact_two_people", steps=1))
    left, right = outputs["10"][2].mean(dim=1)
    assert left.argmax() < right.argmax() and torch.isfinite(outputs["13"][0]).all() and outputs["13"][0].std() > 0.01


def test_three_people_in_a_row(executor):
    graph = workflow("three_people")
    executor.check(graph)
    places = [graph[key]["inputs"] for key in ("18", "19", "22")]
    assert [place["place"] for place in places] == ["left third", "middle third", "right third"]
    assert [graph[place["face_id"][0]]["inputs"]["photos"] for place in places] == [["4", 0], ["16", 0], ["20", 0]]


def test_a_folder_of_photos_is_one_person_and_a_file(executor, base):
    folder = base / "input" / "person"
    folder.mkdir(exist_ok=True)
    for name in ("astronaut.png", "portrait.png", "pose.png"):
        shutil.copy(ASSETS / name, folder)
    before = set((base / "output" / "face_id").glob("her_*.safetensors"))
    outputs = executor.run(workflow("fact_folder", steps=1))
    (saved,) = set((base / "output" / "face_id").glob("her_*.safetensors")) - before
    shutil.rmtree(folder)
    saved.unlink()
    assert len(outputs["6"][0].features) == len(outputs["6"][1]) == 2, "the pose shows no face"
    assert torch.isfinite(outputs["13"][0]).all()


def read(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name, ordinary, settings", FEW_STEPS)
def test_few_steps_are_the_ordinary_workflow_with_other_settings(name, ordinary, settings):
    graph, plain = read(name), read(ordinary)
    if "30" in graph:  # the LCM LoRA, between the checkpoint and who reads its model
        source = graph.pop("30")["inputs"]["model"]
        for entry in graph.values():
            if entry["inputs"].get("model") == ["30", 0]:
                entry["inputs"]["model"] = source
    sampler = graph["12"]["inputs"]
    assert tuple(sampler[key] for key in SAMPLER) == settings
    for key, entry in graph.items():
        if entry["class_type"] != "SaveImage":
            assert entry["class_type"] == plain[key]["class_type"], key
            kept = entry["inputs"].keys() - {*SAMPLER, *OTHERS}
            assert {k: entry["inputs"][k] for k in kept} == {k: plain[key]["inputs"][k] for k in kept}, key


@pytest.mark.parametrize("name", ["fact", "f2d"])
def test_few_steps_without_guidance(executor, name):
    """At cfg 1 the negative prompt does nothing, and the person still acts."""
    graph = workflow(f"{name}_few_steps", steps=1)
    picture = executor.run(graph)["13"][0]
    assert torch.isfinite(picture).all() and picture.std() > 0.01
    other = copy.deepcopy(graph)
    other["3"]["inputs"]["text"] = "a red hat"
    assert torch.equal(executor.run(other)["13"][0], picture)
    if name == "f2d":
        graph["2"] = node("CLIPTextEncode", clip=["1", 1], text=graph["2"]["inputs"]["text"].replace("{face}", "her"))
    else:
        graph["10"]["inputs"]["strength"] = 0.0
    assert not torch.equal(executor.run(graph)["13"][0], picture)
