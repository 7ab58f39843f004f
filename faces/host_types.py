"""The host's own types for faces, both ways: FACE_LANDMARKS, BOUNDING_BOX and MASK.

FACE_LANDMARKS  {"frames": per image a list of face dicts, "image_size": (H, W), "connection_sets": mesh topology}
BOUNDING_BOX    {"x", "y", "width", "height"} in pixels, often with "label" and "score"; a list; a list per image
MASK            [B, H, W] of 0..1
"""

import numpy as np
import torch
from comfy_extras.mediapipe.face_geometry import transformation_matrix_from_detection
from scipy import ndimage

from .align import template
from .box_forms import to_bounding_boxes
from .choose import left_to_right
from .detector import as_bytes, as_rgb, get_mesh
from .mediapipe import from_host_landmarks
from .search import FaceDetector, find, in_words, move_face, tidy
from .types import Face, Faces, overlap

_MESH_POINTS = 478  # the mesh with irises, which the five points need
_MARGIN = 0.5  # of a box's sides, added on each side before a detector looks into it
_SAME_FACE = 0.5  # overlap (intersection over union) above which two boxes led to one face
_SPECK = 0.1  # of a mask's largest patch: patches smaller than that are no faces
LOOK_THERE = "Look at what the other node found there"  # what to do about an image without a face
# An upright face in its box, in box heights: detectors' boxes differ in width more than in height. Read off a photo
# whose boxes reach from the hairline to the chin.
_EYE_LINE, _EYE_DISTANCE = 0.36, 0.45


def export_boxes(faces: Faces) -> list[list[dict]]:
    """Return the boxes as the host's MediaPipe node gives them: per image a list, width and height as x1 - x0."""
    per_image = []
    for present in faces.per_image:
        boxes = []
        for face in present:
            (x, y), (width, height) = face.box[:2], face.sides
            boxes.append({"x": x, "y": y, "width": width, "height": height, "label": "face", "score": face.score})
        per_image.append(boxes)
    return per_image


def export_landmarks(faces: Faces) -> dict:
    """Return FACE_LANDMARKS with what the host's own node would give; stand-ins and profiles, without mesh, are out.

    Raises ValueError where the faces are not from MediaPipe, the only source of this mesh.
    """
    stray = [face for _, face in faces.pairs if face.host is None and face.score > 0 and not face.profile]
    if stray or faces.connection_sets is None:
        raise ValueError(
            f"These faces have no MediaPipe mesh (they were found with {faces.tried or 'another detector'}), and "
            "FACE_LANDMARKS hold nothing else: choose a mediapipe detector in Load Face Detector."
        )
    height, width = faces.images.shape[1:3]
    frames = []
    for present in faces.per_image:
        frame = [dict(face.host) for face in present if face.host]
        for face in frame:
            if faces.canonical is not None and "transformation_matrix" not in face:
                matrix = transformation_matrix_from_detection(face, width, height, faces.canonical)
                face["transformation_matrix"] = matrix
        frames.append(frame)
    return {"frames": frames, "image_size": (height, width), "connection_sets": faces.connection_sets}


def import_faces(
    images: torch.Tensor,
    landmarks: dict | None = None,
    bboxes: dict | list | None = None,
    mask: torch.Tensor | None = None,
    detector: FaceDetector | None = None,
) -> Faces:
    """Return the faces that another node found in `images` [B, H, W, C] and gives as one of the three host types.

    Raises ValueError for none or several of them, and where the one does not fit the images.
    """
    given = [value is not None for value in (landmarks, bboxes, mask)]
    if sum(given) != 1:
        raise ValueError(f"Connect exactly one of face_landmarks, bboxes and mask; {sum(given)} are connected.")
    images = as_rgb(images)
    if landmarks is not None:
        return faces_from_landmarks(images, landmarks)
    if bboxes is not None:
        return faces_from_boxes(images, boxes_of(bboxes, images), "the boxes of another node", detector)
    return faces_from_boxes(images, boxes_of_masks(mask, images), "the mask of another node", detector)


