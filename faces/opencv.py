"""OpenCV's detectors: YuNet, which needs a small weight file, and the Haar cascade, which needs none."""

import math
from pathlib import Path

import folder_paths
import numpy as np
from PIL import Image

from ..weights import manifest, trial
from .close_up import read_close_up
from .types import Face

_NMS_OVERLAP = 0.3  # YuNet's published setting
_CANDIDATE = 0.5  # score at which YuNet's finds are worth a close-up
_CLOSE_UP = 160  # pixels a side
_HAAR_CLOSE_UP = 128
_HAAR_FACE = (40, 100)  # pixels a side that its box can have there: about 58
_HAAR_SWEEPS = (np.arange(-30, 31, 15),)
_MOST_CANDIDATES = 6  # of one look of the cascade, so that texture does not take minutes
_SMALLEST_FACE = 32  # pixels at the working size; the cascade was trained at 24, where it also sees faces in texture
# Contrast is evened out cell by cell: over the whole picture, faces before a plain background would lose theirs.
_CONTRAST, _CELLS = 2.0, (8, 8)
_EYE_REGION = 0.6  # the share of a Haar box, from its top, that holds the eyes
_EYE_PATCH = 200  # pixels the box is scaled to before looking for eyes, whatever the face's size
# The stage sum of a Haar box at which it is as likely a face as not: real faces score about 5 to 10, texture 0 to 4.
_EVEN_WEIGHT = 4.5
# Eyes, nose tip and mouth corners in eye distances from between the eyes (x right, y down). The mouth lies halfway
# between the ArcFace template's and a broad smile's, which draws the corners up and apart.
_FACE_SHAPE = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.57], [-0.46, 1.0], [0.46, 1.0]])
# Where the eyes lie in a Haar box of an upright face, in box widths, when the eye cascade does not find both.
_AVERAGE_EYES = np.array([[0.28, 0.38], [0.72, 0.38]])


class HaarCascade:
    """The frontal-face cascade of opencv-python 4: upright faces (roll up to about 15 degrees) looking ahead.

    It knows boxes only. The five points are an average face laid on the two eyes that a second cascade finds in the
    box, or on the box itself: off by some hundredths of the box, and by about a tenth at the corners of a smile.
    """

    scans = True

    def __init__(self, min_score: float, det_size: int):
        self.name = f"opencv: haar cascade (det_size {det_size}, min_score {min_score:g})"
        self.min_score, self.det_size = min_score, det_size
        self._cv2 = _cv2()
        if not hasattr(self._cv2, "CascadeClassifier"):
            raise ValueError(
                f"OpenCV {self._cv2.__version__} has no Haar cascade (5.x dropped it): run "
                "'pip install \"opencv-python>=4.9,<5\"' in ComfyUI's Python, or choose another detector."
            )
        folder = Path(self._cv2.data.haarcascades)
        self._faces = self._cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))
        self._eyes = self._cv2.CascadeClassifier(str(folder / "haarcascade_eye.xml"))

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return every upright frontal face in `image` [H, W, 3] uint8 RGB, and what may be one, for `look_closer`."""
        smaller, scale = _to_working_size(self._cv2, image, self.det_size)
        grey = self._cv2.cvtColor(smaller, self._cv2.COLOR_RGB2GRAY)
        faces = self._read(self._cv2.createCLAHE(_CONTRAST, _CELLS).apply(grey), scale)
        return sorted(faces, key=lambda face: -face.score)[:_MOST_CANDIDATES]

    def look_closer(self, image: np.ndarray, face: Face) -> Face | None:
        """Return a find in `image` as a close-up shows it; None where it is none, or less sure than min_score."""

        def detect(pixels: np.ndarray) -> list[Face]:
            grey = self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2GRAY)
            return self._read(self._cv2.equalizeHist(grey), np.ones(2), _HAAR_FACE)

        face = read_close_up(detect, image, face, _HAAR_CLOSE_UP, _HAAR_SWEEPS)
        return face if face and face.score >= self.min_score else None

    def _read(self, grey: np.ndarray, scale: np.ndarray, sides: tuple[int, int] = (_SMALLEST_FACE, 0)) -> list[Face]:
        """Return what the cascade sees in `grey` [h, w], in pixels that are smaller by `scale` (of x and y).

        sides: the smallest and the largest that a face can have in `grey`; 0 for any.
        """
        boxes, weights = _cascade(self._faces, grey, sides)
        return [self._to_face(grey, box, haar_score(weight), scale) for box, weight in zip(boxes, weights)]

    def _to_face(self, grey: np.ndarray, box: np.ndarray, score: float, scale: np.ndarray) -> Face:
        """Return the face in a box (x, y, width, height) of the working size, laid on its two eyes.

        Of a box in which no pair of eyes is seen, the score counts half.
        """
        corner, width = box[:2], box[2]
        eyes = self._find_eyes(grey, box)
        points = corner + width * lay_on_eyes(_AVERAGE_EYES if eyes is None else eyes)
        # Boxes and eye centres are measured from the image's edge, pixels from their centres: half a pixel apart.
        edges = np.concatenate([corner, corner + width]) / np.tile(scale, 2) - 0.5
        score = score / 2 if eyes is None else score
        return Face((points / scale - 0.5).astype(np.float32), tuple(edges.tolist()), score)

    def _find_eyes(self, grey: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """Return the left and right eye [2, 2] in box widths, None where the eye cascade finds no plausible pair."""
        x, y, width = box[0], box[1], box[2]
        upper = grey[y : y + math.ceil(_EYE_REGION * width), x : x + width]
        patch = self._cv2.resize(upper, (_EYE_PATCH, round(_EYE_REGION * _EYE_PATCH)))
        boxes, weights = _cascade(self._eyes, patch, (30, 0))
        centres = (boxes[:, :2] + boxes[:, 2:] / 2) / _EYE_PATCH
        sides = [np.flatnonzero(centres[:, 0] < 0.5), np.flatnonzero(centres[:, 0] >= 0.5)]
        if not all(len(side) for side in sides):
            return None
        pair = centres[[side[weights[side].argmax()] for side in sides]]
        across, down = pair[1] - pair[0]
        return pair if 0.3 <= across <= 0.6 and abs(down) <= across / 2 else None


class YuNet:
    """The YuNet network with its own five points, from an .onnx file in models/detection."""

    def __init__(self, file_name: str, min_score: float, det_size: int):
        self.name = f"opencv: {file_name} (det_size {det_size}, min_score {min_score:g})"
        self.min_score, self.det_size = min_score, det_size
        path = find_yunet(file_name)
        self._cv2 = _cv2()
        with trial.name_faults(f"{file_name} in models/detection cannot be used as a YuNet detector"):
            trial.try_out(path, "opencv")
            least = min(min_score, _CANDIDATE)
            create = self._cv2.FaceDetectorYN.create
            self._net = create(path, "", (det_size, det_size), least, _NMS_OVERLAP)
            try:
                self._net.detect(np.zeros((det_size, det_size, 3), np.uint8))
            except self._cv2.error as error:
                version = self._cv2.__version__
                raise ValueError(
                    f"OpenCV {version} cannot run it, it is another network or needs a newer one"
                ) from error

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return every face in `image` [H, W, 3] uint8 RGB, and what may be one, for `look_closer` to decide."""
        return self._read(image, self.det_size)

    def look_closer(self, image: np.ndarray, face: Face) -> Face | None:
        """Return a find in `image` as a close-up shows it; None where it is none, or less sure than min_score."""
        between = Image.Resampling.BICUBIC  # of five pixels between the eyes, the points come out nearer
        face = read_close_up(lambda pixels: self._read(pixels, _CLOSE_UP), image, face, _CLOSE_UP, between=between)
        return face if face and face.score >= self.min_score else None

    def _read(self, image: np.ndarray, longest: int) -> list[Face]:
        smaller, scale = _to_working_size(self._cv2, image, longest)
        self._net.setInputSize(smaller.shape[1::-1])
        with trial.name_faults(f"{self.name} cannot look for faces"):
            rows = self._net.detect(np.ascontiguousarray(smaller[..., ::-1]))[1]  # OpenCV's order is BGR
        faces = []
        for row in rows if rows is not None else []:  # x, y, width, height, five points in template order, score
            corner, size = row[:2] / scale, row[2:4] / scale
            box = tuple(float(edge) for edge in (*corner, *(corner + size)))
            faces.append(Face((row[4:14].reshape(5, 2) / scale).astype(np.float32), box, float(row[14])))
        return faces


