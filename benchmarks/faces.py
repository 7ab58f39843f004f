"""How well each detector finds faces and their points in photographs, beside MediaPipe's and OpenCV's own libraries.

Portraits in seventeen forms, groups composed from them, pictures without people. Errors are the mean distance of the
five points from the truth, in distances between the eyes. MediaPipe's library takes part where it can be imported. The
printed markdown is FACES.md; `--picture FILE` draws what was found in the groups.
"""

import argparse
import resource
import time
from itertools import chain
from pathlib import Path

import numpy as np
from bench import ROOT, machine, open_host, table

PHOTOS = ROOT / ".host" / "photos"
MODELS = ROOT / ".host" / "base" / "models"
# Irises, nose tip and mouth corners by MediaPipe 0.10.21's own library in the photographs as they are, looked at.
TRUTH = {
    "astronaut": [[203.0, 100.6], [245.5, 103.0], [223.0, 130.6], [201.8, 138.7], [244.0, 140.1]],
    "biden": [[532.0, 322.5], [652.3, 348.0], [596.8, 409.1], [520.8, 457.1], [625.0, 477.2]],
    "obama": [[442.7, 213.5], [548.6, 212.1], [496.8, 282.6], [434.4, 320.8], [557.0, 316.5]],
    "obama2": [[243.1, 367.9], [361.2, 378.3], [281.7, 450.8], [245.6, 516.9], [355.3, 524.0]],
    "obama3": [[734.9, 385.5], [857.9, 399.1], [811.8, 444.4], [735.2, 513.9], [845.8, 524.3]],
}
EMPTY = (
    "brick.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "color.png", "grass.png",
    "gravel.png", "horse.png", "hubble_deep_field.jpg", "logo.png", "moon.png", "motorcycle_left.png", "page.png",
    "phantom.png", "retina.jpg", "rocket.jpg", "text.png", "chessboard_GRAY.png",
)  # fmt: skip
ROLLS = (15, 30, 45, 60, 90, 135, 180)
WELL = 0.15  # eye distances
LOOSELY = 0.5  # within which a score is that of the face at all
SCORED_FORMS = ("as is", "flip", "roll 90", "shrink to 0.12", "dark", "wide")
LOWEST_SCORES = {"MediaPipe": 0.4, "YuNet": 0.6, "Haar": 0.1}
DETECTORS = (
    ("MediaPipe", "mediapipe: face_landmarker.safetensors"),
    ("YuNet", "opencv: face_detection_yunet_2023mar_int8bq.onnx"),
    ("Haar", "opencv: haar cascade"),
)
# Rows of people: how tall, in pixels, and how far rolled, in degrees, each after the other.
GROUPS = (
    ((500, 0, 0, 0, 0, 0),),
    ((300, 0, 10, -10, 20, -20), (300, 5, 0, -15, 25, 0)),
    ((240, 0, 0, 0, 0, 0), (260, 0, 0, 0, 0, 0), (280, 0, 0, 0, 0, 0), (300, 0, 0, 0, 0, 0)),
    ((160, 0, 30, -30, 45, 0), (420, -20, 0, 20, 0, -40)),
    ((120, 0, 0, 0, 0, 0),),
    ((400, 90, 0, 0, 180, 0),),
)


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--picture", type=Path, help="write what was found in the groups there, as JPEG")
    options.add_argument(
        "--photos", type=int, default=len(TRUTH), metavar="N", help="take the first N photographs only"
    )
    options.add_argument("--longest", type=int, default=10000, metavar="N", help="reduce them to so many pixels a side")
    options.add_argument("--detectors", nargs="*", metavar="NAME", help="which columns (default: all)")
    options.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which tables to print (default: all)")
    options = options.parse_args()
    finders, photos = open_finders(), read_photos(options.photos, options.longest)
    finders = {name: find for name, find in finders.items() if name in (options.detectors or finders)}
    print(f"{machine()}.", flush=True)
    for section in options.sections or SECTIONS:
        SECTIONS[section](finders, photos, *([options.picture] if section == "groups" else []))


