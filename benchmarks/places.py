"""People in Places in the miniature: whose face is in whose place of one wide picture, and what the neighbour changes.

Pairs and triples of drawn people whom no network was trained on, a head in each square of 96 pixels. Scores are
cosines of the recogniser that nothing else uses, a picture without a face in a place counts 0. Before that what a step
takes with more people, as a ratio to one. The printed markdown can go into RESULTS.md.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import bench

bench.THREADS = 1
bench.open_host()

import comfy.sample  # noqa: E402
import torch  # noqa: E402
from likeness.attention_patches.fact import apply_fact  # noqa: E402
from likeness.attention_patches.infinite_id import apply_infinite_id  # noqa: E402
from likeness.attention_patches.people import (  # noqa: E402
    PlacedPerson,
    apply_people,
    make_masks,
    place_prompts,
)
from likeness.graphics import to_pillow  # noqa: E402
from likeness.miniature.evaluation import instruments  # noqa: E402
from likeness.miniature.models import base_model  # noqa: E402
from likeness.miniature.world.people import SPLITS  # noqa: E402
from likeness.miniature.world.photos import render_photos  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count  # noqa: E402

COMMON = "a photo of a person, wearing a blue shirt, at the beach"
PROMPTS = ("a photo of {}, wearing a red cap", "a photo of {}, wearing glasses")
STRENGTH, IMAGES, STEPS, SIDE = 1.0, 1, 20, 96
FURTHER = 40  # groups of which also prompts of their own, another neighbour and Infinite-ID Mixing are drawn
MOVED, ALONE = "FACT, another person on the right", "FACT, each alone in a picture"
MIXED = "the same and Infinite-ID Mixing"
SHEET = ("FACT, People in Places", "image adapter, People in Places", MIXED)


class Groups:
    """People of the miniature, each photographed once, and images of several of them."""

    def __init__(self, count: int):
        self.world = instruments.load()
        photos = [render_photos(SPLITS["test"].start + number, 1) for number in range(count)]
        self.words = [words for _, words in photos]
        faces = [self.world.faces(photo) for photo, _ in photos]
        self.faces, self.photos = faces, [photo for photo, _ in photos]
        self.vectors = torch.cat([self.world.embed_faces(face) for face in faces])

    def place(self, kind: str, number: int, box: tuple, prompt: str = "") -> PlacedPerson:
        face_id = self.world.identity("transface" if kind == "fact" else "arcface", self.faces[number])
        return PlacedPerson(face_id, self.photos[number], prompt, box)

    def draw(self, kind: str, people: list[PlacedPerson], seed: int, wide=2, strength=STRENGTH, mixes=False):
        """Return images [IMAGES, 96, wide * 96, 3] with people in places; mixes: with Infinite-ID Mixing."""
        latent = self._start(seed, wide)
        model, positive = self.apply(kind, people, latent, strength)
        return self.sample(apply_infinite_id(model) if mixes else model, positive, latent)

    def apply(self, kind: str, people: list[PlacedPerson], latent: torch.Tensor, strength: float = STRENGTH):
        """Return the model with people in places, and the prompt."""
        masks = make_masks(people, (SIDE, latent.shape[-1] * SIDE // latent.shape[-2]), 8.0)
        prompts = [person.prompt and self.world.text(person.prompt) or None for person in people]
        world = self.world
        model = apply_people(world.model, world.adapters[kind], people, masks, world.clip_vision, strength)
        return model, place_prompts(world.text(COMMON), prompts, masks, 0.3)

    def chain(self, numbers: list[int], seed: int) -> torch.Tensor:
        """Return the same by one Apply FACT a person with hard masks, without the node."""
        model, latent = self.world.model, self._start(seed, len(numbers))
        for index, number in enumerate(numbers):
            mask = torch.zeros(1, SIDE, len(numbers) * SIDE)
            mask[..., index * SIDE : (index + 1) * SIDE] = 1
            face_id = self.world.identity("transface", self.faces[number])
            model = apply_fact(model, self.world.adapters["fact"], face_id, STRENGTH, mask=mask)
        return self.sample(model, self.world.text(COMMON), latent)

    def _start(self, seed: int, wide: int) -> torch.Tensor:
        generator, side = torch.Generator().manual_seed(seed), SIDE // 12
        return torch.randn(IMAGES, base_model.CHANNELS, side, wide * side, generator=generator)

    @torch.inference_mode()
    def sample(self, model, positive: list, start: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
        latents = comfy.sample.sample(
            model, start, steps, 3.0, "euler", "normal", positive, self.world.text(""), torch.zeros_like(start),
            disable_pbar=True, seed=0,
        )  # fmt: skip
        return self.world.vae.decode(latents)

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Return the cosines [n, people] of the largest face of images [n, 96, 96, 3]; 0 where there is none."""
        cosines = torch.zeros(len(images), len(self.vectors))
        faces = self.world.faces(images)
        present = [index for index, chosen in enumerate(faces.per_image) if chosen]
        if present:
            one = type(faces)(
                faces.images[present],
                tuple((max(faces.per_image[i], key=lambda face: face.sides[1]),) for i in present),
            )
            cosines[present] = self.world.embed_faces(one) @ self.vectors.T
        return cosines


