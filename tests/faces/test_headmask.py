"""The estimated head: what it holds, and that it follows the face."""

import numpy as np
import pytest
import torch
from likeness.faces.align import template
from likeness.faces.headmask import (
    head_mask,
    head_masks,
    head_of_labels,
    largest_piece,
    mask_background,
    masks_per_face,
)
from likeness.faces.types import Face, Faces
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import example
from PIL import Image
from scipy import ndimage

import nodes

SIZE = (512, 512)
# Read off the photo: the points, and spots of hair, ears, chin on one side; wall, collar and flag on the other.
POINTS = np.array([[203, 101], [246.5, 103], [223, 127], [203.5, 140], [247, 138.5]], dtype=np.float32)
HEAD = [(225, 25), (170, 60), (280, 70), (290, 90), (176, 125), (273, 130), (225, 165), (190, 150)]
NOT_HEAD = [(100, 100), (330, 100), (225, 200), (150, 170), (300, 160)]


def _face(points, landmarks=None):
    return Face(points, (174.0, 64.0, 273.0, 162.0), 1.0, landmarks)


def _oval(points):
    """A hull of face landmarks without hair: an oval from brows to chin."""
    angles = np.linspace(0, 2 * np.pi, 30)
    centre = points[:2].mean(axis=0) * 0.4 + points[3:].mean(axis=0) * 0.6
    return (centre + np.stack([44 * np.cos(angles), 50 * np.sin(angles)], axis=1)).astype(np.float32)


@pytest.mark.parametrize("landmarks", [None, _oval(POINTS)], ids=["five points", "dense landmarks"])
def test_astronaut(landmarks):
    mask = head_mask(_face(POINTS, landmarks), SIZE)
    assert mask.shape == SIZE and set(mask.unique().tolist()) == {0.0, 1.0}
    assert [spot for spot in HEAD if not mask[spot[1], spot[0]]] == []
    assert [spot for spot in NOT_HEAD if mask[spot[1], spot[0]]] == []


def test_dense_landmarks_are_all_inside():
    wide = _oval(POINTS) + np.float32([30, 10])
    mask = head_mask(_face(POINTS, wide), SIZE)
    inner = wide + (wide.mean(axis=0) - wide) * 0.05
    assert all(mask[round(y), round(x)] for x, y in inner.tolist())


@pytest.mark.parametrize("degrees", [90, 180])
def test_mask_turns_with_the_face(degrees):
    turn = np.exp(1j * np.radians(degrees))
    moved = (POINTS - 255.5) @ [1, 1j] * turn
    points = np.stack([moved.real, moved.imag], axis=1).astype(np.float32) + np.float32(255.5)
    upright = head_mask(_face(POINTS), SIZE)
    turned = torch.rot90(upright, -degrees // 90)  # y points down, so a positive turn is clockwise
    assert (head_mask(_face(points), SIZE) - turned).abs().mean() < 2e-3


def test_face_at_the_border_and_far_outside():
    assert 0 < head_mask(_face(POINTS - np.float32([223, 0])), SIZE).mean() < 0.06
    assert head_mask(_face(POINTS - np.float32([900, 0])), SIZE).sum() == 0


def test_masks_follow_the_faces_and_blacken_the_rest(root):
    pixels = np.array(Image.open(root / "workflows" / "assets" / "astronaut.png"))
    image = torch.from_numpy(pixels).float()[None] / 255
    faces = Faces(image.expand(2, -1, -1, -1), ((_face(POINTS), _face(POINTS + np.float32([100, 100]))), ()))
    masks = head_masks(faces)
    assert masks.shape == (2, *SIZE)
    assert torch.equal(masks[1, 150:, 150:], masks[0, 50:-100, 50:-100])
    black = mask_background(image, masks[:1])
    assert torch.equal(black[0][masks[0] == 1], image[0][masks[0] == 1])
    assert black[0][masks[0] == 0].abs().max() == 0
    assert head_masks(Faces(image, ((),))).shape == (0, *SIZE)


def test_template_sized_head_fills_its_crop():
    mask = head_mask(Face(template(112).astype(np.float32), (0.0, 0.0, 111.0, 111.0), 1.0), (112, 112))
    assert 0.9 < mask.mean() < 1


def test_given_masks_are_repeated_for_each_face():
    faces = Faces(torch.zeros(3, 8, 6, 3), ((_face(POINTS),) * 2, (), (_face(POINTS),)))
    masks = torch.arange(3.0)[:, None, None].expand(3, 8, 6)
    assert masks_per_face(faces, masks)[:, 0, 0].tolist() == [0, 0, 2]
    assert masks_per_face(faces, torch.ones(8, 6)).shape == (3, 8, 6)
    with pytest.raises(ValueError, match="2 head masks for 3 photos with 3 faces: .* one per photo, or one per face"):
        masks_per_face(faces, torch.ones(2, 8, 6))
    with pytest.raises(ValueError, match="head mask is 8 x 6 pixels, the photos are 6 x 8: .*Detect Faces.*scale"):
        masks_per_face(faces, torch.ones(3, 6, 8))


def test_given_masks_may_be_one_per_face():
    faces = Faces(torch.zeros(2, 8, 6, 3), ((_face(POINTS),) * 3, ()))
    masks = torch.arange(3.0)[:, None, None].expand(3, 8, 6)
    assert torch.equal(masks_per_face(faces, masks), masks)


def _blobs(seed, side=60):
    """Random islands, lakes in them, islands in those, lines of single pixels, and what touches the border."""
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=(side, side)), generator.uniform(0.7, 4))
    mask = smooth > np.quantile(smooth, generator.uniform(0.3, 0.8))
    return mask ^ (generator.random((side, side)) < generator.choice([0, 0.02]))


