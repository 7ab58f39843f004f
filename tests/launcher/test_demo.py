"""How the demo fits its graph to the files at hand."""

import subprocess
import sys

import pytest
from likeness.launcher import demo


def graph() -> dict[str, dict]:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "2": {"class_type": "LikenessLoadFaceEncoder", "inputs": {"encoder_name": "encoder.pt"}},
        "3": {"class_type": "LikenessLoadFaceAdapter", "inputs": {"adapter_name": "fact.pt"}},
        "4": {"class_type": "LikenessApplyFACT", "inputs": {"strength": 0.8, "model": ["1", 0]}},
        "5": {"class_type": "LikenessLoadFaceDetector", "inputs": {"detector": "mediapipe: face.safetensors"}},
    }


def test_what_is_missing_of_the_published_files():
    present = {"sd15.safetensors", "encoder.pt", "fact.pt", "face.safetensors", "miniature_fact.safetensors"}
    assert demo.find_missing(graph(), present) == []
    assert demo.find_missing(graph(), present - {"fact.pt"}) == ["fact.pt"]
    rewritten = present - {"encoder.pt", "fact.pt"} | {"encoder.safetensors", "fact.safetensors"}
    assert demo.find_missing(graph(), rewritten) == [], "what was fetched may have been rewritten"


def test_a_missing_detector_is_replaced_alone():
    prompt = graph()
    demo.use_ready_detector(prompt, {"face.safetensors"})
    assert prompt == graph()
    demo.use_ready_detector(prompt, {"sd15.safetensors", "encoder.pt", "fact.pt"})
    assert prompt.pop("5")["inputs"] == {"detector": "opencv: haar cascade"}
    assert prompt == {key: graph()[key] for key in "1234"}
    prompt = graph()
    demo.use_ready_detector(prompt, {"face_landmarker.safetensors"})
    assert prompt["5"]["inputs"] == {"detector": "face_landmarker.safetensors"}


def test_adapter_off_changes_nothing_but_the_strength():
    prompt = graph()
    off = demo.without_adapter(prompt)
    assert off["4"]["inputs"] == {"strength": 0.0, "model": ["1", 0]}
    assert prompt == graph()
    assert {key: off[key] for key in "123"} == {key: prompt[key] for key in "123"}


@pytest.mark.slow
def test_the_demo_runs_outside_the_host(root):
    """Its process only talks to a server: what it imports must do without the host's own modules."""
    script = (
        "import importlib.util, sys; file, folder = sys.argv[1:]\n"
        "spec = importlib.util.spec_from_file_location('likeness', file, submodule_search_locations=[folder])\n"
        "sys.modules['likeness'] = importlib.util.module_from_spec(spec)\n"
        "from likeness.launcher import demo, real_files, run, train\n"
    )
    command = [sys.executable, "-P", "-c", script, root / "__init__.py", root]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
