"""One learned person for FaceA-Net, from three drawn photos."""

from ...adapters.facea import REGIONS
from ...adapters.facea_file import save_facea
from ...training import facea_run
from ...training.inpainting import Photos, register_latents
from ..demo import LEARNED
from ..models import base_model as miniature
from ..training.inpainting_lessons import widen
from ..world.draw import draw
from ..world.people import person
from ..world.scenes import scene
from .common import OUTPUT, SIZE

_PHOTOS = 3
_HEAD = 16  # pixels by which the face's mask is widened, to all of the head with its hair
_PART = 6  # and those of its parts, so that each fills a cell of the latents, which an eye does not
SETTINGS = {"steps": 200, "batch": 4, "rank": 8, "lr_lora": 1e-3, "lr_features": 1e-2}


def photos(number: int, count: int = _PHOTOS, seed: int = 5) -> Photos:
    """Return photos of a person with the masks they were drawn with."""
    subject = person(number)
    rendering = draw([subject] * count, [scene(number, image, seed, (1.0, 0.0, 0.0)) for image in range(count)], SIZE)
    masks = {}
    for index, region in enumerate(REGIONS):
        masks[region] = widen(rendering.masks[:, index].float(), _HEAD if region == "face" else _PART)
    return Photos(rendering.images, masks)


def word(number: int) -> str:
    """Return the word by which a prompt calls a person."""
    return "woman" if person(number).woman else "man"


def learn_person(number: int, **settings):
    """Learn a person's photos on the miniature's inpainting model and return the FaceA identity."""
    register_latents(miniature.MiniatureLatents)
    base = facea_run.Base(*miniature.load_miniature(miniature.WEIGHTS, inpainting=True))
    settings = facea_run.Settings(**(SETTINGS | settings))
    return facea_run.learn(base, photos(number), facea_run.Task(word(number)), settings).identity


def demo_person() -> None:
    """Learn the person of the demo."""
    save_facea(OUTPUT / "facea_person.safetensors", learn_person(LEARNED), "miniature")