def faces_from_landmarks(images: torch.Tensor, landmarks: dict) -> Faces:
    """Return the faces of FACE_LANDMARKS found elsewhere in `images` [B, H, W, 3], exactly as they are there.

    Raises ValueError where they belong to other images or are not the 478 points of MediaPipe's mesh.
    """
    batch, height, width = images.shape[:3]
    if not isinstance(landmarks, dict) or not {"frames", "image_size"} <= landmarks.keys():
        raise ValueError("face_landmarks is not what Detect Face Landmarks (MediaPipe) gives: connect that node.")
    if tuple(landmarks["image_size"]) != (height, width) or len(landmarks["frames"]) != batch:
        theirs = landmarks["image_size"]
        raise ValueError(
            f"face_landmarks are of {len(landmarks['frames'])} pictures of {theirs[1]} x {theirs[0]}, the image is "
            f"{batch} of {width} x {height}: detect the landmarks in the same pictures."
        )
    per_image = []
    for frame in landmarks["frames"]:
        for face in frame:
            shape = np.shape(face.get("landmarks_xy"))
            if shape != (_MESH_POINTS, 2):
                raise ValueError(
                    f"A face of face_landmarks has points of shape {list(shape)}, not [{_MESH_POINTS}, 2]: connect "
                    "Detect Face Landmarks (MediaPipe)."
                )
        per_image.append(left_to_right(tidy([from_host_landmarks(face) for face in frame], (width, height))))
    return Faces(images, tuple(per_image), "the face_landmarks of another node", landmarks.get("connection_sets"))


def faces_from_boxes(
    images: torch.Tensor, boxes: list[list[Face]], source: str, detector: FaceDetector | None = None
) -> Faces:
    """Return the faces in the boxes of another node, in `images` [B, H, W, 3].

    boxes: per image, as `boxes_of` and `boxes_of_masks` give them: faces with estimated points. source: whose boxes,
    in words. With a detector each box is searched instead, see `_search_box`; a box in which it finds nothing, or the
    face of an earlier box once more, is dropped.
    """
    if detector is None:
        return Faces(images, tuple(map(left_to_right, boxes)), source)
    per_image = []
    for image, estimates in zip(as_bytes(images), boxes):
        faces: list[Face] = []
        for estimate in estimates:
            face = _search_box(estimate, image, detector)
            if face and all(overlap(face, other) < _SAME_FACE for other in faces):
                faces.append(face)
        per_image.append(left_to_right(faces))
    tried = f"{source}, and in them {in_words(detector, 'thorough', 0)}"
    return Faces(images, tuple(per_image), tried, *get_mesh(detector))


