"""Strange pictures: damaged files, whole ones in forms that few programs write, and tensors of any shape."""

import io
import random
from pathlib import Path

import numpy as np
import torch
from likeness.tests.support.strange_files import change_bytes, flip_bytes
from PIL import Image

PORTRAIT = Path(__file__).resolve().parents[2] / "workflows" / "assets" / "astronaut.png"
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "ICO")  # whatever the file's name says
MODES = ("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F")
SIDES = (1, 2, 3, 7, 31, 64, 97, 256)
LONGEST = 4000


def open_portrait(side: int = 128) -> Image.Image:
    """Return the face of a photograph, `side` pixels a side."""
    return Image.open(PORTRAIT).convert("RGB").crop((96, 10, 352, 266)).resize((side, side))


def choose_size(rng: random.Random) -> tuple[int, int]:
    """Return a width and a height, now and then one of them very long."""
    sides = [rng.choice(SIDES), rng.choice(SIDES)]
    if rng.random() < 0.15:
        sides[rng.randrange(2)] = rng.randint(1000, LONGEST)
    return tuple(sides)


def write_image(rng: random.Random) -> bytes:
    """Return a picture's file: strange in size, mode, orientation or profile, and two times in three damaged, too."""
    image = open_portrait(rng.choice(SIDES[3:]))
    if rng.random() < 0.4:
        image = image.resize(choose_size(rng))
    kind, options = rng.choice(KINDS), {}
    if rng.random() < 0.4:
        image = image.convert(rng.choice([mode for mode in MODES if _can_convert(mode)]))
    if rng.random() < 0.3:
        options["exif"] = _write_exif(rng)
    if rng.random() < 0.2:
        options["icc_profile"] = rng.randbytes(rng.choice([1, 128, 600]))
    if rng.random() < 0.15:
        options |= {"save_all": True, "append_images": [image.rotate(90)] * 2}
    content = _save(image, kind, options)
    damage = rng.choice([None, change_bytes, flip_bytes, _cut, _change_head, _change_head])
    return damage(rng, content) if damage else content


def make_images(rng: random.Random) -> torch.Tensor:
    """Return images as nodes may hand them on, [B, H, W, C] in 0..1: empty, tiny, narrow, grey, not finite, in half."""
    width, height = choose_size(rng)
    batch, channels = rng.choice([0, 1, 1, 1, 2, 3]), rng.choice([1, 2, 3, 3, 3, 4])
    pixels = np.asarray(open_portrait(rng.choice([64, 128])), np.float32) / 255
    images = torch.from_numpy(pixels)[None].movedim(-1, 1)
    if rng.random() < 0.5:
        images = torch.nn.functional.interpolate(images, (height, width))
    images = images.repeat(batch, 2, 1, 1)[:, :channels].movedim(1, -1).contiguous()
    change = rng.choice(["none", "none", "none", "shift", "poison", "flat", "turn", "type", "axes"])
    if change == "shift":
        return images * rng.choice([-3, 0.01, 5, 1e30]) + rng.choice([-1, 0, 1])
    if change == "poison" and images.numel():
        images.view(-1)[rng.randrange(images.numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
    if change == "flat":
        return torch.full_like(images, rng.choice([0.0, 0.5, 1.0]))
    if change == "turn":
        return torch.rot90(images, rng.randint(1, 3), (1, 2))
    if change == "type":
        return images.to(rng.choice([torch.float16, torch.bfloat16, torch.float64]))
    return images[..., 0] if change == "axes" else images


def _can_convert(mode: str) -> bool:
    try:
        Image.new("RGB", (2, 2)).convert(mode)
        return True
    except ValueError:
        return False


def _write_exif(rng: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 60000])
    content = exif.tobytes()
    return change_bytes(rng, content) if rng.random() < 0.5 else content


def _save(image: Image.Image, kind: str, options: dict) -> bytes:
    """Write an image in a kind of file; without its mode, options and at last its kind where it cannot be so."""
    plain = image.convert("RGB")
    for attempt, form, more in ((image, kind, options), (plain, kind, options), (plain, kind, {})):
        buffer = io.BytesIO()
        try:
            attempt.save(buffer, form, **more)
            return buffer.getvalue()
        except Exception:  # writers raise whatever they like
            continue
    return _save(plain, "PNG", {})


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def _change_head(rng: random.Random, content: bytes) -> bytes:
    """Return a file with changes where its sizes and types stand, so that readers go wrong early."""
    return flip_bytes(rng, content[:64]) + content[64:]
