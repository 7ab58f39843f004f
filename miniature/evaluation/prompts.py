"""What is asked for: prompts in the drawn world's language."""

PHOTOS = (
    "a photo of {who} smiling, wearing a red cap and a blue shirt, at the beach",
    "a photo of {who}, wearing a green sweater, in a library",
    "a photo of {who} frowning, wearing a black jacket, in the snow",
    "a photo of {who}, wearing glasses and a yellow hoodie, in a forest",
    "a photo of {who} with open mouth, wearing a white shirt, by a brick wall",
    "a photo of {who} smiling, wearing a purple hoodie, under the stars",
    "a photo of {who}, wearing a pink crown and a red shirt, in a meadow",
    "a photo of {who} smiling, wearing glasses and a green jacket, in a city",
    "a photo of {who}, wearing a white beanie and a black sweater, in the mountains",
    "a photo of {who} frowning, wearing a blue sweater, by a red curtain",
    "a photo of {who}, wearing a black fedora and a white shirt, at sunset",
    "a photo of {who} with open mouth, wearing a yellow shirt, in a kitchen",
)
STYLES = tuple(
    text.replace("a photo", f"a {style}", 1) for text, style in zip(PHOTOS, ("cartoon", "sketch") * len(PHOTOS))
)


def of_person(number: int, texts: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return `count` prompts for the person counted `number`; over people all prompts come in turn."""
    return tuple(texts[(number * count + step) % len(texts)] for step in range(count))
