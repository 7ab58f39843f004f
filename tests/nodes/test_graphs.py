"""Whole graphs through the host's executor: the pack as the host loads it, the published workflows, bad input."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import ASSETS, WORKFLOWS, only, workflow
from PIL import Image

import nodes

NODE_IDS = {
    "LikenessExamplePicture": ["image"],
    "LikenessLoadFaceDetector": ["detector", "min_score", "det_size"],
    "LikenessDetectFaces": [
        "face_detector",
        "image",
        "choose",
        "index",
        "if_no_face",
        "search",
        "min_size",
        "video",
    ],
    "LikenessImportFaces": [
        "image",
        "choose",
        "index",
        "if_no_face",
        "face_landmarks",
        "bboxes",
        "mask",
        "face_detector",
        "video",
    ],
    "LikenessFacesToLandmarks": ["faces"],
    "LikenessAlignFace": ["faces", "size", "mask_background", "head_mask"],
    "LikenessLoadFaceParser": ["parser_name"],
    "LikenessFaceMasks": ["faces", "region", "shape", "expand", "feather", "unit", "per_face", "face_parser"],
    "LikenessLoadMiniature": ["task"],
    "LikenessRenderPerson": ["person", "photos", "seed", "size"],
    "LikenessLoadFaceEncoder": ["encoder_name"],
    "LikenessEncodeIdentity": ["face_encoder", "faces", "mask_background", "head_mask", "face_id"],
    "LikenessSaveIdentity": ["face_id", "filename_prefix", "thumbnails", "note", "consent"],
    "LikenessLoadIdentity": ["identity_name"],
    "LikenessCombineIdentities": ["identities", "method", "slider", "min_agreement"],
    "LikenessIdentityAgreement": ["face_id", "min_agreement", "compare_with"],
    "LikenessLoadFaceAdapter": ["adapter_name", "variant"],
    "LikenessApplyFACT": [
        "model",
        "face_adapter",
        "face_id",
        "strength",
        "start_percent",
        "end_percent",
        "cfg_face",
        "mask",
    ],
    "LikenessApplyImageAdapter": [
        "model",
        "face_adapter",
        "strength",
        "start_percent",
        "end_percent",
        "face_id",
        "clip_vision",
        "image",
        "mask",
        "layer_weights",
        "lora_strength",
        "shortcut_scale",
        "lora_rows",
    ],
    "LikenessApplyInstantId": [
        "model",
        "positive",
        "negative",
        "face_adapter",
        "control_net",
        "face_id",
        "pose",
        "latent",
        "strength",
        "control_strength",
        "start_percent",
        "end_percent",
        "region",
    ],
    "LikenessApplyInstantIdControl": [
        "positive",
        "negative",
        "face_adapter",
        "control_net",
        "face_id",
        "image",
        "control_strength",
        "start_percent",
        "end_percent",
        "mask",
    ],
    "LikenessDrawFaceKeypoints": ["faces", "latent"],
    "LikenessLoadPulidEncoder": ["recogniser_name", "eva_name", "parser_name"],
    "LikenessApplyPulid": [
        "model",
        "face_adapter",
        "face_id",
        "strength",
        "method",
        "start_percent",
        "end_percent",
        "mask",
        "zero_tokens",
    ],
    "LikenessFacePerson": [
        "model",
        "positive",
        "negative",
        "index",
        "face_id",
        "face_encoder",
        "min_likeness",
        "people",
    ],
    "LikenessLoadPerson": ["photos", "face_detector", "face_encoder", "odd_photos", "min_agreement"],
    "LikenessPersonInPlace": [
        *("place", "prompt", "x", "y", "width", "height", "index", "face_id", "image", "mask", "faces", "people"),
    ],
    "LikenessPeopleInPlaces": [
        *("model", "positive", "people", "face_adapter", "latent", "strength", "start_percent", "end_percent"),
        *("blend", "common_share", "clip", "clip_vision", "lora_rows"),
    ],
    "LikenessInfiniteID": [
        "model",
        "mixing",
        "style",
        "style_strength",
        "start_percent",
        "end_percent",
        "trajectory",
        "parts",
    ],
    "LikenessPrepareFaceCrop": ["faces", "index", "face_share", "size", "face_mask", "control_image", "donor"],
    "LikenessPasteFaceBack": [
        "face_crop",
        "image",
        "blend",
        "feather",
        "colour_match",
        "round_trip",
        "picture",
        "mask",
    ],
    "LikenessWeights": [],
    "LikenessLoadExpressionEncoder": ["encoder_name"],
    "LikenessEncodeExpression": ["expression_encoder", "faces"],
    "LikenessFaceToWords": ["face_adapter", "face_id", "expression", "expression_strength", "face_words"],
    "LikenessEncodeFacePrompt": ["clip", "face_words", "text"],
    "LikenessEncodeDelayedFacePrompt": ["clip", "face_words", "text", "class_words", "switch_percent"],
    "LikenessBestOf": [
        "images",
        "face_detector",
        "face_encoder",
        "face_id",
        "clip",
        "clip_vision",
        "text",
        "class_words",
    ],
    "LikenessLoadFaceScorer": ["scorer_name", "face_scorer"],
    "LikenessLoadImageScorer": ["scorer_name", "image_scorer"],
    "LikenessScorePictures": [
        *("images", "photos", "face_detector", "face_scorer", "image_scorer", "clip", "clip_vision", "text"),
        *("class_words", "expression_encoder", "template", "scores"),
    ],
    "LikenessKeepBest": ["images", "scores", "count", "min_identity"],
    "LikenessGate": ["images", "scores", "min_identity"],
    "LikenessSaveImage": ["images", "filename_prefix"],
    "LikenessCompareIdentities": ["face_id", "compare_with"],
    "LikenessMatchGrain": ["image", "original", "amount"],
    "LikenessCropFacesToRefine": ["image", "index", "face_share", "size", "shape", "expand", "faces", "mask"],
    "LikenessRefineFaces": [
        *("image", "people", "vae", "face_share", "size", "shape", "expand", "feather", "colour_match", "seed"),
        *("steps", "cfg", "sampler_name", "scheduler", "denoise", "faces", "mask", "if_no_face"),
    ],
    "LikenessTrainFaceA": [
        "model",
        "clip",
        "vae",
        "photos",
        "word",
        "preset",
        "steps",
        "seed",
        "batch_size",
        "learning_rate",
        "features_learning_rate",
        "rank",
        "features",
        "level",
        "face_share",
        "size",
        "mask_shape",
        "mask_expand",
        "precision",
        "gradient_checkpointing",
        "preview_every",
        "face_mask",
        "left_eye_mask",
        "right_eye_mask",
        "nose_mask",
        "mouth_mask",
        "face_id",
    ],
    "LikenessTransferFaceAAttribute": [
        "model",
        "clip",
        "vae",
        "facea_identity",
        "photos",
        "attribute",
        "steps",
        "seed",
        "batch_size",
        "learning_rate",
        "features_learning_rate",
        "face_share",
        "size",
        "mask_shape",
        "mask_expand",
        "precision",
        "gradient_checkpointing",
        "preview_every",
        "attribute_mask",
    ],
    "LikenessSaveFaceAIdentity": ["facea_identity", "filename_prefix"],
    "LikenessLoadFaceAIdentity": ["identity_name"],
    "LikenessApplyFaceA": ["model", "facea_identity", "strength"],
    "LikenessEncodeFaceAPrompt": ["clip", "facea_identity", "face_prompt", "negative", "compact"],
    "LikenessFaceAPerson": [
        *("model", "clip", "facea_identity", "face_prompt", "negative", "compact", "strength", "index", "people"),
    ],
}  # promises: saved workflows hold them
OUTPUTS = {
    "LikenessExamplePicture": ["IMAGE"],
    "LikenessLoadFaceDetector": ["FACE_DETECTOR"],
    "LikenessDetectFaces": ["FACES", "IMAGE", "BOUNDING_BOX"],
    "LikenessImportFaces": ["FACES", "IMAGE"],
    "LikenessFacesToLandmarks": ["FACE_LANDMARKS"],
    "LikenessAlignFace": ["IMAGE"],
    "LikenessLoadFaceParser": ["FACE_PARSER"],
    "LikenessFaceMasks": ["MASK", "STRING"],
    "LikenessLoadFaceEncoder": ["FACE_ENCODER"],
    "LikenessEncodeIdentity": ["FACE_ID", "IMAGE"],
    "LikenessSaveIdentity": ["FACE_ID", "STRING"],
    "LikenessLoadIdentity": ["FACE_ID", "IMAGE", "STRING"],
    "LikenessCombineIdentities": ["FACE_ID", "STRING"],
    "LikenessIdentityAgreement": ["IMAGE", "STRING"],
    "LikenessLoadFaceAdapter": ["FACE_ADAPTER"],
    "LikenessApplyFACT": ["MODEL"],
    "LikenessApplyImageAdapter": ["MODEL"],
    "LikenessInfiniteID": ["MODEL"],
    "LikenessApplyInstantId": ["MODEL", "CONDITIONING", "CONDITIONING", "IMAGE"],
    "LikenessApplyInstantIdControl": ["CONDITIONING", "CONDITIONING"],
    "LikenessDrawFaceKeypoints": ["IMAGE"],
    "LikenessLoadPulidEncoder": ["FACE_ENCODER"],
    "LikenessApplyPulid": ["MODEL"],
    "LikenessFacePerson": ["FACE_PEOPLE"],
    "LikenessLoadPerson": ["FACE_ID", "IMAGE", "STRING"],
    "LikenessPersonInPlace": ["PLACED_PEOPLE"],
    "LikenessPeopleInPlaces": ["MODEL", "CONDITIONING", "MASK"],
    "LikenessLoadExpressionEncoder": ["EXPRESSION_ENCODER"],
    "LikenessEncodeExpression": ["FACE_EXPRESSION", "IMAGE"],
    "LikenessFaceToWords": ["FACE_WORDS"],
    "LikenessEncodeFacePrompt": ["CONDITIONING", "IMAGE"],
    "LikenessEncodeDelayedFacePrompt": ["CONDITIONING", "IMAGE"],
    "LikenessBestOf": ["IMAGE", "IMAGE", "INT", "PICTURE_SCORES"],
    "LikenessLoadFaceScorer": ["FACE_SCORER"],
    "LikenessLoadImageScorer": ["IMAGE_SCORER"],
    "LikenessScorePictures": ["PICTURE_SCORES", "IMAGE", "FLOAT", "FLOAT", "FLOAT", "STRING", "STRING"],
    "LikenessKeepBest": ["IMAGE", "INT", "FLOAT", "STRING"],
    "LikenessGate": ["IMAGE", "IMAGE", "FLOAT", "STRING"],
    "LikenessSaveImage": ["IMAGE"],
    "LikenessCompareIdentities": ["IMAGE", "FLOAT", "FLOAT", "STRING"],
    "LikenessCropFacesToRefine": ["FACE_CROP", "IMAGE", "MASK"],
    "LikenessRefineFaces": ["IMAGE", "IMAGE", "IMAGE", "MASK"],
    "LikenessTrainFaceA": ["FACEA_IDENTITY", "IMAGE", "IMAGE", "LORA_MODEL", "STRING"],
    "LikenessTransferFaceAAttribute": ["FACEA_IDENTITY", "IMAGE", "IMAGE", "LORA_MODEL", "STRING"],
    "LikenessSaveFaceAIdentity": ["FACEA_IDENTITY", "STRING"],
    "LikenessLoadFaceAIdentity": ["FACEA_IDENTITY", "STRING"],
    "LikenessApplyFaceA": ["MODEL"],
    "LikenessEncodeFaceAPrompt": ["CONDITIONING", "CONDITIONING"],
    "LikenessFaceAPerson": ["FACE_PEOPLE"],
    "LikenessPrepareFaceCrop": ["FACE_CROP", "IMAGE", "MASK", "IMAGE", "IMAGE", "IMAGE", "IMAGE"],
    "LikenessPasteFaceBack": ["IMAGE"],
    "LikenessMatchGrain": ["IMAGE"],
    "LikenessLoadMiniature": ["MODEL", "CLIP", "VAE", "CLIP_VISION", "CLIP"],
    "LikenessRenderPerson": ["IMAGE", "STRING"],
    "LikenessWeights": ["STRING"],
}


def ours():
    return {key: node for key, node in nodes.NODE_CLASS_MAPPINGS.items() if key.startswith("Likeness")}


def test_ids_inputs_and_outputs_are_the_promised_ones(executor):
    assert set(ours()) == set(NODE_IDS)
    for key, node in ours().items():
        schema = node.GET_SCHEMA()
        assert [i.id for i in schema.inputs] == NODE_IDS[key]
        assert [o.get_io_type() for o in schema.outputs] == OUTPUTS[key]


def test_every_node_explains_itself(executor, root):
    """A tooltip on every input, a description, a place in the menu, and a help page.

    The page names every input and output, has a picture, and begins with the three settings that matter most.
    """
    for key, node in ours().items():
        schema = node.GET_SCHEMA()
        assert schema.description and schema.category.startswith("likeness/")
        page = (root / "web" / "docs" / f"{key}.md").read_text()
        for socket in schema.inputs:
            assert socket.tooltip, f"{key}.{socket.id}"
            assert f"`{socket.id}`" in page, f"{key}.{socket.id} is not on its help page"
        for socket in schema.outputs:
            assert socket.tooltip, f"{key}: output {socket.id}"
            assert f"`{socket.display_name or socket.id}`" in page
        first = re.findall("`(.+?)`", "".join(re.findall("^Set first: .*", page, re.MULTILINE)))
        assert set(first) <= set(NODE_IDS[key]), f"{key} has not all of {first} to set"
        assert len(first) >= min(3, len(NODE_IDS[key])), f"{key}: {first} is all that is to be set first"
        assert "](img/" in page, f"{key} has no picture on its help page"
        for image in re.findall(r"\]\((.+?)\)", page):
            assert image.startswith("https://") or (root / "web" / "docs" / image).stat().st_size < 30_000, image


@pytest.mark.parametrize(
    "name",
    [
        "fact_text_to_image",
        pytest.param("fact_several_references", marks=pytest.mark.slow),
        pytest.param("fact_lora_controlnet", marks=pytest.mark.slow),
        pytest.param("fact_save_person", marks=pytest.mark.slow),
    ],
)
def test_published_workflows_run(executor, name):
    graph = workflow(name)
    outputs = executor.run(graph)
    (image,) = outputs[only(graph, "VAEDecode")]
    assert image.shape == (1, 64, 64, 3) and torch.isfinite(image).all() and image.std() > 0.01
    off = copy.deepcopy(graph)
    off[only(graph, "LikenessApplyFACT")]["inputs"]["strength"] = 0.0
    (base,) = executor.run(off)[only(graph, "VAEDecode")]
    assert not torch.equal(image, base)


@pytest.mark.slow
def test_a_saved_person_is_drawn_as_from_the_photo(executor):
    photo, saved = workflow("fact_save_person"), workflow("fact_saved_person")
    outputs = executor.run(photo)
    saved["8"]["inputs"]["identity_name"] = Path(outputs["15"][1]).name
    saved["2"]["inputs"]["text"] = photo["2"]["inputs"]["text"]
    assert torch.equal(executor.run(saved)["13"][0], outputs["13"][0])


@pytest.mark.slow
def test_queued_again_after_a_slider_moved_and_came_back(executor):
    graph = workflow("fact_text_to_image")
    apply, decode = only(graph, "LikenessApplyFACT"), only(graph, "VAEDecode")
    (first,) = executor.run(graph)[decode]
    (again,) = executor.run(graph)[decode]
    assert executor.executed() == set(), "nothing changed, so nothing runs"
    moved = copy.deepcopy(graph)
    moved[apply]["inputs"]["strength"] = 1.0
    (other,) = executor.run(moved)[decode]
    assert only(graph, "LikenessLoadFaceAdapter") not in executor.executed(), "loaders are not run for a slider"
    (back,) = executor.run(graph)[decode]
    assert torch.equal(first, again) and torch.equal(first, back) and not torch.equal(first, other)


def test_several_references_make_a_longer_identity(executor):
    graph = workflow("fact_several_references")
    outputs = executor.run(graph)
    one, two, three = (outputs[key][0] for key in ("8", "19", "22"))
    assert [identity.features.shape for identity in (one, two, three)] == [(n, 144, 512) for n in (1, 2, 3)]
    assert torch.equal(three.features[:1], one.features)


@pytest.mark.slow
def test_a_graph_saved_with_the_first_release_draws_the_same_image(executor):
    """It lacks the inputs that came later."""
    graph = workflow("fact_text_to_image")
    old = copy.deepcopy(graph)
    for name in ("search", "min_size", "video"):
        del old[only(old, "LikenessDetectFaces")]["inputs"][name]
    del old[only(old, "LikenessLoadFaceAdapter")]["inputs"]["variant"]
    decode = only(graph, "VAEDecode")
    assert torch.equal(executor.run(old)[decode][0], executor.run(graph)[decode][0])


def test_align_face_at_any_size(executor):
    graph = workflow("fact_text_to_image")
    graph = {key: graph[key] for key in ("4", "5", "6")}
    for key, size, masked in (("a", 256, False), ("b", 112, True)):
        graph[key] = {
            "class_type": "LikenessAlignFace",
            "inputs": {"faces": ["6", 0], "size": size, "mask_background": masked},
        }
        graph[f"{key}2"] = {"class_type": "PreviewImage", "inputs": {"images": [key, 0]}}
    outputs = executor.run(graph)
    (large,), (small,) = outputs["a"], outputs["b"]
    assert large.shape == (1, 256, 256, 3) and small.shape == (1, 112, 112, 3)
    assert (small[0, 0, 0] == 0).all(), "the corner is background, so it is black"


@pytest.fixture
def photo(base):
    """Write a picture into the host's input folder; returns its name."""

    def write(pixels: np.ndarray, mode=None) -> str:
        Image.fromarray(pixels.astype(np.uint8), mode).save(base / "input" / "likeness_test.png")
        return "likeness_test.png"

    return write


