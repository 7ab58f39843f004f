"""Who is measured: held-out people of the drawn world, a reference photo of each and others to compare with."""

from dataclasses import dataclass

from ...faces.types import Face, Faces
from ..recipes.common import SIZE
from ..world.draw import draw
from ..world.people import SPLITS, Person, person
from ..world.scenes import scene

_OTHERS = 4  # photos that pictures are compared with; the reference is not one of them
PHOTOS = (1.0, 0.0, 0.0)  # shares of photo, sketch, cartoon


@dataclass(frozen=True, eq=False)
class HeldOutPerson:
    """One held-out person. reference, others: Faces with one face in each picture, of 1 and of k photos."""

    subject: Person
    reference: Faces
    others: Faces

    @property
    def word(self) -> str:
        """Return what a caption calls them."""
        return "woman" if self.subject.woman else "man"


def hold_out(count: int, seed: int = 0) -> list[HeldOutPerson]:
    """Return the first `count` people of the test split, seen in photos."""
    return [render_person(SPLITS["test"].start + number, seed) for number in range(count)]


def render_person(number: int, seed: int = 0) -> HeldOutPerson:
    """Return the person of a number, seen in photos."""
    subject = person(number, seed)
    rendering = draw(
        [subject] * (1 + _OTHERS), [scene(number, index, seed, PHOTOS) for index in range(1 + _OTHERS)], SIZE
    )
    faces = tuple(
        (Face(points, (0.0, 0.0, SIZE - 1.0, SIZE - 1.0), 1.0, drawn=True),) for points in rendering.points.numpy()
    )
    parts = (slice(0, 1), slice(1, None))
    return HeldOutPerson(subject, *(Faces(rendering.images[part], faces[part], "the drawn world") for part in parts))
