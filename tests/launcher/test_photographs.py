"""The demo's graphs of photographs, with the real networks in the host's executor."""

import shutil

import pytest
from likeness.launcher import photographs


@pytest.fixture
def photos(real_folders, real_photos, base):
    for photo in (photographs.PORTRAIT, *(real_photos / name for name in photographs.COMPARED)):  # as if uploaded
        shutil.copy(photo, base / "input")
    return list(photographs.COMPARED)


def test_a_photograph_is_found_masked_and_aligned(executor, photos):
    made = executor.run(photographs.find_graph(photographs.PORTRAIT.name))
    (face,) = made["faces"][0].per_image[0]
    assert face.score > 0.9 and len(face.landmarks) == 478
    assert made["face"][0].sum() > 20 * made["both eyes"][0].sum() > 0
    assert made["aligned"][0].shape == (1, 224, 224, 3)


@pytest.mark.slow
def test_photographs_of_one_person_agree_and_a_strangers_is_marked(executor, photos):
    made = executor.run(photographs.compare_graph(photos))
    (marked,) = (line for line in made["agreement"][1].splitlines() if "!" in line)
    assert marked.strip("! ").startswith("5"), "the last photo"