def astronaut() -> np.ndarray:
    return np.asarray(Image.open(ASSETS / "astronaut.png").convert("RGB"))


def run_with_photo(executor, name, **detect):
    """From the photo to the identity, without the sampler."""
    graph = workflow("fact_text_to_image")
    graph = {key: graph[key] for key in ("4", "5", "6", "7", "8")}
    graph["16"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 1]}}
    graph[only(graph, "LikenessExamplePicture")]["inputs"]["image"] = name
    graph[only(graph, "LikenessDetectFaces")]["inputs"].update(detect)
    return graph, executor.run(graph)


def features(graph, outputs):
    return outputs[only(graph, "LikenessEncodeIdentity")][0].features


def test_no_face_is_one_clear_sentence_and_the_next_graph_runs(executor, photo):
    name = photo(np.full((96, 96, 3), 128))
    with pytest.raises(GraphError, match="LikenessDetectFaces: No face was found in picture 1 of 1.*if_no_face"):
        run_with_photo(executor, name)
    graph, outputs = run_with_photo(executor, name, if_no_face="whole picture")
    assert features(graph, outputs).shape == (1, 144, 512)
    with pytest.raises(GraphError, match="No face was found"):
        run_with_photo(executor, name, if_no_face="skip")


@pytest.mark.slow
def test_two_faces_largest_index_and_too_large_an_index(executor, base, photo):
    person = astronaut()
    small = np.asarray(Image.fromarray(person).resize((320, 320)))
    canvas = np.zeros((512, 832, 3))
    canvas[:320, :320], canvas[:, 320:] = small, person
    name = photo(canvas)
    graph, outputs = run_with_photo(executor, name)
    largest = outputs[only(graph, "LikenessDetectFaces")][0].per_image[0][0]
    graph, outputs = run_with_photo(executor, name, choose="left to right", index=1)
    right = outputs[only(graph, "LikenessDetectFaces")][0].per_image[0][0]
    assert largest.box == right.box and right.box[0] > 320
    graph, outputs = run_with_photo(executor, name, choose="all")
    assert features(graph, outputs).shape[0] == 2
    with pytest.raises(GraphError, match="there are only 2 faces"):
        run_with_photo(executor, name, choose="left to right", index=7)


