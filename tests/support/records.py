"""InsightFace's record files, written as MXNet's documentation describes them."""

import io
import struct

import numpy as np
from PIL import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def picture(seed: int, side: int = 112, kind: str = "PNG") -> bytes:
    """A picture of one colour with a little noise."""
    colour = np.random.default_rng(seed // 100).integers(40, 215, 3)
    pixels = colour + np.random.default_rng(seed).integers(-20, 20, (side, side, 3))
    content = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(content, kind)
    return content.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def pack(labels: list[float], content: bytes) -> bytes:
    head = struct.pack("<IfQQ", 0, labels[0], 0, 0)
    if len(labels) > 1:
        head = struct.pack("<IfQQ", len(labels), 0.0, 0, 0) + struct.pack(f"<{len(labels)}f", *labels)
    return head + content


class Writer:
    """Writes records; what has the magic number at a multiple of four bytes is cut there."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.data, self.index = folder, bytearray(), []

    def add(self, key: int, content: bytes) -> None:
        self.index.append((key, len(self.data)))
        parts, start = [], 0
        for place in range(0, len(content) - 3, 4):
            if content[place : place + 4] == MAGIC:
                parts.append(content[start:place])
                start = place + 4
        parts.append(content[start:])
        for number, part in enumerate(parts):
            mark = 0 if len(parts) == 1 else 1 if number == 0 else 3 if number == len(parts) - 1 else 2
            self.data += MAGIC + struct.pack("<I", mark << 29 | len(part)) + part + bytes(-len(part) % 4)

    def close(self):
        (self.folder / "train.rec").write_bytes(self.data)
        (self.folder / "train.idx").write_text("".join(f"{key}\t{place}\n" for key, place in self.index))
        return self.folder


def write(folder, people: int, photos: int, told: bool = True):
    """A set of people as InsightFace's; told: with the records that tell where each person's pictures are."""
    writer, end = Writer(folder), 1 + people * photos
    if told:
        writer.add(0, pack([end, end + people], b""))
    for number in range(people * photos):
        person, photo = divmod(number, photos)
        labels = [float(7 * person)] if not told else [float(person), 0.5]
        writer.add(number + told, pack(labels, picture(100 * person + photo)))
    for person in range(people if told else 0):
        writer.add(end + person, pack([1.0 + person * photos, 1.0 + (person + 1) * photos], b""))
    return writer.close()
