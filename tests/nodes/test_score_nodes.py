"""Pictures of drawn people scored, kept and let through, in graphs of the host."""

import copy
import csv
import io
import json

import folder_paths
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from likeness.metrics.loading import load_image_scorer
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import node, only, workflow
from likeness.tests.support.tiny_text_image import make_clip, make_dino, make_siglip
from torch.nn.functional import normalize


def person(number: int, photos: int, size: int = 96, seed: int = 0) -> dict:
    return node("LikenessRenderPerson", person=number, photos=photos, seed=seed, size=size)


@pytest.fixture(scope="module")
def graph():
    """Pictures: two of person 5, one of person 7, and a blank one; photos: others of person 5."""
    return {
        "1": person(5, 2, seed=1),
        "2": person(7, 1, seed=1),
        "3": node("EmptyImage", width=96, height=96, batch_size=1, color=0x808080),
        "4": node("ImageBatch", image1=["2", 0], image2=["1", 0]),
        "5": node("ImageBatch", image1=["3", 0], image2=["4", 0]),
        "6": person(5, 3, seed=2),
        "7": node("LikenessLoadFaceDetector", detector="drawn: miniature", min_score=-1.0, det_size=640),
        "8": node("LikenessLoadFaceScorer", scorer_name="miniature_arcface.onnx"),
        "9": node("LikenessScorePictures", images=["5", 0], photos=["6", 0], face_detector=["7", 0],
                  face_scorer=["8", 0], text="", class_words="a person"),
        "10": node("LikenessKeepBest", images=["5", 0], scores=["9", 0], count=2, min_identity=-1.0),
        "11": node("PreviewImage", images=["10", 0]),
        "12": node("LikenessGate", images=["5", 0], scores=["9", 0], min_identity=0.5),
        "13": node("PreviewImage", images=["12", 0]),
        "14": node("PreviewImage", images=["12", 1]),
    }  # fmt: skip


def change(graph: dict, key: str, **inputs) -> dict:
    graph = copy.deepcopy(graph)
    graph[key]["inputs"].update(inputs)
    return graph


def refusal(executor, graph: dict) -> str:
    with pytest.raises(GraphError) as error:
        executor.run(graph)
    return str(error.value)


def shown(executor, key: str) -> dict:
    """What the history holds of a node."""
    return next(data["output"] for event, data in executor.events if event == "executed" and data["node"] == key)


def test_the_person_is_found_kept_and_let_through(executor, graph):
    outputs = executor.run(graph)
    pictures, table = outputs["5"][0], outputs["9"][1]
    scores, identity = executor.read_lists("9")[2:4]
    assert scores == identity and identity[0] == 0, "no face"
    assert min(identity[2:]) > 0.6 > 0.4 > identity[1], "person 5, and person 7"
    assert table.shape[0] == 1
    assert [row["rank"] for row in shown(executor, "9")["scores"]][:2] == [4, 3]
    best, indices, kept_scores, report = executor.read_lists("10")
    assert sorted(indices) == [2, 3] and kept_scores == sorted(identity[2:], reverse=True)
    assert torch.equal(best[0], pictures[indices]) and report[0].startswith("Kept 2 of 4 pictures: ")
    accepted, rejected, cosines, report = executor.read_lists("12")
    assert torch.equal(accepted[0], pictures[2:]) and torch.equal(rejected[0], pictures[:2]) and cosines == identity
    assert "Picture 1: no face: rejected." in report[0] and report[0].startswith("2 of 4 pictures")
    rows = list(csv.DictReader(io.StringIO(outputs["9"][5])))
    content = json.loads(outputs["9"][6])
    assert [row["picture"] for row in rows] == list("1234") and rows[0]["identity"] == ""
    assert "miniature_arcface.onnx" in content["sources"]["identity"] and "in 1 of 4" in content["sources"]["identity"]


def test_where_none_is_left_nothing_behind_runs(executor, graph):
    strict = change(change(graph, "10", min_identity=0.99), "12", min_identity=0.99)
    executor.run(strict)
    assert isinstance(executor.read_lists("10")[0][0], ExecutionBlocker)
    assert shown(executor, "10")["text"] == ["Kept 0 of 4 pictures, 0.99 is asked: none."]
    assert not any(data["node"] in ("11", "13") for event, data in executor.events if event == "executed")
    assert any(data["node"] == "14" for event, data in executor.events if event == "executed"), "all four are rejected"


