"""People in Places in the miniature: whose face is in whose place of one wide picture, and what the neighbour changes.

Pairs of drawn people whom no network was trained on, two heads in a picture of 192 x 96 pixels. Scores are cosines of
the recogniser that nothing else uses, a picture without a face in a place counts 0. Then what a step takes with more
people, as a ratio to one. The printed markdown can go into RESULTS.md.
"""

import argparse
import time

import bench

bench.THREADS = 1
bench.open_host()

import comfy.sample  # noqa: E402
import torch  # noqa: E402
from likeness.attention_patches.fact import apply_fact  # noqa: E402
from likeness.attention_patches.infinite_id import apply_infinite_id  # noqa: E402
from likeness.attention_patches.people import PlacedPerson  # noqa: E402
from likeness.faces.places import PARTS  # noqa: E402
from likeness.miniature.evaluation import instruments  # noqa: E402
from likeness.miniature.models import base_model  # noqa: E402
from likeness.miniature.world.people import SPLITS  # noqa: E402
from likeness.miniature.world.photos import render_photos  # noqa: E402
from likeness.nodes.people import PeopleInPlaces  # noqa: E402

COMMON = "a photo of a person, wearing a blue shirt, at the beach"
STRENGTH, IMAGES, STEPS, SIDE = 1.0, 1, 20, 96


