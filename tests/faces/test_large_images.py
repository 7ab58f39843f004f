"""Large pictures are read without a heap of copies, and nothing of what detectors see changes."""

import tracemalloc

import numpy as np
import pytest
import torch
from likeness.faces import search
from likeness.faces.detector import as_bytes, as_rgb
from likeness.faces.types import Face


@pytest.mark.parametrize("shape", [(1, 2500, 3, 3), (3, 700, 5, 3), (1030, 7, 3)])
def test_bytes_are_the_rounded_pixels(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    assert np.array_equal(as_bytes(images), (images * 255).round().to(torch.uint8).numpy())
    assert torch.equal(images, torch.rand(shape, generator=torch.Generator().manual_seed(1))), "it was only read"


def test_only_what_is_not_rgb_between_0_and_1_is_copied():
    images = torch.rand(2, 8, 8, 3)
    assert as_rgb(images).data_ptr() == images.data_ptr()
    assert as_rgb(images[..., :1]).shape == (2, 8, 8, 3)
    assert torch.equal(as_rgb(images * 3 - 1), (images * 3 - 1).clamp(0, 1))
    assert as_rgb(images.half()).dtype == torch.float32


def test_48_megapixels_are_searched_at_a_third_of_their_size_and_nothing_is_copied_whole():
    class Corner:
        name, min_score, det_size, looks = "corner", 0.5, None, []

        def detect(self, image):
            self.looks.append(image.shape[:2])
            points = np.float32([[100, 100], [140, 100], [120, 120], [105, 140], [135, 140]])
            return [Face(points, (80.0, 80.0, 160.0, 160.0), 0.9)] if len(self.looks) == 1 else []

    image = np.zeros((6000, 8000, 3), np.uint8)
    tracemalloc.start()
    try:
        (face,) = search.find(Corner(), image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Corner.looks == [(2000, 2667), (2667, 2000)] * 2
    assert np.array_equal(face.points[:2], [[301, 301], [421, 301]]), "where they are in the large picture"
    assert face.box == (241.0, 241.0, 481.0, 481.0)
    assert peak < image.nbytes