def haar_score(weight: float) -> float:
    """Return a cascade's stage sum as a score in 0..1, increasing, 0.5 at the sum where faces and false alarms part."""
    return 1 / (1 + math.exp(_EVEN_WEIGHT - weight))


def lay_on_eyes(eyes: np.ndarray) -> np.ndarray:
    """Return an average face's five points [5, 2] in the roll, size and position that two eyes [2, 2] give."""
    across = eyes[1] - eyes[0]
    return eyes.mean(axis=0) + _FACE_SHAPE @ np.array([across, [-across[1], across[0]]])


def yunet_files() -> dict[str, str]:
    """Return the YuNet files in the host's "detection" folders, of which it lists no .onnx itself: name -> path."""
    return {
        path.name: str(path)
        for folder in folder_paths.get_folder_paths("detection")
        for path in sorted(Path(folder).glob("*.onnx"))
        if "yunet" in path.name.lower()
    }


def find_yunet(file_name: str) -> str:
    """Return where a YuNet file lies; raise FileNotFoundError that says where to get it."""
    present = yunet_files()
    if file_name not in present:
        searched = folder_paths.get_folder_paths("detection")
        raise FileNotFoundError(manifest.explain_missing("detection", file_name, searched, list(present)))
    return present[file_name]


def _cv2():
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"The OpenCV detectors need a package that is not installed ({error}): run "
            "'pip install \"opencv-python>=4.9,<5\"' in ComfyUI's Python (5.x has no Haar cascade), or choose another "
            "detector."
        ) from error
    return cv2


def _to_working_size(cv2, image: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the image scaled so that its longest side is `longest`, and the scale of x and y [2].

    Smaller images grow, so that a face is found alike at every resolution of the same image.
    """
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return scaled, np.array(size) / [width, height]


def _cascade(cascade, grey: np.ndarray, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes [n, 4] (x, y, width, height) and the stage sums [n] of what a cascade finds, of so long `sides`."""
    smallest, largest = ((side, side) for side in sides)
    boxes, _, weights = cascade.detectMultiScale3(
        grey, scaleFactor=1.1, minNeighbors=3, minSize=smallest, maxSize=largest, outputRejectLevels=True
    )
    return np.reshape(boxes, (-1, 4)).astype(int), np.reshape(weights, -1)
