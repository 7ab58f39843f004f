"""A graph that trains a FaceA identity in a few small steps, on the built-in checkpoints."""

from likeness.tests.support.graphs import BUILT_IN, example


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def graph(steps=3, **options) -> dict:
    """Two photos of different sizes, and a few small steps on them."""
    training = {
        "model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2],
        "photos.faces_1": ["faces1", 0], "photos.faces_2": ["faces2", 0],
        "word": "man", "preset": "own: as many as steps says", "steps": steps, "seed": 7, "batch_size": 1,
        "learning_rate": 1e-3, "features_learning_rate": 1e-2, "rank": 2, "features": 0, "level": "output",
        "face_share": 0.6, "size": 64, "mask_shape": "box", "mask_expand": 2, "precision": "auto",
        "gradient_checkpointing": False, "preview_every": 0,
    }  # fmt: skip
    found = {"choose": "largest", "index": 0, "if_no_face": "whole picture", "search": "thorough", "min_size": 0.0}
    return {
        "base": node("CheckpointLoaderSimple", ckpt_name="likeness_builtin_sd15_inpaint.ckpt"),
        "detector": node("LikenessLoadFaceDetector", detector=BUILT_IN["detector"], min_score=0.5, det_size=640),
        "photo1": example("portrait.png"),
        "photo2": example("astronaut.png"),
        "faces1": node("LikenessDetectFaces", face_detector=["detector", 0], image=["photo1", 0], **found),
        "faces2": node("LikenessDetectFaces", face_detector=["detector", 0], image=["photo2", 0], **found),
        "train": node("LikenessTrainFaceA", **{**training, **options}),
        "shown": node("PreviewAny", source=["train", 4]),
    }