def measure(people: Groups, numbers: list[int], images: torch.Tensor) -> torch.Tensor:
    """Return, of images with a person of `numbers` in each square from the left, [n, 4].

    Each row: right person, the neighbours' highest, the mean of strangers, and whether a face was found.
    """
    rows = []
    for index, number in enumerate(numbers):
        scores = people.score(images[:, :, index * SIDE : (index + 1) * SIDE])
        strangers = [other for other in range(scores.shape[1]) if other not in numbers]
        neighbours = [other for other in numbers if other != number]
        neighbour = scores[:, neighbours].amax(dim=1) if neighbours else torch.full((len(scores),), torch.nan)
        present = (scores != 0).any(dim=1).float()
        rows.append(torch.stack([scores[:, number], neighbour, scores[:, strangers].mean(dim=1), present], dim=1))
    return torch.cat(rows)


def draw_group(people: Groups, numbers: list[int], seed: int) -> dict[str, tuple[list[int], torch.Tensor]]:
    """Return by method whom it drew from the left, and images [1, 96, n * 96, 3]; of a pair by more methods."""
    size = len(numbers)

    def places(kind: str = "fact", prompted: bool = False, numbers: list[int] = numbers) -> list[PlacedPerson]:
        prompts = PROMPTS if prompted else ("",) * size
        boxes = [(100 * index / size, 0, 100 / size, 100) for index in range(size)]
        return [
            people.place(kind, number, box, prompt.format(people.words[number]))
            for number, box, prompt in zip(numbers, boxes, prompts)
        ]

    images = {
        "FACT, People in Places": people.draw("fact", places(), seed, size),
        "FACT, several Apply FACT with hard masks": people.chain(numbers, seed),
        "image adapter, People in Places": people.draw("infinite_id", places("infinite_id"), seed, size),
    }
    if seed < FURTHER:
        images[MIXED] = people.draw("infinite_id", places("infinite_id"), seed, size, mixes=True)
    drawn = {name: (numbers, image) for name, image in images.items()}
    if size == 2 and seed < FURTHER:
        other = [numbers[0], numbers[1] + 1]
        drawn["FACT, with prompts of their own"] = numbers, people.draw("fact", places(prompted=True), seed)
        drawn[MOVED] = other, people.draw("fact", places(numbers=other), seed)
    if size == 2:
        for number in numbers:
            whole = PlacedPerson(people.world.identity("transface", people.faces[number]))
            drawn[f"{ALONE} {number}"] = [number], people.draw("fact", [whole], seed, 1)
    return drawn


def measure_group(people: Groups, numbers: list[int], seed: int, folder: Path) -> dict:
    """Draw a group, save what was drawn and return by method its rows; of a pair also what the neighbour changes.

    "moved": rms change left of the rim and right of it, and the left person's likeness before and after.
    """
    drawn, result = draw_group(people, numbers, seed), {"numbers": numbers}
    result["rows"] = {name: measure(people, *of_method).tolist() for name, of_method in drawn.items()}
    for name, (_, images) in drawn.items():
        to_pillow(images[0]).save(folder / f"{len(numbers)} {seed:03} {name}.png")
    if MOVED in drawn:
        before, after = (drawn[name][1] for name in ("FACT, People in Places", MOVED))
        change = (before - after).square()
        near, far = (part.mean().sqrt().item() for part in (change[:, :, : SIDE - 8], change[:, :, SIDE + 8 :]))
        result["moved"] = [near, far, *(result["rows"][name][0][0] for name in ("FACT, People in Places", MOVED))]
    return result


def time_people(people: Groups, rounds: int = 5) -> list[list[str]]:
    """Return, for each method, the CPU's time with nobody, two and four people: median ratios to one.

    Behind them the same ratios of the operations counted in a step of the UNet, the decoder left out.
    """
    rows, latent = [], people._start(0, 2)
    for name, kind, mixes in (
        ("FACT", "fact", False),
        ("image adapter", "infinite_id", False),
        ("and Infinite-ID Mixing", "infinite_id", True),
    ):
        models = []
        for count in (1, 0, 2, 4):
            placed = [people.place(kind, n, (100 * n / count, 0, 100 / count, 100)) for n in range(count)]
            model, positive = (
                people.apply(kind, placed, latent) if placed else (people.world.model, people.world.text(COMMON))
            )
            models.append((apply_infinite_id(model) if mixes else model, positive))
        seconds = torch.zeros(rounds, len(models))
        for row in seconds:
            for i, (model, positive) in enumerate(models):
                start = time.process_time()
                people.sample(model, positive, latent)
                row[i] = time.process_time() - start
        ratios = (seconds[:, 1:] / seconds[:, :1]).median(dim=0).values
        counted = [count_operations(people, *model, latent) for model in models]
        rows.append([name, *(f"{ratio:.2f}" for ratio in ratios), *(f"{n / counted[0]:.3f}" for n in counted[1:])])
    return rows


