"""Face parsing: the loader, the crop, and labels of painted portraits brought back into the picture."""

import comfy.model_management
import comfy.model_patcher
import numpy as np
import pytest
import torch
from likeness.faces.align import template
from likeness.faces.bisenet import BiSeNet
from likeness.faces.masks import MaskStyle, face_masks
from likeness.faces.parsing import LABELS, SIZE, FaceParser, _cut, _find_person, find_parsing_crop, load_parser
from likeness.faces.types import Face, Faces
from likeness.tests.support.checkpoints import bisenet_shapes, drawn, transface_shapes
from likeness.tests.support.golden_cases import Case
from PIL import Image, ImageDraw
from scipy import ndimage

SMALL = {"widths": (8, 8, 16, 16), "context": 8, "fused": 16}
PALETTE = torch.tensor([[i % 3, i // 3 % 3, i // 9 % 3] for i in range(len(LABELS))]) / 2.0
# The portrait painted below: its five points, and its parts as (label, x0, y0, x1, y1), later ones on top.
POINTS = np.float32([[216, 220], [296, 220], [256, 262], [228, 300], [284, 300]])
PAINT = [
    *((14, 226, 320, 286, 420), (17, 166, 110, 346, 330), (1, 182, 140, 330, 350), (7, 330, 215, 342, 265)),
    *((8, 170, 215, 182, 265), (2, 276, 192, 318, 204), (3, 194, 192, 236, 204), (4, 282, 212, 310, 228)),
    *((5, 202, 212, 230, 228), (10, 240, 222, 272, 276), (12, 226, 290, 286, 299), (11, 226, 297, 286, 303)),
    *((13, 226, 302, 286, 312),),
]
REGION_LABELS = {
    "face": (1, 2, 3, 4, 5, 10, 11, 12, 13),
    "hair": (17,),
    "left eye": (4,),
    "right eye": (5,),
    "both eyes": (4, 5),
    "nose": (10,),
    "mouth": (11, 12, 13),
    "left brow": (2,),
    "right brow": (3,),
    "brows": (2, 3),
}
SWAPPED = {"left eye": "right eye", "right eye": "left eye", "left brow": "right brow", "right brow": "left brow"}


class Painted(torch.nn.Module):
    """A network that knows the labels of `PALETTE`'s colours."""

    def forward(self, pixels):
        colours = pixels * pixels.new_tensor([0.229, 0.224, 0.225])[:, None, None]
        colours = colours + pixels.new_tensor([0.485, 0.456, 0.406])[:, None, None]
        nearness = torch.einsum("nchw,lc->nlhw", colours, PALETTE) - PALETTE.square().sum(dim=1)[:, None, None] / 2
        return 40 * nearness  # the softmax of minus 20 times the squared distance to every colour


class Bright(torch.nn.Module):
    """A network to which `label` is white and the rest is black: how sure it is follows the brightness."""

    def __init__(self, label):
        super().__init__()
        self.label = label

    def forward(self, pixels):
        white = pixels[:, 0] * 0.229 + 0.485
        logits = pixels.new_full((1, len(LABELS), SIZE, SIZE), -30.0)
        logits[:, 0], logits[:, self.label] = 0.0, 8 * (white - 0.5)
        return logits


def parser_of(network) -> FaceParser:
    cpu = torch.device("cpu")
    return FaceParser("painted.pth", comfy.model_patcher.CoreModelPatcher(network.eval(), cpu, cpu))


@pytest.fixture(scope="module")
def painted():
    return parser_of(Painted())


def portrait(height=512, width=512, shift=(0, 0), scale=1.0) -> torch.Tensor:
    """The labels [H, W] of the painted portrait."""
    canvas = Image.new("L", (width, height))
    for label, *box in PAINT:
        corners = [box[i] * scale + shift[i % 2] for i in range(4)]
        draw = ImageDraw.Draw(canvas)
        (draw.rectangle if label in (14, 7, 8) else draw.ellipse)(corners, fill=label)
    return torch.from_numpy(np.array(canvas)).long()


def face_at(points) -> Face:
    points = np.float32(points)
    return Face(points, (*points.min(axis=0).tolist(), *points.max(axis=0).tolist()), 1.0)


def masks_of(parser, labels, points, region, **style):
    """The mask of one face in a picture painted with `labels` [H, W]."""
    masks, sources = face_masks(Faces(PALETTE[labels][None], ((face_at(points),),)), region, MaskStyle(**style), parser)
    assert sources == ("BiSeNet face parsing (painted.pth)",)
    return masks[0]


def paint_mask(labels, region):
    return torch.isin(labels, torch.tensor(REGION_LABELS[region])).float()


def overlap(a, b) -> float:
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())


@pytest.fixture
def written(tmp_path):
    def write(tensors, name="79999_iter.pth"):
        torch.save(tensors, tmp_path / name)
        return str(tmp_path / name)

    return write


def test_published_layout_and_sizes():
    """The built-in shapes are the golden case's, which are the authors'; 18 layers or 34."""
    shapes = bisenet_shapes()
    published = {name: tuple(shape) for name, shape in Case("bisenet_face_parsing").json("shapes").items()}
    assert {key: value for key, value in shapes.items() if not key.endswith("num_batches_tracked")} == published


@pytest.mark.parametrize("blocks", [(2, 2, 2, 2), (3, 4, 6, 3)], ids=["ResNet-18", "ResNet-34"])
@torch.inference_mode()
def test_loads_what_the_tensors_show(written, blocks):
    weights = drawn(bisenet_shapes(blocks, **SMALL), 3)
    parser = load_parser(written({f"module.{key}": value.half() for key, value in weights.items()}))
    network = parser.patcher.model
    assert isinstance(network, BiSeNet) and not network.training
    assert [len(getattr(network.cp.resnet, f"layer{i}")) for i in range(1, 5)] == list(blocks)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert not any("conv_out16" in key for key in network.state_dict())
    pixels = torch.rand(1, 3, 70, 50, generator=torch.Generator().manual_seed(1))
    logits = network(pixels)
    assert logits.shape == (1, 19, 70, 50)
    network.load_state_dict({key: weights[key].half().float() for key in network.state_dict()})
    assert torch.equal(logits, network(pixels)), "every tensor of the file is where its name says"


@torch.inference_mode()
def test_batch_norms_use_the_files_statistics(written):
    parser = load_parser(written(drawn(bisenet_shapes(**SMALL), 3)))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    alone, together = parser.patcher.model(pixels[:1]), parser.patcher.model(pixels)
    assert (alone - together[:1]).abs().max() < 1e-5
    parser.patcher.model.train()
    assert (alone - parser.patcher.model(pixels)[:1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda w: drawn(transface_shapes(16, 1, 4, embedding=8), 1),
            "is not a BiSeNet face parser: .*cp.resnet.conv1",
        ),
        (lambda w: drawn(bisenet_shapes(**SMALL, classes=11), 1), "tells 11 labels apart, but .* 19"),
        (lambda w: w | {"cp.arm16.conv_atten.weight": torch.zeros(3, 8, 1, 1)}, "tensors do not fit together"),
        (lambda w: w | {"cp.resnet.layer2.oops.conv1.weight": torch.zeros(3)}, "tensors do not fit together"),
        (lambda w: {k: v for k, v in w.items() if k != "ffm.conv1.weight"}, "tensors do not fit together"),
        (lambda w: {k: v for k, v in w.items() if ".layer3." not in k}, "tensors do not fit together"),
        (lambda w: w | {"conv_out.conv_out.weight": torch.tensor(1.0)}, "tensors do not fit together"),
        (lambda w: w | {"a.stranger": torch.zeros(1)}, "tensors do not fit together.*a.stranger"),
    ],
)
def test_other_files_are_refused_by_name(written, change, message):
    weights = drawn(bisenet_shapes(**SMALL), 3)
    with pytest.raises(ValueError, match=f"79999_iter.pth .*{message}"):
        load_parser(written(change(weights)))


def test_crop_is_celeba_hqs():
    """Karras et al. 2018, appendix C, computed as there: centre, side and direction of the square."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        turn = generator.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = (template(112) + generator.normal(size=(5, 2)) * 3) @ rotation.T * generator.uniform(0.1, 9) + [90, 50]
        eyes, mouth = points[:2], points[3:]
        across, up = eyes[1] - eyes[0], eyes.mean(axis=0) - mouth.mean(axis=0)
        centre = eyes.mean(axis=0) - 0.1 * up
        side = max(4.0 * np.hypot(*across), 3.6 * np.hypot(*up))
        x = across - np.array([up[1], -up[0]])
        x *= side / np.hypot(*x)
        y = np.array([-x[1], x[0]])
        corners = np.array([centre - x / 2 - y / 2, centre + x / 2 - y / 2, centre + x / 2 + y / 2])
        cut = find_parsing_crop(Face(points, (0.0, 0.0, 1.0, 1.0), 1.0))
        mapped = corners @ cut[:, :2].T + cut[:, 2]
        assert np.abs(mapped - ([[0, 0], [SIZE, 0], [SIZE, SIZE]] - np.array(0.5))).max() < 1e-9


def test_crop_ignores_the_order_of_mirrored_points():
    assert np.array_equal(find_parsing_crop(face_at(POINTS)), find_parsing_crop(face_at(POINTS[[1, 0, 2, 4, 3]])))


def test_points_that_coincide_are_refused():
    with pytest.raises(ValueError, match="Cannot parse a face whose five points coincide"):
        find_parsing_crop(face_at(np.ones((5, 2))))


@pytest.mark.parametrize("scale", [0.05, 1.0, 2.4, 9.0])
def test_cut_keeps_pixel_centres(scale):
    """Of a picture whose values are its coordinates, the crop holds the coordinates that the similarity says."""
    points = (POINTS - 256) * scale * 0.25 + [600, 400]
    matrix = find_parsing_crop(face_at(points))
    rows, columns = torch.meshgrid(torch.arange(1000.0), torch.arange(1200.0), indexing="ij")
    crop = _cut(torch.stack([columns, rows, torch.ones_like(rows)], dim=2), matrix)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    for row, column in ((256, 256), (200, 330), (311, 150)):
        expected = inverse[:2] @ [column, row, 1]
        assert np.abs(crop[row, column, :2].numpy() - expected).max() < 1e-2


def test_large_faces_are_averaged_not_picked():
    """A checkerboard of single pixels, seen eight times smaller, is even grey."""
    board = torch.zeros(2048, 2048, 3)
    board[::2, ::2], board[1::2, 1::2] = 1, 1
    crop = _cut(board, find_parsing_crop(face_at(POINTS * 4)))
    assert (crop[100:400, 100:400] - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("region", REGION_LABELS)
def test_painted_parts_come_back(painted, region):
    mask = masks_of(painted, portrait(), POINTS, region)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert overlap(mask, paint_mask(portrait(), region)) > 0.9


@pytest.mark.parametrize(
    "region, label", [("left eye", 4), ("left eye", 5), ("right brow", 2), ("nose", 10), ("face", 1)]
)
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_no_shift_at_any_scale(region, label, scale):
    """One bright part comes back where it is, to a fraction of a pixel, and as large as it is."""
    side, where = int(512 * scale), REGION_LABELS[region][-1]
    labels = (portrait(side, side, scale=scale) == where).long()
    faces = Faces(labels[None, ..., None].expand(-1, -1, -1, 3).float(), ((face_at((POINTS + 0.5) * scale - 0.5),),))
    ((mask,), _) = face_masks(faces, region, MaskStyle(), parser_of(Bright(label)))
    centres = [part.nonzero().double().mean(dim=0) for part in (mask, labels)]
    assert (centres[0] - centres[1]).abs().max() < 0.35
    assert float(mask.sum() / labels.sum()) == pytest.approx(1, abs=0.04 if scale >= 1 else 0.15)
    outline = labels.numpy() & ~ndimage.binary_erosion(labels.numpy())
    if scale > 1:
        assert float((mask != labels).sum()) < 0.25 * outline.sum(), "no steps as large as the crop's pixels"


@pytest.mark.parametrize("region", ["left eye", "right eye", "left brow", "both eyes", "nose"])
@pytest.mark.parametrize("names", ["as painted", "named the other way"])
def test_sides_follow_the_face_not_the_labels(painted, region, names):
    """A mirrored picture swaps left and right, whichever of its eyes the network calls left."""
    labels = portrait()
    if names == "named the other way":
        labels = torch.tensor([0, 1, 3, 2, 5, 4, *range(6, 19)])[labels]
    expected = paint_mask(portrait(), region)
    assert overlap(masks_of(painted, labels, POINTS, region), expected) > 0.9
    mirrored = POINTS[[1, 0, 2, 4, 3]] * [-1, 1] + [511, 0]
    mask = masks_of(painted, labels.flip(1), mirrored, region)
    assert overlap(mask, paint_mask(portrait(), SWAPPED.get(region, region)).flip(1)) > 0.9


def test_the_left_eye_is_at_the_right_hand_side(painted):
    box = masks_of(painted, portrait(), POINTS, "left eye", shape="box").nonzero()
    assert box[:, 1].min() > POINTS[2, 0]
    assert (box[:, 1].max() - box[:, 1].min() + 1) * (box[:, 0].max() - box[:, 0].min() + 1) == len(box)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_images(painted, turns):
    points, labels = POINTS, portrait()
    for _ in range(turns):
        points, labels = points[:, ::-1] * [1, -1] + [0, 511], torch.rot90(labels)
    for region in ("left eye", "right brow", "hair"):
        expected = torch.rot90(masks_of(painted, portrait(), POINTS, region), turns)
        assert overlap(masks_of(painted, labels, points, region), expected) > 0.97


def test_neighbours_in_the_crop_are_somebody_else(painted):
    labels = portrait(512, 1000, (0, 0)) + portrait(512, 1000, (190, 0)) * (portrait(512, 1000, (0, 0)) == 0)
    beside = portrait(512, 1000, (200, 0))
    labels = torch.where(portrait(512, 1000) > 0, portrait(512, 1000), beside)
    second = face_at(POINTS + [200, 0])
    faces = Faces(PALETTE[labels][None], ((face_at(POINTS), second),))
    for region in ("left eye", "mouth", "hair"):
        masks, _ = face_masks(faces, region, MaskStyle(), painted)
        assert overlap(masks[0], paint_mask(portrait(512, 1000), region)) > 0.85, region
        assert overlap(masks[1], paint_mask(beside, region)) > 0.85, region
        assert torch.minimum(masks[0], masks[1]).sum() == 0


def test_a_bigger_neighbour_does_not_take_over(painted):
    small = portrait(900, 1500, (600, 420), 0.3)
    big = portrait(900, 1500, (620, 30), 1.6)
    labels = torch.where(small > 0, small, big * (torch.arange(1500) > 760))
    mask = masks_of(painted, labels, POINTS * 0.3 + [600, 420], "face")
    assert overlap(mask, paint_mask(small, "face")) > 0.8


def test_a_person_is_one_piece_with_a_rim_of_one_pixel():
    """Pieces that touch at a corner are one; what is less likely than not belongs to nobody."""
    probability = np.zeros((len(LABELS), 40, 40))
    probability[1, 5:15, 5:15], probability[17, 15:20, 15:20], probability[14, 5:8, 15:20] = 0.6, 1, 0.4
    probability[1, 5:15, 25:40] = 1  # somebody else, and larger
    expected = np.zeros((40, 40), bool)
    expected[4:16, 4:16] = expected[14:21, 14:21] = True
    points = np.array([[7, 7], [12, 7], [10, 10], [8, 13], [12, 13]])
    assert np.array_equal(_find_person(probability, points), expected)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("region", ["head", "hair", "mouth"])
def test_nothing_of_a_part_lies_outside_of_its_bounds(painted, region, scale):
    """A mask is worked out within the part's bounds, with what interpolation and a head's dilation add."""
    side = int(512 * scale)
    labels, points = portrait(side, side, scale=scale), (POINTS + 0.5) * scale - 0.5
    whole = painted.parse(PALETTE[labels], face_at(points)).fill(region, (0, 0, side, side))
    assert np.array_equal(masks_of(painted, labels, points, region).numpy(), whole)


@pytest.mark.parametrize("style", [{}, {"feather": 12.0}, {"expand": -4.0}, {"expand": 6.0}])
def test_faces_cut_by_the_border_have_no_edge_there(painted, style):
    """The picture's border is no edge of the hair that it cuts: neither faded nor shrunk."""
    whole, cut = portrait(), portrait()[180:]
    expected = masks_of(painted, whole, POINTS, "hair", **style)[180:]
    mask = masks_of(painted, cut, POINTS - [0, 180], "hair", **style)
    assert (mask[12:] - expected[12:]).abs().max() < 0.1
    assert (mask[0] - expected[0]).abs().mean() < 0.02
    assert float(mask[0].max()) == pytest.approx(float(expected[0].max()), abs=0.1)


def test_far_outside_and_unseen_faces_give_empty_masks(painted):
    for region in ("head", "left eye", "hair"):
        assert masks_of(painted, portrait(), POINTS + [3000, 0], region, expand=5, feather=5).sum() == 0
        assert masks_of(painted, torch.zeros(512, 512).long(), POINTS, region, expand=5, feather=5).sum() == 0


def test_tiny_and_huge_faces(painted):
    tiny = portrait(40, 40, (10, 10), 0.04)
    assert masks_of(painted, tiny, POINTS * 0.04 + 10, "face").sum() > 10
    huge = portrait(512, 512, (-1800, -1800), 8)
    assert masks_of(painted, huge, POINTS * 8 - 1800, "face").mean() > 0.9


def test_head_is_face_and_hair_without_neck(painted):
    labels = portrait()
    mask = masks_of(painted, labels, POINTS, "head")
    head = torch.isin(labels, torch.tensor([1, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17])).float()
    assert overlap(mask, head) > 0.9
    assert mask[head > 0].mean() > 0.999, "dilated, so nothing of the head is lost"
    assert mask[400, 256] == 0, "the neck"


@pytest.mark.slow
@torch.inference_mode()
def test_any_answer_makes_masks(written):
    parser = load_parser(written(drawn(bisenet_shapes(**SMALL), 3)))
    images = torch.rand(3, 60, 90, 3, generator=torch.Generator().manual_seed(0))
    faces = Faces(images, ((), (face_at(POINTS / 8),), (face_at(POINTS / 10), face_at(POINTS / 12 + 20))))
    for region in ("head", "both eyes", "hair"):
        masks, sources = face_masks(faces, region, MaskStyle("box", 5, 5, "per cent of the face"), parser)
        assert masks.shape == (3, 60, 90) and torch.isfinite(masks).all() and len(sources) == 3
        assert masks.min() >= 0 and masks.max() <= 1 + 1e-5


@torch.inference_mode()
def test_probabilities_are_the_networks(written):
    """Softmax of the network's own answer to the normalised crop, in its patcher's care."""
    parser = load_parser(written(drawn(bisenet_shapes(**SMALL), 3)))
    image = torch.rand(300, 200, 3, generator=torch.Generator().manual_seed(0))
    parsed = parser.parse(image, face_at(POINTS / 3))
    crop = _cut(image, parsed.to_crop).movedim(2, 0)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    logits = parser.patcher.model(
        ((crop - mean[:, None, None]) / std[:, None, None])[None].to(parser.patcher.load_device)
    )
    expected = logits[0].softmax(dim=0).cpu().numpy()
    person = parsed.probabilities.sum(axis=0) > 0
    assert person.any() and np.abs(parsed.probabilities - expected)[:, person].max() < 1e-5
    assert parser.patcher in [loaded.model for loaded in comfy.model_management.current_loaded_models]
