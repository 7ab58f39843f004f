"""Recognisers that score, loaded by their tensors and used in a graph."""

import numpy as np
import pytest
import torch
from likeness.faces.types import Face, Faces
from likeness.metrics.crops import align_in_image, cut_boxes
from likeness.metrics.image_features import load_image_network
from likeness.metrics.loading import load_image_scorer, load_recogniser
from likeness.metrics.scores import identity_scores
from likeness.tests.support.golden_cases import shrunk_shapes
from likeness.tests.support.golden_recipe import state_dict
from likeness.tests.support.tiny_text_image import make_dino

POINTS = np.array([[60.0, 70.0], [100.0, 68.0], [81.0, 95.0], [64.0, 115.0], [98.0, 113.0]])


def write(path, name: str, prefix: str = "", **more):
    weights = state_dict(shrunk_shapes(name, 8), seed=1)
    torch.save({"state_dict": {f"{prefix}{key}": tensor for key, tensor in weights.items()} | more}, path)
    return str(path)


CASES = {
    "facenet": ("metric_facenet", "", {"logits.weight": torch.zeros(5, 64)}),
    "sphereface": ("metric_sphereface20a", "", {}),
    "adaface": ("metric_adaface_ir50", "model.", {"head.kernel": torch.zeros(64, 5)}),
    "adaface of CVLFace": ("metric_adaface_ir50", "model.net.", {}),
}


def encoder(tmp_path, case):
    name, prefix, more = CASES[case]
    return load_recogniser(write(tmp_path / "weights.pt", name, prefix, **more))


@pytest.mark.parametrize("case", CASES)
def test_known_by_their_tensors(tmp_path, case):
    loaded = encoder(tmp_path, case)
    assert loaded.kind == case.split()[0] and loaded.crop_size == (160 if case == "facenet" else 112)
    crops = torch.rand(2, loaded.crop_size, loaded.crop_size, 3, generator=torch.Generator().manual_seed(0))
    face_id = loaded.encode(crops, masked=False)
    assert face_id.features.shape == (2, 1, 64) and face_id.embedding.norm(dim=1).sub(1).abs().max() < 1e-5
    swapped, grey = loaded.encode(crops.flip(-1), False), crops.mean(dim=-1, keepdim=True).expand_as(crops)
    assert (swapped.embedding - face_id.embedding).abs().max() > 1e-3, "the order of the colours matters"
    torch.testing.assert_close(loaded.encode(grey, False).embedding, loaded.encode(grey.flip(-1), False).embedding)


def test_cvlfaces_release_reads_the_colours_the_other_way_round(tmp_path):
    crops = torch.rand(1, 112, 112, 3)
    bgr, rgb = (encoder(tmp_path, case).encode(crops.flip(-1) if i else crops, False).embedding
                for i, case in enumerate(("adaface", "adaface of CVLFace")))  # fmt: skip
    assert torch.equal(bgr, rgb)


@pytest.mark.parametrize("case, align", [("facenet", cut_boxes), ("sphereface", align_in_image)])
def test_identity_is_scored_on_the_networks_own_crop(tmp_path, case, align):
    images = torch.rand(2, 180, 160, 3, generator=torch.Generator().manual_seed(6))
    faces = Faces(images, ((Face(POINTS, (40, 40, 120, 140), 0.9),), ()))
    loaded = encoder(tmp_path, case)
    person = loaded.encode(align(faces, loaded.crop_size), masked=False)
    scores = identity_scores(loaded, faces, person)
    assert scores[0] == pytest.approx(1, abs=1e-5) and scores[1].isnan()


def test_a_damaged_file_is_named(tmp_path):
    weights = state_dict(shrunk_shapes("metric_facenet", 8), seed=1)
    del weights["repeat_2.3.conv2d.weight"]
    torch.save(weights, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"cut.pt looks like FaceNet but its tensors .*repeat_2.3.conv2d.weight"):
        load_recogniser(str(tmp_path / "cut.pt"))


def write_network(path, name: str, factor: int):
    torch.save(state_dict(shrunk_shapes(name, factor), seed=1), path)
    return load_image_network(path)


@torch.inference_mode()
def test_features_of_whole_images(tmp_path):
    images = torch.rand(3, 70, 90, 3, generator=torch.Generator().manual_seed(0))
    inception = write_network(tmp_path / "fid.pth", "metric_inception_fid", 16)
    features = inception.embed_images(images)
    assert inception.kind == "inception" and features.shape[0] == 3 and features.isfinite().all()
    torch.testing.assert_close(inception.embed_images(images[1:2]), features[1:2], atol=1e-5, rtol=1e-5)
    assert torch.equal(inception.embed_images((images * 255).round() / 255), features), "as 8-bit pictures"
    with pytest.raises(ValueError, match="fid.pth is the Inception of FID, .* Choose DINO, a CLIP or a SigLIP"):
        load_image_scorer(str(tmp_path / "fid.pth"))
    dino = load_image_network(make_dino(tmp_path / "dino.pth"))
    features = dino.embed_images(images)
    assert dino.kind == "dino" and features.shape == (3, 64)
    torch.testing.assert_close(dino.embed_images(images[1:2]), features[1:2], atol=1e-5, rtol=1e-5)


def test_other_files_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth is neither DINO's ViT .* nor FID's Inception"):
        load_image_network(tmp_path / "other.pth")