@pytest.mark.parametrize("shape", ["grey", "rgba"])
@pytest.mark.slow
def test_grey_and_rgba_photos(executor, base, photo, shape):
    person = astronaut()
    if shape == "grey":
        name = photo(person.mean(axis=2))
    else:
        name = photo(np.concatenate([person, np.full_like(person[..., :1], 200)], axis=2))
    graph, outputs = run_with_photo(executor, name)
    assert len(outputs[only(graph, "LikenessDetectFaces")][0].per_image[0]) == 1


def test_a_face_cut_by_the_border(executor, base, photo):
    graph, outputs = run_with_photo(executor, photo(astronaut()[60:, 180:]), if_no_face="whole picture")
    assert torch.isfinite(features(graph, outputs)).all()


@pytest.mark.parametrize("side", [1, 16])
def test_tiny_photos(executor, photo, side):
    with pytest.raises(GraphError, match="too small to hold a face|No face was found"):
        run_with_photo(executor, photo(np.zeros((side, side, 3))))


@pytest.mark.parametrize(
    "node, key, value, message",
    [
        ("LikenessLoadFaceEncoder", "encoder_name", "gone.pt", "'gone.pt' is missing: .*facechain_fact"),
        (
            "LikenessLoadFaceAdapter",
            "adapter_name",
            "adapter_film_mask_large_new_reg001_faceshuffle_00290001.ckpt",
            "is missing: .*Download it from https://",
        ),
        (
            "LikenessLoadFaceAdapter",
            "adapter_name",
            "likeness_builtin_transface.pt",
            "likeness_builtin_transface.pt is not a face adapter",
        ),
        (
            "LikenessLoadFaceEncoder",
            "encoder_name",
            "likeness_builtin_fact.ckpt",
            "likeness_builtin_fact.ckpt is not a TransFace encoder",
        ),
        pytest.param(
            "CheckpointLoaderSimple",
            "ckpt_name",
            "likeness_builtin_sdxl.ckpt",
            "LikenessApplyFACT: Apply FACT: .* connected model is .*SDXL.* Load an SD1.5 checkpoint",
            marks=pytest.mark.slow,
        ),
        ("LikenessLoadFaceDetector", "detector", "mediapipe: mediapipe_face_fp32.safetensors", "is missing"),
        ("LikenessLoadFaceDetector", "detector", "insightface: buffalo_l", "buffalo_l.zip.*is missing"),
    ],
)
def test_wrong_or_missing_weights(executor, node, key, value, message):
    graph = workflow("fact_text_to_image")
    graph[only(graph, node)]["inputs"][key] = value
    with pytest.raises(GraphError, match=message):
        executor.run(graph)


@pytest.mark.parametrize("name", sorted(path.stem for path in WORKFLOWS.glob("*.json")))
def test_values_of_the_workflows_are_of_the_type_that_other_clients_check(executor, name):
    """comfy-cli refuses a workflow before it is queued where a combo holds true, or a number is a text."""
    kinds = {"COMBO": (str, int, float), "INT": int, "FLOAT": (int, float), "BOOLEAN": bool, "STRING": str}
    for key, node in json.loads((WORKFLOWS / f"{name}.json").read_text()).items():
        described = nodes.NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()
        specs = described.get("required", {}) | described.get("optional", {})
        for field, value in node["inputs"].items():
            kind = specs[field][0] if field in specs and not isinstance(value, list) else None
            kind = "COMBO" if isinstance(kind, list) else kind
            if kind in kinds:
                assert isinstance(value, kinds[kind]), (key, field, value)
                assert kind == "BOOLEAN" or not isinstance(value, bool), (key, field, value)