class Pairs:
    """Pairs of people in the miniature, each person photographed once."""

    def __init__(self, count: int):
        self.world = instruments.load()
        photos = [render_photos(SPLITS["test"].start + number, 1) for number in range(max(2 * count + 1, 4))]
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
        return PeopleInPlaces.execute(
            self.world.model, self.world.text(COMMON), tuple(people), self.world.adapters[kind], {"samples": latent},
            strength, 0.0, 1.0, 8.0, 0.3, self.world.clip, self.world.clip_vision,
        ).result[:2]  # fmt: skip

    def chain(self, numbers: list[int], seed: int) -> torch.Tensor:
        """Return the same by Apply FACT twice with hard masks, without the node."""
        model, latent = self.world.model, self._start(seed, 2)
        for index, number in enumerate(numbers):
            mask = torch.zeros(1, SIDE, 2 * SIDE)
            mask[..., index * SIDE : (index + 1) * SIDE] = 1
            face_id = self.world.identity("transface", self.faces[number])
            model = apply_fact(model, self.world.adapters["fact"], face_id, STRENGTH, mask=mask)
        return self.sample(model, self.world.text(COMMON), latent)

    def _start(self, seed: int, wide: int) -> torch.Tensor:
        generator, side = torch.Generator().manual_seed(seed), SIDE // 12
        return torch.randn(IMAGES, base_model.CHANNELS, side, wide * side, generator=generator)

    @torch.inference_mode()
    def sample(self, model, positive: list, start: torch.Tensor) -> torch.Tensor:
        latents = comfy.sample.sample(
            model, start, STEPS, 3.0, "euler", "normal", positive, self.world.text(""), torch.zeros_like(start),
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


def measure(pairs: Pairs, numbers: list[int], images: torch.Tensor) -> torch.Tensor:
    """Return, of images with a person of `numbers` in each square from the left, [n, 4].

    Each row: right person, the neighbour, the mean of strangers, and whether a face was found.
    """
    rows = []
    for index, number in enumerate(numbers):
        scores = pairs.score(images[:, :, index * SIDE : (index + 1) * SIDE])
        others = [other for other in range(scores.shape[1]) if other not in numbers]
        neighbour = scores[:, numbers[1 - index]] if len(numbers) > 1 else torch.full((len(scores),), torch.nan)
        strangers, present = scores[:, others].mean(dim=1), (scores != 0).any(dim=1).float()
        rows.append(torch.stack([scores[:, number], neighbour, strangers, present], dim=1))
    return torch.cat(rows)


def measure_pair(pairs: Pairs, pair: int, table: dict, strengths: dict) -> torch.Tensor:
    """Add a pair's rows to `table` by method and to `strengths` by number; return what the neighbour changes.

    [4]: rms change left of the rim and right of it, and the left person's likeness before and after.
    """
    numbers, third = [2 * pair, 2 * pair + 1], 2 * pair + 2

    def note(name: str, images: torch.Tensor, of: list[int]) -> None:
        table.setdefault(name, []).append(measure(pairs, of, images))

    def both(kind: str = "fact", second: int = numbers[1], prompted: bool = False) -> list[PlacedPerson]:
        prompts = ["a photo of {}, wearing a red cap", "a photo of {}, wearing glasses"] if prompted else ["", ""]
        sides = zip((numbers[0], second), ("left half", "right half"), prompts)
        return [pairs.place(kind, n, PARTS[part], prompt.format(pairs.words[n])) for n, part, prompt in sides]

    together = pairs.draw("fact", both(), pair)
    note("FACT, People in Places", together, numbers)
    note("FACT, with prompts of their own", pairs.draw("fact", both(prompted=True), pair), numbers)
    note("FACT, two Apply FACT with hard masks", pairs.chain(numbers, pair), numbers)
    for number in numbers:
        whole = PlacedPerson(pairs.world.identity("transface", pairs.faces[number]))
        note("FACT, each alone in a picture", pairs.draw("fact", [whole], pair, wide=1), [number])
    for name, mixes in (("Infinite-ID's adapter, People in Places", False), ("the same and Infinite-ID Mixing", True)):
        note(name, pairs.draw("infinite_id", both("infinite_id"), pair, mixes=mixes), numbers)
    strengths.setdefault(STRENGTH, []).append(measure(pairs, numbers, together)[:, 0].mean())
    for strength in (0.0, 0.5):
        images = pairs.draw("fact", both(), pair, strength=strength)
        strengths.setdefault(strength, []).append(measure(pairs, numbers, images)[:, 0].mean())
    other = pairs.draw("fact", both(second=third), pair)
    change = (together - other).square()
    near, far = (part.mean().sqrt() for part in (change[:, :, : SIDE - 8], change[:, :, SIDE + 8 :]))
    left = [pairs.score(images[:, :, :SIDE])[:, numbers[0]].mean() for images in (together, other)]
    return torch.stack([near, far, *left])


def time_people(pairs: Pairs, rounds: int = 5) -> list[list[str]]:
    """Return, for each method, the CPU's time with nobody, two and four people: median ratios to one."""
    rows, latent = [], pairs._start(0, 2)
    for name, kind, mixes in (
        ("FACT", "fact", False),
        ("image adapter", "infinite_id", False),
        ("and Infinite-ID Mixing", "infinite_id", True),
    ):
        models = []
        for count in (1, 0, 2, 4):
            people = [pairs.place(kind, n, (100 * n / count, 0, 100 / count, 100)) for n in range(count)]
            model, positive = (
                pairs.apply(kind, people, latent) if people else (pairs.world.model, pairs.world.text(COMMON))
            )
            models.append((apply_infinite_id(model) if mixes else model, positive))
        seconds = torch.zeros(rounds, len(models))
        for row in seconds:
            for i, (model, positive) in enumerate(models):
                start = time.process_time()
                pairs.sample(model, positive, latent)
                row[i] = time.process_time() - start
        ratios = (seconds[:, 1:] / seconds[:, :1]).median(dim=0).values
        rows.append([name, *(f"{ratio:.2f}" for ratio in ratios)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=12)
    pairs = Pairs(count := parser.parse_args().pairs)
    print(bench.table(["a step with", "nobody / one", "two / one", "four / one"], time_people(pairs)), flush=True)
    table, strengths, moved = {}, {}, []
    for pair in range(count):
        moved.append(measure_pair(pairs, pair, table, strengths))
        print_results(table, strengths, moved)


def print_results(table: dict, strengths: dict, moved: list[torch.Tensor]) -> None:
    """Print what the pairs so far come to."""
    rows = []
    for name, values in table.items():
        right, neighbour, strangers, present = torch.cat(values).T
        wins = (right > neighbour).float().mean() if neighbour.isfinite().all() else torch.tensor(torch.nan)
        rows.append([name, *(f"{value.mean():.2f}" for value in (right, neighbour, strangers, wins, present))])
    print(f"{len(moved)} pairs")
    print(bench.table(["", "right person", "neighbour", "strangers", "right beats neighbour", "face found"], rows))
    near, far, before, after = torch.stack(moved).mean(dim=0).tolist()
    print(
        f"Another person on the right: rms change {near:.3f} on the left (beyond the rim), {far:.3f} on the right; the "
        f"left person's likeness {before:.2f} before, {after:.2f} after."
    )
    curve = ", ".join(f"{strength}: {torch.stack(values).mean():.2f}" for strength, values in sorted(strengths.items()))
    print(f"Likeness by strength: {curve}", flush=True)


if __name__ == "__main__":
    main()
