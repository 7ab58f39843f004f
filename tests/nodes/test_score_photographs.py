"""Photographs scored in a graph of the host by real networks, which stand in the place of the tests' own here."""

import pytest
from likeness.tests.support.graphs import node
from PIL import Image

SFACE = "face_recognition_sface_2021dec_int8bq.onnx"


@pytest.mark.slow
def test_sface_tells_photographs_apart(executor, real_folders, real_photos, base):
    """Real networks, real photographs: which of these is Obama, with a MediaPipe detector."""
    names = ("obama2.jpg", "biden.jpg", "obama3.jpg")
    for name in (*names, "obama.jpg"):
        Image.open(real_photos / name).convert("RGB").save(base / "input" / f"scores_{name}")
    graph = {str(number): node("LoadImage", image=f"scores_{name}") for number, name in enumerate(names)}
    graph["5"] = node("CreateList", **{f"inputs.input{number}": [str(number), 0] for number in range(3)})
    graph["6"] = node("LoadImage", image="scores_obama.jpg")
    detectors = executor.options("LikenessLoadFaceDetector", "detector")
    detector = next(label for label in detectors if "face_landmarker" in label)
    graph["7"] = node("LikenessLoadFaceDetector", detector=detector, min_score=-1.0, det_size=640)
    graph["8"] = node("LikenessLoadFaceScorer", scorer_name=SFACE)
    graph["9"] = node("LikenessScorePictures", images=["5", 0], photos=["6", 0], face_detector=["7", 0],
                      face_scorer=["8", 0], text="", class_words="a person")  # fmt: skip
    graph["10"] = node("LikenessGate", images=["5", 0], scores=["9", 0], min_identity=0.35)
    graph["11"] = node("PreviewImage", images=["10", 0])
    executor.run(graph)
    identity = executor.read_lists("9")[3]
    assert min(identity[0], identity[2]) > 0.6 > 0.35 > identity[1]
    assert len(executor.read_lists("10")[0]) == 2, "both Obamas, of two sizes"