def count_operations(people: Groups, model, positive: list, latent: torch.Tensor) -> int:
    """Return the floating point operations of one step's products, convolutions and attentions."""

    def count_attention(q, k, v, *args, **kwargs) -> int:
        return sdpa_flop_count(q, k, v)

    cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: count_attention}  # which it would leave out
    with FlopCounterMode(display=False, custom_mapping=cpu) as counter:
        people.sample(model, positive, latent, 1)
    with FlopCounterMode(display=False, custom_mapping=cpu) as decoder:
        people.world.vae.decode(latent)
    return counter.get_total_flops() - decoder.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(prog="likeness.py bench places", description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--triples", type=int, default=4)
    parser.add_argument("--no-times", action="store_true", help="leave out what a step takes")
    parser.add_argument("--output", type=Path, help="where images and results go; those that are there are not redone")
    options = parser.parse_args()
    folder = options.output or Path(tempfile.mkdtemp(prefix="places_"))
    folder.mkdir(parents=True, exist_ok=True)
    people = Groups(max(2 * options.pairs + 1, 3 * options.triples, 4))
    if not options.no_times:
        ratios = ["nobody / one", "two / one", "four / one"]
        columns = ["a step with", *(f"{what}, {ratio}" for what in ("time", "counted") for ratio in ratios)]
        print(bench.table(columns, time_people(people)), flush=True)
    for size, count in ((2, options.pairs), (3, options.triples)):
        results = []
        for group in range(count):
            file = folder / f"{size} {group:03}.json"
            if not file.is_file():
                numbers = list(range(size * group, size * group + size))
                result = measure_group(people, numbers, group, folder)
                file.write_text(json.dumps(result))
            results.append(json.loads(file.read_text()))
        if results:
            print_results(size, results)
    save_sheet(people, folder)


def print_results(size: int, results: list[dict]) -> None:
    """Print what groups of a size come to."""
    table = {}
    for result in results:
        for name, values in result["rows"].items():
            if name == MOVED:
                continue
            table.setdefault(ALONE if name.startswith(ALONE) else name, []).extend(values)
    rows = []
    for name, values in table.items():
        right, neighbour, strangers, present = torch.tensor(values).T
        wins = (right > neighbour).float().mean() if neighbour.isfinite().all() else torch.tensor(torch.nan)
        error = right.std() / math.sqrt(len(right))
        means = [f"{value.mean():.2f}".replace("nan", "") for value in (neighbour, strangers, wins, present)]
        rows.append([name, len(values) // (1 if name == ALONE else size), f"{right.mean():.3f} ± {error:.3f}", *means])
    print(f"\n{len(results)} groups of {size}\n")
    columns = ["", "images", "right person", "nearest neighbour", "strangers", "right beats neighbours", "face found"]
    print(bench.table(columns, rows), flush=True)
    if moved := [result["moved"] for result in results if "moved" in result]:
        near, far, before, after = torch.tensor(moved).mean(dim=0).tolist()
        print(
            f"\nAnother person on the right ({len(moved)} pairs): rms change {near:.3f} on the left (beyond the rim), "
            f"{far:.3f} on the right; the left person's likeness {before:.2f} before, {after:.2f} after.",
            flush=True,
        )


def save_sheet(people: Groups, folder: Path) -> None:
    """Save the first groups as one image, each person's photo first."""
    rows = []
    for size, count in ((2, 5), (3, 3)):
        for group in range(count):
            files = [folder / f"{size} {group:03} {name}.png" for name in SHEET]
            if all(file.is_file() for file in files):
                photos = [to_pillow(people.photos[size * group + index][0]) for index in range(size)]
                images = [photo.resize((SIDE, SIDE)) for photo in photos] + [Image.open(file) for file in files]
                rows.append(images)
    if not rows:
        return
    sheet = Image.new("RGB", (max(sum(i.width for i in row) for row in rows), SIDE * len(rows)), "white")
    for y, row in enumerate(rows):
        x = 0
        for image in row:
            sheet.paste(image, (x, y * SIDE))
            x += image.width
    sheet.save(folder / "places.jpg", quality=85)
    print(f"\n{folder / 'places.jpg'}: photos, then {'; '.join(SHEET)}")


if __name__ == "__main__":
    main()
