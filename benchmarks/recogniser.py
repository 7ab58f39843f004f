"""How far a recogniser tells photos of one person from those of strangers, with every face detector that is ready.

    python3 likeness.py bench recogniser FOLDER... [--encoder FILE] [--detector LABEL]... [--models FOLDER]

In a folder the photos of one person have the same name up to the first digit or underscore (obama.jpg, obama2.jpg,
obama_hat.jpg); of each the largest face is taken. All faces of a photo without such fellows are strangers to all.
Files whose names begin with a digit are left out. Printed are the cosines of all pairs, and of each photo with the mean
of a person's others, to which `min_agreement` is the limit. The printed markdown can be pasted into RESULTS.md; the
picture shows the histograms.
"""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import COMFY, load_package, table

load_package()

from likeness.host_process import BASE, open_host  # noqa: E402

open_host(COMFY, cpu=True, base=BASE)

import folder_paths  # noqa: E402
import torch  # noqa: E402
from likeness.encoders.agreement import MIN_AGREEMENT, agreement  # noqa: E402
from likeness.encoders.face_encoder import FaceEncoder  # noqa: E402
from likeness.faces import detector as detectors  # noqa: E402
from likeness.faces.choose import choose  # noqa: E402
from likeness.graphics import read_image  # noqa: E402
from likeness.metrics.loading import load_recogniser  # noqa: E402
from likeness.metrics.similarity import pair_cosines  # noqa: E402
from likeness.metrics.statistics import separation  # noqa: E402
from likeness.training.photos import PHOTO_FILES  # noqa: E402
from likeness.weights import folders  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402

MODEL_FOLDERS = ("detection", "insightface")


def list_photos(folders: list[Path]) -> list[tuple[str, Path]]:
    """Return the person and the file of every photo in the folders."""
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix.lower() in PHOTO_FILES]
    return [(re.match(r"\D+?(?=[\d_.])", file.name)[0], file) for file in files if not file.name[0].isdigit()]


def embed(label: str, encoder: FaceEncoder, paths: list[Path]) -> tuple[torch.Tensor, list[str], int]:
    """Return embeddings [n, d], the person of each, and how many photos show no face."""
    detector, embeddings, people, faceless = detectors.load(label, 0.5, 640), [], [], 0
    photos = list_photos(paths)
    alone = [name for name, count in Counter(name for name, _ in photos).items() if count == 1]
    for person, file in photos:
        faces = detectors.detect_faces(detector, read_image(file)[None])
        found = faces.per_image[0] if person in alone else choose(faces.per_image[0], "largest", 0, (0, 0))
        faceless += not found
        if found:
            embeddings.append(encoder.encode_faces(replace(faces, per_image=(found,))).embedding)
            people += [f"{person} {i}" if person in alone else person for i in range(len(found))]
    return torch.cat(embeddings), people, faceless


def with_others(embedding: torch.Tensor, people: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines with the mean of a person's photos: of each of these photos, and of all strangers."""
    same, different = [], []
    for person in sorted(set(people)):
        own = torch.tensor([name == person for name in people])
        if own.sum() > 1:
            same.append(agreement(embedding[own]))
            different.append(embedding[~own].double() @ normalize(embedding[own].double().mean(dim=0), dim=0))
    return torch.cat(same), torch.cat(different)


def plot(panels: dict[str, tuple[torch.Tensor, torch.Tensor]], target: Path) -> None:
    """Write the histograms of all detectors, one below the other."""
    figure = Figure(figsize=(8, 2.4 * len(panels)), layout="constrained")
    for axes, (label, (same, different)) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items()):
        for values, colour, name in ((different, "#e2762e", "two people"), (same, "#3a7cb0", "one person")):
            axes.hist(
                values.numpy(), bins=48, range=(-0.3, 1), color=colour, alpha=0.75, label=f"{name}: {len(values)}"
            )
        axes.axvline(MIN_AGREEMENT, color="#c81e28", label=f"min_agreement {MIN_AGREEMENT}")
        axes.set(title=label, xlim=(-0.3, 1), ylabel="pairs")
        axes.legend(frameon=False)
    figure.savefig(target, dpi=100)


def ready() -> Iterator[str]:
    """Yield the labels of the detectors that are ready."""
    for label in detectors.available():
        try:
            detectors.load(label, 0.5, 640)
        except (ValueError, OSError) as error:
            print(f"left out: {label} ({str(error)[:80]}...)", file=sys.stderr)
            continue
        yield label


def find_encoder(name: str | None) -> str:
    """Return the path of the encoder, or of the first recogniser in models/insightface."""
    if name and os.path.isfile(name):
        return name
    names = [name] if name else [name for name in folders.names("insightface") if "miniature" not in name]
    if not names:
        sys.exit("No recogniser in models/insightface: give one with --encoder.")
    return folders.path("insightface", names[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="likeness.py bench recogniser", description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="folders with photos")
    parser.add_argument("--encoder", help="recogniser: a path, or a name in models/insightface (default: the first)")
    parser.add_argument("--detector", action="append", help="label of a detector (default: all that are ready)")
    parser.add_argument("--models", type=Path, help="a further folder in which models lie, by kind")
    parser.add_argument("--picture", type=Path, default=Path("recogniser.png"), help="where the histograms are written")
    options = parser.parse_args()
    folders.register()
    for kind in MODEL_FOLDERS if options.models else ():
        folder_paths.add_model_folder_path(kind, str(options.models / kind), is_default=True)
    encoder, rows, panels = load_recogniser(find_encoder(options.encoder)), [], {}
    for label in options.detector or ready():
        embedding, people, faceless = embed(label, encoder, options.photos)
        numbers = torch.tensor([sorted(set(people)).index(person) for person in people])
        same, different = pair_cosines(embedding, numbers)
        rows.append([label, len(people), len(set(people)), faceless])
        if len(same) and len(different):
            panels[label] = same, different
            figures = same.min(), same.mean(), different.mean(), different.max(), separation(same, different)
            with_mean = [value for values in with_others(embedding, people) for value in (values.min(), values.max())]
            rows[-1] += [len(same), len(different), *(f"{value:.2f}" for value in (*figures, *with_mean))]
    columns = ["detector", "faces", "people", "photos without", "pairs of one", "of two", "one: least", "mean"]
    columns += ["two: mean", "greatest", "AUC", "one with its others: least", "greatest", "stranger: least", "greatest"]
    print(f"{encoder.name} ({encoder.kind}, {embedding.shape[1]} wide)\n\n{table(columns, rows)}")
    plot(panels, options.picture)
    print(f"\nhistograms: {options.picture}")


if __name__ == "__main__":
    main()
