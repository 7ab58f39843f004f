"""Real face networks and photographs for the demo and the tests, out of packages of Python's registry, by hash."""

from pathlib import Path

from ..weights import manifest, paths, registry
from ..weights.errors import FetchError

NETWORKS = ("mediapipe-landmarker", "yunet-face-int8", "sface-int8")  # by their names in the manifest
_PHOTOS_PACKAGE = registry.Package(
    "face-recognition", "1.3.0", "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec"
)
# Two people, of one of them five pictures, two with half of the face hidden.
PHOTOS = (
    "biden.jpg", "obama.jpg", "obama2.jpg", "obama3.jpg", "obama_partial_face.jpg", "obama_partial_face2.jpg",
    "32bit.png",
)  # fmt: skip


def find_missing(models: Path, photos: Path) -> list[str]:
    """Return the names of what is not there: networks below the models folder `models`, photographs in `photos`."""
    networks = [entry.name for entry in manifest.choose(NETWORKS) if paths.find(entry, models) is None]
    return networks + [name for name in PHOTOS if not (photos / name).is_file()]


def fetch(models: Path, photos: Path) -> str | None:
    """Have what is missing; return in a sentence why not all of it is there, None where it is."""
    if not find_missing(models, photos):
        return None
    from ..weights import command  # needs what a ComfyUI has

    print("fetching face networks and photographs (17 MB) ...", flush=True)
    said = []
    command.main(["fetch", *NETWORKS, "--models", str(models)], said.append)
    try:
        registry.take(_PHOTOS_PACKAGE, {f"tests/test_images/{name}": photos / name for name in PHOTOS})
    except FetchError as error:
        said.append(f"photographs: {error}")
    missing = find_missing(models, photos)
    if not missing:
        return None
    reasons = [line.split(": ", 1)[1] for line in said if line.split(": ")[0] in (*missing, "photographs")]
    return f"These could not be fetched: {', '.join(missing)}. {reasons[-1]}"
