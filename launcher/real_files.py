"""Real face networks and photographs for the demo and the tests, out of packages of Python's registry, by hash."""

from pathlib import Path

from ..weights import manifest, paths, registry
from ..weights.errors import FetchError, NotReachedError

NETWORKS = ("mediapipe-landmarker", "yunet-face-int8", "sface-int8")  # by their names in the manifest
_PHOTOS_PACKAGE = registry.Package(
    "face-recognition",
    "1.3.0",
    "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
    is_source=True,
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
    try:
        registry.take(_PHOTOS_PACKAGE, {f"tests/test_images/{name}": photos / name for name in PHOTOS})
    except NotReachedError as error:  # then the networks are not tried: pip would wait for each of them
        return f"Face networks and photographs could not be fetched: {error}"
    except FetchError as error:
        said = [f"{PHOTOS[0]}: {error}"]
    command.main(["fetch", *NETWORKS, "--models", str(models)], said.append)
    if not (missing := find_missing(models, photos)):
        return None
    reasons = [line.split(": ", 1)[1] for line in said if line.split(": ")[0] in missing]
    return f"{', '.join(missing)} could not be fetched: {reasons[-1]}"