def boxes_of(bboxes: dict | list, images: torch.Tensor) -> list[list[Face]]:
    """Read BOUNDING_BOX, or what `box_forms` makes one of, in any form: per image of `images` [B, H, W, C] its faces.

    One box, or one list of boxes, counts for every image. Boxes are clipped to the image, points are estimated (see
    `_estimate`), the score is the box's own, or 1. Raises ValueError where there is no box at all, the lists are not as
    many as the images, or a box is malformed or outside its image.
    """
    batch, height, width = images.shape[:3]
    bboxes = to_bounding_boxes(bboxes, batch, (width, height))
    lists = [bboxes] if isinstance(bboxes, dict) else list(bboxes) if isinstance(bboxes, (list, tuple)) else [bboxes]
    if lists and all(isinstance(box, dict) for box in lists):
        lists = [lists] * batch
    if not all(isinstance(boxes, (list, tuple)) for boxes in lists):
        raise ValueError("bboxes must be a box, a list of boxes, or a list of such lists, one for each picture.")
    if lists and len(lists) not in (1, batch):
        raise ValueError(
            f"bboxes has boxes for {len(lists)} pictures, the image has {batch}: detect them in the same pictures."
        )
    if not any(lists):
        raise ValueError("bboxes holds no box: look at what the detection node found, or lower its threshold.")
    return [
        [_read_box(box, f"box {j + 1} of picture {i + 1}", (width, height)) for j, box in enumerate(boxes)]
        for i, boxes in enumerate(lists * (batch // len(lists)))
    ]


def boxes_of_masks(masks: torch.Tensor, images: torch.Tensor) -> list[list[Face]]:
    """Return faces for the patches (above 0.5) of masks [1 or B, H, W]: per image of `images`; one mask counts for all.

    Patches under a tenth of the largest are specks, not faces. Raises ValueError where the masks are of another size
    or number than the images, or all empty.
    """
    batch, height, width = images.shape[:3]
    masks = masks.reshape(-1, *masks.shape[-2:])
    if masks.shape[0] not in (1, batch) or tuple(masks.shape[1:]) != (height, width):
        raise ValueError(
            f"The mask has {masks.shape[0]} pictures of {masks.shape[2]} x {masks.shape[1]}, the image has {batch} of "
            f"{width} x {height}: make one mask per picture, or one for all, from the same pictures."
        )
    boxes = [_find_patches(mask.cpu().numpy() > 0.5) for mask in masks]
    if not any(boxes):
        raise ValueError("The mask is empty: nothing in it is above 0.5, so it shows no face.")
    return [[_estimate(box, 1.0) for box in per_image] for per_image in boxes * (batch // len(boxes))]


def _read_box(box: dict, which: str, size: tuple[int, int]) -> Face:
    if not isinstance(box, dict) or not {"x", "y", "width", "height"} <= box.keys():
        raise ValueError(f"bboxes: {which} is not a box with x, y, width and height.")
    x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
    if not np.isfinite([x, y, width, height]).all() or width <= 0 or height <= 0:
        raise ValueError(f"bboxes: {which} is {width:g} x {height:g} pixels at ({x:g}, {y:g}), which is no box.")
    score = box.get("score")
    inside = tidy([_estimate((x, y, x + width, y + height), 1.0 if score is None else float(score))], size)
    if not inside:
        raise ValueError(
            f"bboxes: {which}, {width:g} x {height:g} at ({x:g}, {y:g}), lies outside the picture of "
            f"{size[0]} x {size[1]}: detect the boxes in the same picture."
        )
    return inside[0]


def _estimate(box: tuple[float, float, float, float], score: float) -> Face:
    """Lay an upright face into `box`: the ArcFace template in the size and position that the box's height gives."""
    x0, y0, x1, y1 = box
    eyes, height = template(112)[:2], y1 - y0
    scale = _EYE_DISTANCE * height / np.hypot(*(eyes[1] - eyes[0]))
    points = (template(112) - eyes.mean(axis=0)) * scale + [(x0 + x1) / 2, y0 + _EYE_LINE * height]
    return Face(points.astype(np.float32), box, score)


def _find_patches(mask: np.ndarray) -> list[tuple[float, float, float, float]]:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=1)[1:]
    boxes = []
    for area, (rows, columns) in zip(areas, ndimage.find_objects(labels)):
        # A patch one pixel wide has no box; so small a one is a speck anyway.
        if area >= _SPECK * areas.max() and min(rows.stop - rows.start, columns.stop - columns.start) > 1:
            boxes.append(tuple(map(float, (columns.start, rows.start, columns.stop - 1, rows.stop - 1))))
    return boxes


def _search_box(estimate: Face, image: np.ndarray, detector: FaceDetector) -> Face | None:
    """Return the best face whose centre lies in the box of `estimate`, None where none does.

    Its surroundings, half the box's sides on every side, are searched too.
    """
    corners = np.reshape(estimate.box, (2, 2))
    margin = _MARGIN * (corners[1] - corners[0])
    limit = image.shape[1], image.shape[0]
    (left, top), (right, bottom) = np.clip([corners[0] - margin, corners[1] + margin + 1], 0, limit).round().astype(int)
    part = np.ascontiguousarray(image[top:bottom, left:right])
    faces = [
        move_face(face, lambda points: points + np.array([left, top], points.dtype)) for face in find(detector, part)
    ]
    inside = [face for face in faces if (corners[0] <= face.centre).all() and (face.centre <= corners[1]).all()]
    return max(inside, key=lambda face: face.score, default=None)