def print_portraits(finders: dict, photos: dict) -> None:
    """Print the errors in every form of the portraits."""
    variants = [vary(image, np.array(TRUTH[name])) for name, image in photos.items()]
    seconds = dict.fromkeys(finders, 0.0)

    def measure(label: str, form: str) -> str:
        begin = time.process_time()
        errors = [measure_error(finders[label](pixels), points) for pixels, points in (each[form] for each in variants)]
        seconds[label] += time.process_time() - begin
        return in_words(errors)

    rows = ([form, *(measure(label, form) for label in finders)] for form in variants[0])
    last = (
        ["seconds a photo", *(f"{sum_ / len(variants) / len(variants[0]):.2f}" for sum_ in seconds.values())]
        for _ in "1"
    )
    print_table("Portraits", ["", *finders], chain(rows, last))


def print_groups(finders: dict, photos: dict, picture: Path | None = None) -> None:
    """Print how many people of each group are well placed, and draw what was found into `picture`."""
    groups = [compose(photos, group) for group in GROUPS]
    found: dict[str, list] = {}

    def count(label: str) -> list:
        found[label] = [finders[label](pixels) for pixels, _ in groups]
        return [label, *count_people(found[label], groups)]

    columns = ["", *[f"{len(people)} people" for _, people in groups], "all", "false"]
    print_table("Groups", columns, map(count, finders))
    if picture:
        draw(groups, list(found.values())[:2], picture)


def print_empty(finders: dict, photos: dict) -> None:
    """Print what is taken for faces in pictures without people."""
    empty = {name: read(skimage_data() / name) for name in EMPTY}

    def count(label: str) -> list:
        begin = time.process_time()
        counts = {name: len(finders[label](image)) for name, image in empty.items()}
        seconds = (time.process_time() - begin) / len(empty)
        false = ", ".join(f"{name.split('.')[0]} ({count})" for name, count in counts.items() if count)
        return [label, sum(counts.values()), false or "none", f"{seconds:.2f}"]

    columns = ["", f"faces in {len(empty)} pictures", "where", "seconds a picture"]
    print_table("Pictures without people", columns, map(count, finders))


def print_scores(finders: dict, photos: dict) -> None:
    """Print how low faces score and how high what is none does, with `min_score` far below the default."""
    portraits = [
        (pixels, points)
        for name, image in photos.items()
        for form, (pixels, points) in vary(image, np.array(TRUTH[name])).items()
        if form in SCORED_FORMS
    ]
    empty = {name: read(skimage_data() / name) for name in EMPTY}

    def measure(name: str) -> list:
        find = open_ours(dict(DETECTORS)[name], LOWEST_SCORES[name])
        seen = [(measure_error([face], points), face[1]) for pixels, points in portraits for face in find(pixels)]
        true = sorted(score for error, score in seen if error < LOOSELY)
        false = [(score, "portraits") for error, score in seen if error > 1]
        false += [(face[1], picture.split(".")[0]) for picture, image in empty.items() for face in find(image)]
        highest = ", ".join(f"{score:.2f} ({picture})" for score, picture in sorted(false)[:-7:-1])
        lowest = ", ".join(f"{score:.2f}" for score in true[:6])
        return [name, LOWEST_SCORES[name], f"{len(true)} of {len(portraits)}", lowest, highest or "none"]

    columns = ["", "min_score here", "faces found", "lowest of faces", "highest of what is none"]
    print_table("Scores", columns, map(measure, [name for name in finders if name in LOWEST_SCORES]))


def print_masks(finders: dict, photos: dict) -> None:
    """Print how much of each part, as MediaPipe's landmarks outline it, an average face on YuNet's five points covers.

    Of all photographs that packages carry, and their mirror images.
    """
    from likeness.faces.headmask import head_outline
    from likeness.faces.regions import PARTS, outline

    faces = list(chain(*(pair_finds(pixels) for image in read_everybody() for pixels in (image, image[:, ::-1]))))

    def measure(part: str) -> list:
        covers, areas = [], []
        for meshed, five in faces:
            true, _ = outline(meshed, "face" if part == "head" else part)
            estimated = head_outline(five) if part == "head" else outline(five, part)[0]
            cover, area = compare_outlines(true, estimated)
            covers.append(cover)
            areas.append(area)
        name = "face in the head" if part == "head" else part
        return [name, f"{np.mean(covers):.2f}", f"{min(covers):.2f}", f"{np.median(areas):.1f}"]

    columns = [f"of {len(faces)} faces", "covered", "at worst", "area, of the outline's"]
    print_table("Masks from five points", columns, map(measure, [*PARTS, "head"]))