def _largest_contour(cv2, mask):
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), [largest], -1, 1, cv2.FILLED) > 0


@pytest.mark.parametrize("seed", range(60))
def test_largest_piece_is_opencvs_largest_outer_contour_filled(seed):
    cv2 = pytest.importorskip("cv2")
    mask = _blobs(seed)
    assert np.array_equal(largest_piece(mask), _largest_contour(cv2, mask))


def test_the_largest_outline_wins_over_more_pixels():
    mask = np.zeros((40, 60), bool)
    mask[2:20, 2], mask[2:20, 19], mask[2, 2:20], mask[19, 2:20] = True, True, True, True  # a ring around 17 x 17
    mask[25:38, 5:25] = True  # a block of more pixels than the ring, and less area than it encloses
    mask[22, :] = True  # a long line encloses nothing
    largest = largest_piece(mask)
    assert largest[10, 10] and not largest[30, 10] and not largest[22, 30]
    assert not largest_piece(np.zeros((4, 4), bool)).any()


@pytest.mark.parametrize("seed", range(20))
def test_head_of_labels_against_opencv(seed):
    """Steps 1 and 2 of FACT's preprocessing, docs/papers.md 2.2, with the library that the authors used."""
    cv2 = pytest.importorskip("cv2")
    face, hair = (ndimage.zoom(_blobs(seed + shift, 48), 8, order=0) for shift in (1000, 2000))
    side = max(int(np.sqrt(face.sum()) / 20), 1)
    assert side > 5
    dilated = cv2.dilate((face | hair).astype(np.uint8), np.ones((side, side), np.uint8))
    expected = _largest_contour(cv2, dilated) | face
    assert np.array_equal(head_of_labels(face, hair), expected)


def test_head_of_no_labels_is_empty_and_of_few_keeps_its_kernel():
    nothing = np.zeros((20, 20), bool)
    assert not head_of_labels(nothing, nothing).any()
    dot = nothing.copy()
    dot[5:8, 5:8] = True
    assert np.array_equal(head_of_labels(dot, nothing), dot), "a kernel of one pixel"


@pytest.fixture
def graph():
    """From the reference photo to a mask and to an identity that wants one."""
    return {
        "photo": example("astronaut.png"),
        "detector": {
            "class_type": "LikenessLoadFaceDetector",
            "inputs": {"detector": "opencv: haar cascade", "min_score": 0.5, "det_size": 640},
        },
        "faces": {
            "class_type": "LikenessDetectFaces",
            "inputs": {
                "face_detector": ["detector", 0],
                "image": ["photo", 0],
                "choose": "all",
                "index": 0,
                "if_no_face": "error",
            },
        },
        "masks": {
            "class_type": "LikenessFaceMasks",
            "inputs": {
                "faces": ["faces", 0],
                "region": "head",
                "shape": "hull",
                "expand": 0.0,
                "feather": 0.0,
                "unit": "per cent of the face",
                "per_face": False,
            },
        },
        "crops": {
            "class_type": "LikenessAlignFace",
            "inputs": {"faces": ["faces", 0], "size": 112, "mask_background": True},
        },
        "preview": {"class_type": "PreviewImage", "inputs": {"images": ["crops", 0]}},
        "show": {"class_type": "MaskPreview", "inputs": {"mask": ["masks", 0]}},
    }


