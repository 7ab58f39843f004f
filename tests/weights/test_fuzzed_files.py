"""Files of every family with something wrong with them are used, or refused in one sentence that names them.

`python3 likeness.py bench fuzz` does the same with thousands of files, and with prompts and pictures.
"""

import random
import time

import pytest
from likeness.tests.support.strange_files import SMALL, mutate, mutate_torch, write

SECONDS = 20.0  # a hang, on however slow a machine


def fuzz(tmp_path, family, seed, count):
    tensors = SMALL[family].tensors()
    rng = random.Random(seed)
    refused = 0
    for number in range(count):
        path = tmp_path / f"strange_{number}.safetensors"
        path.write_bytes(rng.choice([mutate, mutate, mutate_torch])(rng, tensors))
        begin = time.perf_counter()
        try:
            SMALL[family].load(str(path))
        except ValueError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error), f"file {number}: {error}"
        assert time.perf_counter() - begin < SECONDS, f"file {number}"
        path.unlink()
    return refused


@pytest.mark.parametrize("family", SMALL)
def test_the_small_files_are_good_ones(tmp_path, family):
    SMALL[family].load(write(tmp_path / "good.safetensors", SMALL[family].tensors()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", SMALL)
def test_strange_files_are_used_or_refused_by_name(tmp_path, family):
    assert fuzz(tmp_path, family, seed=1, count=40) >= 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", SMALL)
def test_many_strange_files_are_used_or_refused_by_name(tmp_path, family):
    assert fuzz(tmp_path, family, seed=2, count=360) >= 180