@pytest.mark.slow
def test_two_people_and_a_text(executor, graph):
    """Neither is in the other's pictures, so none is let through; CLIP reads the prompt beside."""
    two = copy.deepcopy(graph)
    two["20"], two["21"] = person(7, 2, seed=2), node("LikenessLoadMiniature", task="text to image")
    two["22"] = node("LikenessScorePictures", images=["5", 0], photos=["20", 0], face_detector=["7", 0],
                     face_scorer=["8", 0], text="a photo of {face} in a library", class_words="a person",
                     clip=["21", 4], clip_vision=["21", 3], scores=["9", 0])  # fmt: skip
    two["12"]["inputs"] |= {"scores": ["22", 0]}
    outputs = executor.run(two)
    ranking = outputs["22"][0]
    assert list(ranking.scores) == ["identity x text", "identity", "identity 2", "text", "clip-i"]
    assert isinstance(executor.read_lists("12")[0][0], ExecutionBlocker)
    assert "'a photo of a person in a library'" in ranking.sources["text"]
    assert executor.read_lists("22")[4] == ranking.scores["text"].tolist()
    assert ", identity 2 0." in outputs["12"][3]
    half = change(two, "22", clip_vision=None)
    del half["22"]["inputs"]["clip_vision"]
    assert "connect clip_vision beside clip" in refusal(executor, half)


def test_pictures_of_several_sizes(executor, graph):
    """A list, as of a folder loader: it is one set, and comes out as a list."""
    mixed = change(graph, "10", count=9)
    mixed["3"]["inputs"] |= {"width": 64}
    mixed["30"] = node("CreateList", **{"inputs.input0": ["4", 0], "inputs.input1": ["3", 0]})
    for key in ("9", "10", "12"):
        mixed[key]["inputs"]["images"] = ["30", 0]
    del mixed["5"]
    executor.run(mixed)
    best, indices = executor.read_lists("10")[:2]
    assert len(best) == 4 and [picture.shape[2] for picture in best] == [96, 96, 96, 64]
    assert indices[-1] == 3, "no face, so it comes last"


@pytest.mark.slow
def test_image_scorers_from_their_files_to_the_numbers(executor, graph, tmp_path, monkeypatch):
    """DINO, CLIP and SigLIP as they are published, chained: what the graph gives is what the networks say."""
    extensions = folder_paths.folder_names_and_paths["image_metrics"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "image_metrics", ([str(tmp_path)], extensions))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    make_clip(tmp_path / "clip-tiny"), make_siglip(tmp_path / "siglip-tiny"), make_dino(tmp_path / "dino-tiny.pth")
    files = ["dino-tiny.pth", "clip-tiny/model.safetensors", "siglip-tiny/model.safetensors"]
    scored, text = copy.deepcopy(graph), "a photo of {face} smiling"
    for number, file in enumerate(files):
        chained = {"image_scorer": [str(29 + number), 0]} if number else {}
        scored[str(30 + number)] = node("LikenessLoadImageScorer", scorer_name=file, **chained)
    scored["9"]["inputs"] |= {"image_scorer": ["32", 0], "text": text}
    outputs = executor.run(scored)
    ranking, pictures, photos = outputs["9"][0], outputs["5"][0], outputs["6"][0]
    dino, clip, siglip = (load_image_scorer(tmp_path / file) for file in files)
    words = ["a photo of a person smiling"]
    cosines = siglip.embed_images(pictures) @ siglip.embed_texts(words).T
    expected = {
        f"text {clip.label}": clip.embed_images(pictures) @ clip.embed_texts(words).T,
        f"text {siglip.label}": siglip.probability(cosines),
        "siglip cosine": cosines,
        "dino-i": (normalize(dino.embed_images(pictures)) @ normalize(dino.embed_images(photos)).T).mean(dim=1),
        f"{clip.label}-i": (clip.embed_images(pictures) @ clip.embed_images(photos).T).mean(dim=1),
    }
    for name, values in expected.items():
        torch.testing.assert_close(ranking.scores[name], values.reshape(-1), atol=1e-5, rtol=0)
    texts = torch.stack([expected[name].reshape(-1) for name in expected if name.startswith("text")]).mean(dim=0)
    torch.testing.assert_close(torch.tensor(executor.read_lists("9")[4]), texts, atol=1e-5, rtol=0)
    assert "dino-tiny.pth" in ranking.sources["dino-i"]


@pytest.mark.slow
def test_the_one_that_drew_is_no_judge(executor, graph):
    """The graph before the pictures is asked which recognisers it reads."""
    biased = copy.deepcopy(graph)
    assert "text" not in (executor.run(biased) and shown(executor, "9"))
    biased["40"] = node("LikenessLoadFaceEncoder", encoder_name="miniature_arcface.onnx")
    biased["41"] = node("LikenessLoadPerson", photos=["6", 0], face_detector=["7", 0], face_encoder=["40", 0],
                        odd_photos="mark", min_agreement=0.5)  # fmt: skip
    biased["42"] = node("ImageScale", image=["41", 1], upscale_method="area", width=96, height=96, crop="disabled")
    biased["4"]["inputs"]["image1"] = ["42", 0]
    executor.run(biased)
    (warning,) = shown(executor, "9")["text"]
    assert warning.startswith("miniature_arcface.onnx helped to draw these pictures")
    unbiased = change(biased, "40", encoder_name="miniature_transface.safetensors")
    executor.run(unbiased)
    assert "text" not in shown(executor, "9")