@pytest.mark.parametrize("per_face", [False, True])
def test_the_head_of_face_masks_goes_into_align_face(executor, graph, per_face):
    graph["masks"]["inputs"]["per_face"] = per_face
    estimated = executor.run(graph)["crops"][0]
    graph["crops"]["inputs"]["head_mask"] = ["masks", 0]
    outputs = executor.run(graph)
    mask, source = outputs["masks"]
    assert mask.shape == (1, 512, 512) and mask.sum() > 10_000 and source == "head: head estimated from five points"
    assert torch.equal(outputs["crops"][0], estimated)
    graph["masks"]["inputs"]["region"] = "mouth"
    (mouth,) = executor.run(graph)["crops"]
    assert (mouth > 0).any() and (mouth > 0).float().mean() < 0.5 * (estimated > 0).float().mean()


def test_face_masks_with_the_built_in_parser(executor, graph):
    """The whole way at the published sizes; its weights are drawn, so that only form and source can be told."""
    graph["parser"] = {
        "class_type": "LikenessLoadFaceParser",
        "inputs": {"parser_name": "likeness_builtin_bisenet.pth"},
    }
    graph["masks"]["inputs"].update(face_parser=["parser", 0], region="hair", expand=1.0, feather=2.0)
    mask, source = executor.run(graph)["masks"]
    assert mask.shape == (1, 512, 512) and torch.isfinite(mask).all()
    assert source.startswith("hair: BiSeNet face parsing (likeness_builtin_bisenet.pth)")


def test_wrong_graphs_are_told_in_a_sentence(executor, graph):
    graph["masks"]["inputs"]["region"] = "hair"
    with pytest.raises(GraphError, match="LikenessFaceMasks: Hair can only be masked by a face parser"):
        executor.run(graph)
    graph["parser"] = {"class_type": "LikenessLoadFaceParser", "inputs": {"parser_name": "79999_iter.pth"}}
    graph["masks"]["inputs"]["face_parser"] = ["parser", 0]
    with pytest.raises(GraphError, match="79999_iter.pth.*is missing.*face_parsing"):
        executor.run(graph)
    graph["parser"]["inputs"]["parser_name"] = "likeness_builtin_bisenet.pth"
    graph["small"] = {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["photo", 0],
            "upscale_method": "area",
            "width": 96,
            "height": 128,
            "crop": "disabled",
        },
    }
    graph["channel"] = {"class_type": "ImageToMask", "inputs": {"image": ["small", 0], "channel": "red"}}
    graph["crops"]["inputs"]["head_mask"] = ["channel", 0]
    with pytest.raises(GraphError, match="head mask is 96 x 128 pixels, the photos are 512 x 512"):
        executor.run(graph)


@pytest.mark.parametrize("per_face", [False, True])
def test_images_without_faces_give_empty_masks(executor, per_face):
    node = nodes.NODE_CLASS_MAPPINGS["LikenessFaceMasks"]
    faces = Faces(torch.rand(2, 48, 64, 3), ((), ()))
    mask, source = node.execute(faces, "nose", "hull", 5.0, 5.0, "pixels", per_face).result
    assert torch.equal(mask, torch.zeros(2, 48, 64)) and source == "nose: no face; 2 of 2 masks empty"
    some = Faces(faces.images, ((), (_face(POINTS / 8), _face(POINTS / 9))))
    mask, source = node.execute(some, "face", "hull", 0.0, 0.0, "pixels", per_face).result
    assert mask.shape == (2, 48, 64) and source.endswith("points" if per_face else "1 of 2 masks empty")
    assert [bool(m.any()) for m in mask] == ([True, True] if per_face else [False, True])
