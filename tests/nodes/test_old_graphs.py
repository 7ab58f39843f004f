"""Workflows as earlier versions published them: the host still takes them, and they still run."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from likeness.tests.support import facea_identity
from likeness.tests.support.graphs import ASSETS, built_in, only, workflow

ARCHIVE = Path(__file__).resolve().parents[1] / "golden" / "workflows_0.5.0.tar.xz"


def read_old() -> dict[str, dict]:
    with tarfile.open(ARCHIVE) as archive:
        names = [name for name in archive.getnames() if name.startswith("api/")]
        return {Path(name).stem: json.load(io.TextIOWrapper(archive.extractfile(name))) for name in names}


OLD = read_old()


@pytest.fixture(scope="module")
def pictures(base):
    """What these workflows expect in the input folder."""
    for file in ASSETS.glob("*.png"):
        shutil.copy(file, base / "input")
    facea_identity.save_drawn(base)


def make_small(graph: dict) -> dict:
    for node in graph.values():
        node["inputs"] = {key: built_in(node["class_type"], key, value) for key, value in node["inputs"].items()}
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"].update(width=64, height=64)
        if node["class_type"] == "KSampler":
            node["inputs"].update(steps=1)
    return graph


@pytest.mark.parametrize("name", sorted(OLD))
def test_the_host_takes_it(executor, pictures, name):
    assert executor.check(make_small(OLD[name]))


@pytest.mark.slow
def test_it_draws_the_same_as_today(executor, pictures):
    old, new = make_small(OLD["fact_text_to_image"]), workflow("fact_text_to_image", steps=1)
    images = [executor.run(graph)[only(graph, "VAEDecode")][0] for graph in (old, new)]
    assert torch.equal(*images)