def read_everybody() -> list[np.ndarray]:
    """Return every photograph of people that the packages here carry."""
    import importlib.util

    files = [skimage_data() / "astronaut.png", *sorted(PHOTOS.iterdir())]
    for package, member in (
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
        ("insightface", "data/images/t1.jpg"),
    ):
        if found := importlib.util.find_spec(package):
            files.append(Path(found.origin).parent / member)
    return [read(file) for file in files if file.is_file()]


def pair_finds(pixels: np.ndarray) -> list[tuple]:
    """Return each face that both networks find, as MediaPipe's with landmarks and as YuNet's with five points."""
    from likeness.faces import detector, search
    from likeness.faces.types import SAME_FACE, share

    pixels = np.ascontiguousarray(pixels)
    meshed, five = (search.find(detector.load(dict(DETECTORS)[name]), pixels) for name in ("MediaPipe", "YuNet"))
    return [
        (mesh, max(five, key=lambda face: share(mesh, face)))
        for mesh in meshed
        if mesh.landmarks is not None and any(share(mesh, face) > SAME_FACE for face in five)
    ]


def compare_outlines(true: np.ndarray, estimated: np.ndarray) -> tuple[float, float]:
    """Return the part of a convex outline that another one covers, and how many times as large that one is."""
    from likeness.faces.geometry import fill_convex

    both = np.concatenate([true, estimated])
    box = (*np.floor(both.min(axis=0)).astype(int) - 1, *np.ceil(both.max(axis=0)).astype(int) + 2)
    true, estimated = (fill_convex(corners, box) for corners in (true, estimated))
    return (true & estimated).sum() / true.sum(), estimated.sum() / true.sum()


def print_table(title: str, columns: list[str], rows) -> None:
    """Print rows as they come."""
    head, line, *_ = table(columns, []).split("\n")
    print(f"\n## {title}\n\n{head}\n{line}", flush=True)
    for row in rows:
        print(table(columns, [row]).split("\n")[-1], flush=True)


def open_finders() -> dict:
    """Return for each detector, ours and the libraries', a function from pixels to faces, as [(points, score)]."""
    open_host()
    import folder_paths

    folder_paths.folder_names_and_paths["detection"] = ([str(MODELS / "detection")], {".safetensors"})
    ours = {name: open_ours(label) for name, label in DETECTORS}
    return ours | {"OpenCV's YuNet": opencv_yunet()} | mediapipe_library()


def open_ours(label: str, *min_score: float):
    """Return what finds faces with one of our detectors, with its default lowest score or another."""
    from likeness.faces import detector, search

    loaded = detector.load(label, *min_score)
    return lambda pixels: [(face.points, face.score) for face in search.find(loaded, pixels)]


def opencv_yunet():
    """Return OpenCV's own detector with its sample's settings: the picture as it is, scores from 0.9."""
    import cv2

    path = MODELS / "detection" / DETECTORS[1][1].removeprefix("opencv: ")
    net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.9, 0.3, 5000)

    def find(pixels: np.ndarray) -> list:
        net.setInputSize(pixels.shape[1::-1])
        rows = net.detect(np.ascontiguousarray(pixels[..., ::-1]))[1]
        return [(row[4:14].reshape(5, 2), float(row[14])) for row in ([] if rows is None else rows)]

    return find


