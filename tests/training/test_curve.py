"""The losses of a training as an image."""

import numpy as np
import pytest
from likeness.graphics import PAPER
from likeness.training import curve


@pytest.mark.parametrize("steps", [1, 7, 3000])
def test_the_curve_of_few_and_many_steps_is_drawn_with_its_scales(steps):
    image = np.asarray(curve.draw(list(np.linspace(0.4, 0.1, steps)), 2 * steps))
    assert image.shape == (360, 640, 3)
    ink = (image != PAPER).any(axis=-1)
    assert ink[:30].any() and ink[325:].any() and ink[36:320, :65].any(), "words above, steps below, losses at the left"
    assert (image == curve._SMOOTH).all(axis=-1).any()
