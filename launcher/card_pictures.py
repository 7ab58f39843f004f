"""Draw the pictures of the templates' cards: results of the drawn world, whose graphs need nothing that is fetched."""

import asyncio
import io
import json

import numpy as np
from PIL import Image, ImageDraw

from ..miniature.world.photos import render_photos
from . import client as clients
from .workflow_layout import WORKFLOWS, read_layouts

SIDE = 512  # pixels of a card's picture
INSET = 168  # pixels of the person's photo in its corner
FIRST_PERSON = 150_000  # of the people whom no network was trained on


def main(url: str) -> None:
    """Have the server at `url` draw the picture of every card, and write them beside the templates."""
    for layout in read_layouts()["workflows"].values():
        picture = layout["picture"]
        images = asyncio.run(_sample(url, make_graph(picture)))
        card = compose(images, picture["people"], picture.get("framed"))
        card.save(WORKFLOWS / f"{layout['card']}.jpg", quality=85, optimize=True)
        print(layout["card"], flush=True)


def make_graph(picture: dict) -> dict:
    """Return the graph in API form of a card's picture: workflow "graph" with its "people", "prompt" and "seed"."""
    graph = json.loads((WORKFLOWS / "api" / f"{picture['graph']}.json").read_text(encoding="utf-8"))
    drawn = [node for node in graph.values() if node["class_type"] == "LikenessRenderPerson"]
    for node, person in zip(drawn, picture["people"]):
        node["inputs"]["person"] = person
    for node in graph.values():
        inputs = node["inputs"]
        if "seed" in inputs and node["class_type"] in ("KSampler", "LikenessRefineFaces"):
            inputs["seed"] = picture["seed"]
        for name, value in picture.get("inputs", {}).items():
            if name in inputs and not isinstance(inputs[name], list):
                inputs[name] = value
    if "prompt" in picture:
        graph["11" if "facea" in picture["graph"] else "2"]["inputs"] |= {
            "face_prompt" if "facea" in picture["graph"] else "text": picture["prompt"]
        }
    return graph


def compose(images: list[Image.Image], people: list[int], framed: int | None) -> Image.Image:
    """Return a square of four results, or two wide ones, with the people's photos in its corners; framed: the best.

    Of a group, three times as wide as high, it shows what is there (before and after) and each photo below its face.
    """
    card = Image.new("RGB", (SIDE, SIDE), "white")
    if images[0].width == 3 * images[0].height:
        for number, image in enumerate(images):
            card.paste(image.resize((SIDE, SIDE // 3), Image.Resampling.LANCZOS), (0, number * (SIDE // 3)))
        corners = [(number * SIDE // 3, SIDE * 2 // 3 + 2) for number in range(len(people[:2]))]
        for person, corner in zip(people, corners):
            card.paste(_draw_photo(person), corner)
        return card
    for number, image in enumerate(images[:4]):
        half = SIDE // 2
        size = (SIDE, half) if image.width > image.height else (half, half)
        corner = (0, number * half) if image.width > image.height else (number % 2 * half, number // 2 * half)
        card.paste(image.resize(size, Image.Resampling.LANCZOS), corner)
        if number == framed:
            edges = (*corner, corner[0] + half - 1, corner[1] + half - 1)
            ImageDraw.Draw(card).rectangle(edges, outline="#e0b84f", width=8)
    for number, person in enumerate(people[:2]):
        left = (SIDE - INSET) // 2 if len(people) == 1 else number * (SIDE - INSET)
        top = (SIDE - INSET) // 2
        ImageDraw.Draw(card).rectangle((left - 5, top - 5, left + INSET + 4, top + INSET + 4), fill="white")
        card.paste(_draw_photo(person), (left, top))
    return card


def _draw_photo(person: int) -> Image.Image:
    photo, _ = render_photos(FIRST_PERSON + person, 1)
    return Image.fromarray((photo[0].numpy() * 255).round().astype(np.uint8)).resize((INSET, INSET))


async def _sample(url: str, graph: dict) -> list[Image.Image]:
    async with clients.Client(url) as client:
        answer = await client.run(graph, lambda *_: None)
    shown = [
        key for kind in ("PreviewImage", "SaveImage") for key, value in graph.items() if value["class_type"] == kind
    ]
    return [Image.open(io.BytesIO(file.data)).convert("RGB") for key in shown for file in answer.images[key]]