def mediapipe_library() -> dict:
    """Return MediaPipe's own face landmarker, with its default confidences, where the package can be imported."""
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError:
        return {}
    task = ROOT / ".host" / "face_landmarker.task"
    if not task.is_file():
        return {}
    options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_path=str(task)), num_faces=40)
    landmarker = vision.FaceLandmarker.create_from_options(options)

    def find(pixels: np.ndarray) -> list:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
        size = np.array(pixels.shape[1::-1])
        five = [468, 473, 1, 61, 291]
        faces = landmarker.detect(image).face_landmarks
        return [(np.array([[face[i].x, face[i].y] for i in five]) * size - 0.5, 1.0) for face in faces]

    return {"MediaPipe's library": find}


def read_photos(count: int, longest: int) -> dict[str, np.ndarray]:
    """Return the first `count` portraits, whose truth is reduced with them to a longer side of `longest` pixels."""
    photos = {}
    for name in list(TRUTH)[:count]:
        pixels = read(skimage_data() / "astronaut.png" if name == "astronaut" else PHOTOS / f"{name}.jpg")
        photos[name], TRUTH[name] = shrink(pixels, np.array(TRUTH[name]), min(1, longest / max(pixels.shape)))
    return photos


def read(path: Path) -> np.ndarray:
    from PIL import Image

    return np.array(Image.open(path).convert("RGB"))


def skimage_data() -> Path:
    """Return the folder of pictures that scikit-image brings."""
    import importlib.util

    return Path(importlib.util.find_spec("skimage").origin).parent / "data"


def move(pixels: np.ndarray, points: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: int = 0) -> tuple:
    """Return pixels and points moved by an affine matrix [2, 3] into an image of `size` (width, height)."""
    import cv2

    moved = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(fill,) * 3)
    return moved, points @ matrix[:, :2].T + matrix[:, 2]


def roll(pixels: np.ndarray, points: np.ndarray, degrees: float, fill: int = 0) -> tuple:
    """Return pixels and points turned, on a canvas that holds all."""
    import cv2

    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    across, down = np.abs(matrix[0, :2])
    size = round(height * down + width * across), round(height * across + width * down)
    matrix[:, 2] += [(size[0] - width) / 2, (size[1] - height) / 2]
    return move(pixels, points, matrix, size, fill)


def shrink(pixels: np.ndarray, points: np.ndarray, factor: float) -> tuple:
    import cv2

    height, width = pixels.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), (points + 0.5) * np.array(size) / [
        width,
        height,
    ] - 0.5


def vary(pixels: np.ndarray, points: np.ndarray) -> dict[str, tuple]:
    """Return a portrait in all its forms: name -> pixels and points."""
    import cv2

    eyes, centre, width = np.hypot(*(points[1] - points[0])), points.mean(axis=0), pixels.shape[1]
    forms = {"as is": (pixels, points)}
    forms["flip"] = np.ascontiguousarray(pixels[:, ::-1]), (points * [-1, 1] + [width - 1, 0])[[1, 0, 2, 4, 3]]
    forms |= {f"roll {degrees}": roll(pixels, points, degrees) for degrees in ROLLS}
    forms |= {f"shrink to {factor}": shrink(pixels, points, factor) for factor in (0.12, 0.06)}
    forms["dark"] = (pixels * 0.15).astype(np.uint8), points
    forms["blur"] = cv2.GaussianBlur(pixels, (0, 0), 0.1 * eyes), points
    low, high = np.maximum((centre - 1.1 * eyes).astype(int), 0), (centre + 1.1 * eyes).astype(int) + 1
    forms["crop"] = np.ascontiguousarray(pixels[low[1] : high[1], low[0] : high[0]]), points - low
    forms["grey"] = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2), points
    forms["wide"] = np.pad(pixels, ((0, 0), (2 * width,) * 2, (0, 0)), constant_values=128), points + [2 * width, 0]
    hidden, top = pixels.copy(), int(0.6 * points[2, 1] + 0.4 * points[3:, 1].mean())
    left, right = (max(int(centre[0] + side * 1.5 * eyes), 0) for side in (-1, 1))
    hidden[top : int(centre[1] + 2 * eyes), left:right] = 90
    return forms | {"lower half hidden": (hidden, points)}


