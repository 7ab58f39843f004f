"""Native readers get only files that a process of its own has read and run, and their errors are sentences."""

import sys

import comfy.model_management
import numpy as np
import onnx
import pytest
import torch
from likeness.encoders.arcface_onnx import load_recogniser
from likeness.faces import detector
from likeness.tests.support import mediapipe_file, onnx_packs
from likeness.weights import trial
from likeness.weights.onnx_operators import list_operators
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")


def save(path, nodes, weights=(), inputs=((1, 3, 112, 112),), output=(1, 512)):
    """A network from "in 0", "in 1" and so on to "out"."""
    sides = [helper.make_tensor_value_info(f"in {i}", TensorProto.FLOAT, shape) for i, shape in enumerate(inputs)]
    graph = helper.make_graph(
        nodes,
        "network",
        sides,
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def endless_loop(path):
    """A recogniser whose answer is one until a loop of 2 ** 62 turns is over."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 512]),
        ],
        [
            helper.make_tensor_value_info("still on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 512]),
        ],
    )
    weights = [("turns", np.array(2**62)), ("yes", np.array(True)), ("start", np.ones((1, 512), np.float32))]
    return save(path, [helper.make_node("Loop", ["turns", "yes", "start"], ["out"], body=body)], weights)


def folding_bomb(path):
    """A recogniser that makes 2.3 GB of a constant before it answers."""
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most", "answer"], ["out"]),
    ]
    shape, answer = np.array([24_000, 24_000]), np.array([1, 512])
    return save(path, nodes, [("one", np.ones(1, np.float32)), ("shape", shape), ("answer", answer)])


def test_operators_are_listed(tmp_path):
    onnx_packs.write_yunet(tmp_path / "yunet.onnx")
    assert list_operators(tmp_path / "yunet.onnx") == {"Conv", "Transpose", "Reshape", "Sigmoid"}
    assert list_operators(endless_loop(tmp_path / "loop.onnx")) == {"Loop"}
    content = (tmp_path / "yunet.onnx").read_bytes()
    for data in (content[:-9], b"\xff" * 40, b"\x3a\x04ab", b"\x0b\x00"):
        (tmp_path / "bad.onnx").write_bytes(data)
        with pytest.raises(ValueError, match="no ONNX file|no network"):
            list_operators(tmp_path / "bad.onnx")


def test_a_file_is_tried_once(tmp_path, monkeypatch):
    onnx_packs.write_yunet(tmp_path / "yunet.onnx", onnx_packs.POINTS_IN_CELL + 0.01)
    trial.try_out(tmp_path / "yunet.onnx", "opencv")
    (tmp_path / "yunet.onnx").rename(tmp_path / "renamed.onnx")
    monkeypatch.setattr(trial, "_run", lambda *_: pytest.fail("it was tried again"))
    trial.try_out(tmp_path / "renamed.onnx", "opencv")


def test_published_files_are_not_tried(tmp_path, monkeypatch):
    onnx_packs.write_yunet(tmp_path / "yunet.onnx", onnx_packs.POINTS_IN_CELL + 0.02)
    published = [entry.sha256 for entry in trial.manifest.entries() if entry.sha256]
    monkeypatch.setattr(trial, "file_sha256", lambda path: published[0])
    monkeypatch.setattr(trial, "_run", lambda *_: pytest.fail("it was tried"))
    trial.try_out(tmp_path / "yunet.onnx", "opencv")


@pytest.mark.parametrize(
    "script, reason",
    [
        ("import os; os.abort()", "it ends the process in which opencv reads it"),
        ("while True: pass", "opencv did not come to an end with it in 1 seconds"),
        (trial._LIMIT + "bytearray(4 << 30)", "opencv says: |opencv says: nothing|MemoryError"),
        ("raise ValueError('of no use')", "opencv says: ValueError: of no use"),
    ],
)
def test_what_a_reader_does_to_its_process_is_said(tmp_path, monkeypatch, script, reason):
    onnx_packs.write_yunet(tmp_path / "yunet.onnx", onnx_packs.POINTS_IN_CELL + 0.03)
    monkeypatch.setitem(trial._READERS, "opencv", script)
    monkeypatch.setattr(trial, "_SECONDS", 1)
    with pytest.raises(ValueError, match=reason):
        trial.try_out(tmp_path / "yunet.onnx", "opencv")


def test_recognisers_that_loop_or_swell_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"loop\.onnx cannot be used as a recogniser: it branches or loops \(Loop\)"):
        load_recogniser(str(endless_loop(tmp_path / "loop.onnx")))
    if sys.platform == "linux":
        with pytest.raises(ValueError, match=r"bomb\.onnx cannot be used as a recogniser: onnxruntime says: .*"):
            load_recogniser(str(folding_bomb(tmp_path / "bomb.onnx")))


def test_errors_of_native_readers_are_sentences_and_interruptions_are_none():
    with pytest.raises(ValueError, match="the file: bad state. Download the file again, or choose another."):
        with trial.name_faults("the file"):
            raise RuntimeError("bad\n  state")
    for error in (comfy.model_management.InterruptProcessingException(), torch.cuda.OutOfMemoryError(), KeyError("a")):
        with pytest.raises(type(error)), trial.name_faults("the file", but=(KeyError,)):
            raise error


@pytest.mark.parametrize("change", ["drop", "cut", "reshape"])
def test_a_damaged_mediapipe_file_is_one_sentence(tmp_path, monkeypatch, change, root):
    import folder_paths
    from safetensors.torch import load_file, save_file

    path = tmp_path / mediapipe_file.FILE
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "detection", ([str(tmp_path)], {".safetensors"}))
    photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    mediapipe_file.write(path, mediapipe_file.drawn_states(photo))
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("mesh.") and tensors[name].ndim == 4)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        tensors = {key: value for key, value in tensors.items() if key != name}
        tensors |= {name: torch.zeros(3)} if change == "reshape" else {}
        save_file(tensors, path)
    with pytest.raises(ValueError, match=mediapipe_file.FILE) as caught:
        detector.load(f"mediapipe: {mediapipe_file.FILE}", 0.5, 640)
    assert "\n" not in str(caught.value)