@pytest.mark.slow
def test_expression_and_shape_by_deep3d(executor, graph):
    inpainting = copy.deepcopy(graph)
    inpainting["50"] = node("LikenessLoadExpressionEncoder", encoder_name="likeness_builtin_deep3d.pth")
    inpainting["9"]["inputs"] |= {"expression_encoder": ["50", 0], "template": ["1", 0]}
    assert "one picture with a face, or as many as there are" in refusal(executor, inpainting)
    inpainting["51"] = node("ImageFromBatch", image=["1", 0], batch_index=0, length=1)
    inpainting["9"]["inputs"] |= {"template": ["51", 0]}
    outputs = executor.run(inpainting)
    scores = outputs["9"][0].scores
    assert list(scores)[1:3] == ["expression_l2", "expression_mse"] and "pose_degrees" in scores
    for name in ("expression_l2", "light_mse", "pose_l2", "pose_degrees"):
        assert scores[name][0].isnan() and 20 * scores[name][2] < scores[name][1], "picture 3 is the template"
    assert 2 * scores["shape_l2"][2] > scores["shape_l2"][3] > 0, "the shape is the photos'"
    del inpainting["9"]["inputs"]["template"]
    assert "connect both expression_encoder and template" in refusal(executor, inpainting)


@pytest.mark.slow
def test_bad_input_is_one_sentence(executor, graph):
    single = change(change(change(graph, "9", images=["2", 0]), "10", images=["2", 0]), "12", images=["2", 0])
    executor.run(single)
    assert executor.read_lists("10")[1] == [0], "one picture is the best of one"
    fewer = change(graph, "10", images=["1", 0])
    assert "2 pictures came with the scores of 4" in refusal(executor, fewer)
    faceless = change(graph, "9", photos=["3", 0])
    assert "Score Pictures: none of the 1 photos shows a face" in refusal(executor, faceless)
    unread = copy.deepcopy(graph)
    unread["60"] = node("PreviewAny", source=["9", 4])
    assert "for a text score" in refusal(executor, unread)
    missing = change(graph, "8", scorer_name="20180402-114759-vggface2.pt")
    assert "facenet-vggface2" in refusal(executor, missing)


def test_two_people_compared(executor, graph):
    compared = {key: graph[key] for key in ("6", "7")}
    compared["20"] = person(7, 3)
    compared["21"] = node("LikenessLoadFaceEncoder", encoder_name="miniature_arcface.onnx")
    for key, photos in (("22", "6"), ("23", "20")):
        compared[key] = node("LikenessLoadPerson", photos=[photos, 0], face_detector=["7", 0], face_encoder=["21", 0],
                             odd_photos="mark", min_agreement=0.5)  # fmt: skip
    compared["24"] = node("LikenessCompareIdentities", face_id=["22", 0], compare_with=["23", 0])
    picture, cosine, threshold, report = executor.run(compared)["24"]
    assert picture.shape[0] == 1 and cosine < threshold < 1 and "15 pairs right" in report


def test_best_of_gives_what_keep_the_best_takes(executor, graph):
    chosen = {key: value for key, value in graph.items() if int(key) < 9 and key != "8"}
    chosen["21"] = node("LikenessLoadFaceEncoder", encoder_name="miniature_arcface.onnx")
    chosen["22"] = node("LikenessLoadPerson", photos=["6", 0], face_detector=["7", 0], face_encoder=["21", 0],
                        odd_photos="mark", min_agreement=0.5)  # fmt: skip
    chosen["23"] = node("LikenessBestOf", images=["5", 0], face_detector=["7", 0], face_encoder=["21", 0],
                        face_id=["22", 0])  # fmt: skip
    chosen["10"] = node("LikenessKeepBest", images=["5", 0], scores=["23", 3], count=2, min_identity=-1.0)
    chosen["11"] = node("PreviewImage", images=["10", 0])
    outputs = executor.run(chosen)
    best, _, _, scores = outputs["23"]
    indices = executor.read_lists("23")[2]
    assert torch.equal(best, outputs["5"][0][indices[:1]]) and scores.order == indices
    assert torch.equal(outputs["10"][0], outputs["5"][0][indices[:2]])


@pytest.mark.slow
def test_the_published_workflow_keeps_three(executor):
    graph = workflow("keep_best")
    executor.run(graph)
    best, indices = executor.read_lists(only(graph, "LikenessKeepBest"))[:2]
    assert best[0].shape == (3, 64, 64, 3) and len(set(indices)) == 3
