"""Large pictures are read without a heap of copies, and nothing of what detectors see changes."""

import numpy as np
import pytest
import torch
from likeness.faces.detector import as_bytes, as_rgb


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
