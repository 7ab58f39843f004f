"""Example Picture: the pack's pictures without copying anything, and pictures of one's own."""

import shutil
from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from likeness.tests.support.executor import GraphError
from PIL import Image


def graph(name: str) -> dict:
    return {
        "1": {"class_type": "LikenessExamplePicture", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def test_every_picture_of_the_pack_is_offered_and_runs(executor, root):
    files = sorted((root / "workflows" / "assets").glob("*.png"))
    options = executor.options("LikenessExamplePicture", "image")
    assert options[: len(files)] == [f"examples/{file.name} [temp]" for file in files]
    for file, name in zip(files, options):
        pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).float() / 255
        assert torch.equal(executor.run(graph(name))["1"][0], pixels[None]), name


def test_a_picture_is_there_although_the_temporary_folder_was_emptied(executor):
    shutil.rmtree(Path(folder_paths.get_temp_directory(), "examples"))
    assert executor.run(graph("examples/pose.png [temp]"))["1"][0].shape == (1, 512, 512, 3)


def test_a_picture_of_one_s_own_that_is_replaced_is_read_again(executor, base):
    for side in (8, 16):
        Image.new("RGB", (side, side)).save(base / "input" / "own.png")
        assert executor.run(graph("own.png"))["1"][0].shape == (1, side, side, 3)
    assert "own.png" in executor.options("LikenessExamplePicture", "image")


@pytest.mark.parametrize("name", ["gone.png", "examples/gone.png [temp]"])
def test_a_picture_that_is_not_there_is_said_before_anything_runs(executor, name):
    with pytest.raises(GraphError, match="choose another, or upload one"):
        executor.run(graph(name))


def test_no_path_leads_out_of_the_folders(executor):
    with pytest.raises((GraphError, ValueError)):
        executor.run(graph("../../etc/passwd"))