def compose(photos: dict, group: tuple) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return one picture of rows of people, and the points of each."""
    rows, people = [], []
    for row, (height, *rolls) in enumerate(group):
        tiles, left = [], 0
        names = np.roll(list(photos), row)
        for name, degrees in zip(names, rolls):
            pixels, points = shrink(photos[name], np.array(TRUTH[name]), height / photos[name].shape[0])
            pixels, points = roll(pixels, points, degrees, 200)
            tiles.append(pixels)
            people.append([row, points + [left, 0]])
            left += pixels.shape[1]
        tall = max(tile.shape[0] for tile in tiles)
        padding = [((0, tall - tile.shape[0]), (0, 0), (0, 0)) for tile in tiles]
        rows.append(np.concatenate([np.pad(t, p, constant_values=200) for t, p in zip(tiles, padding)], axis=1))
    tops = np.cumsum([0, *[row.shape[0] for row in rows]])
    wide = max(row.shape[1] for row in rows)
    picture = [np.pad(row, ((0, 0), (0, wide - row.shape[1]), (0, 0)), constant_values=200) for row in rows]
    return np.concatenate(picture), [points + [0, tops[row]] for row, points in people]


def measure_error(faces: list, points: np.ndarray) -> float:
    """Return the error of the surest face in eye distances, infinity where there is none."""
    if not faces:
        return np.inf
    best = max(faces, key=lambda face: face[1])[0]
    return float(np.linalg.norm(best - points, axis=1).mean() / np.hypot(*(points[1] - points[0])))


def in_words(errors: list[float]) -> str:
    """Return the median and the largest error, and how many portraits show their face well."""
    middle, worst = ("none found" if np.isinf(e) else f"{e:.2f}" for e in (np.median(errors), max(errors)))
    both = worst if middle == worst == "none found" else f"{middle}, {worst}"
    well = sum(error < WELL for error in errors)
    return both + ("" if well == len(errors) else f" ({well} of {len(errors)})")


def count_people(found: list, groups: list) -> list:
    """Return how many people of each group are well placed, of all, and how many faces are nobody's."""
    counts, total, false = [], 0, 0
    for faces, (_, people) in zip(found, groups):
        near = [
            [np.linalg.norm(face - points, axis=1).mean() / np.hypot(*(points[1] - points[0])) for points in people]
            for face, _ in faces
        ]
        near = np.array(near).reshape(-1, len(people))
        counts.append(int((near < WELL).any(axis=0).sum()))
        false += int((near.min(axis=1) > 1).sum()) if len(near) else 0
        total += len(people)
    return [*counts, f"{sum(counts)} of {total}", false]


def draw(groups: list, found: list, path: Path) -> None:
    """Draw the points that two detectors found into the groups."""
    from PIL import Image, ImageDraw

    rows = []
    for i, (picture, _) in enumerate(groups):
        image = Image.fromarray(picture)
        pen, size = ImageDraw.Draw(image), max(2, picture.shape[1] // 500)
        for colour, faces in zip(("cyan", "yellow"), found):
            for points, _ in faces[i]:
                for x, y in points:
                    pen.ellipse((x - size, y - size, x + size, y + size), outline=colour, width=max(1, size // 2))
        image.thumbnail((900, 900))
        rows.append(image)
    sheet = Image.new("RGB", (900, sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.save(path, quality=80)


def print_large(finders: dict, photos: dict) -> None:
    """Print seconds for a portrait of 48 megapixels, and the process's peak memory."""
    import cv2
    import torch
    from likeness.faces import detector

    large = torch.from_numpy(cv2.resize(photos["obama"], (6200, 7742))).float().div_(255)[None]

    def measure(name: str) -> list:
        begin = time.process_time()
        faces = detector.detect_faces(detector.load(dict(DETECTORS)[name]), large).per_image[0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return [name, len(faces), f"{time.process_time() - begin:.1f}", f"{peak:.1f}"]

    columns = ["", "faces", "seconds", "GB at most so far"]
    print_table("48 megapixels", columns, map(measure, [name for name, _ in DETECTORS if name in finders]))


SECTIONS = {
    "portraits": print_portraits, "groups": print_groups, "empty": print_empty, "scores": print_scores,
    "masks": print_masks, "large": print_large,
}  # fmt: skip

if __name__ == "__main__":
    main()
