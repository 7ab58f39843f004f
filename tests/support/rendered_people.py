"""Photos of people of the drawn world, a folder a person, as trainings read them."""

from pathlib import Path

import numpy as np
from likeness.miniature.world.dataset import SetRecipe
from likeness.miniature.world.draw import draw
from PIL import Image

DATA = {"detector": "drawn: miniature", "size": 96}  # how they are read


def widen(file: Path) -> None:
    """Make a photo half as wide again, and as high as before."""
    with Image.open(file) as image:
        wide = Image.new("RGB", (image.width * 3 // 2, image.height), "gray")
        wide.paste(image, (image.width // 4, 0))
    wide.save(file)


def write(folder: Path, people: int, photos: int = 2) -> Path:
    """Write so many photos of each person, 96 pixels wide and numbered through, and return the folder."""
    recipe = SetRecipe(people=people, images=photos, styles=(1, 0, 0))
    rendered = draw(*zip(*(recipe.describe(index)[:2] for index in range(len(recipe)))), 96)
    for index, image in enumerate(rendered.images):
        file = folder / f"person{index // photos}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.numpy() * 255).astype(np.uint8)).save(file)
    return folder
