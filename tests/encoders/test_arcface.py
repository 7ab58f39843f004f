"""ArcFace through onnxruntime, against insightface's own class on the same file."""

import sys

import comfy.model_management
import numpy as np
import onnx
import pytest
import torch
from likeness.encoders import arcface_onnx
from likeness.encoders.arcface_onnx import load_arcface
from onnx import TensorProto, helper, numpy_helper


def write_recogniser(path, crop=112, dim=512, batch="None", outputs=1):
    """A recogniser that looks at every channel of every 28 px cell with a weight of its own."""
    rng = np.random.RandomState(0)
    cells = crop // 28
    weights = {
        "conv": rng.standard_normal((8, 3, 28, 28)) / 50,
        "bias": rng.standard_normal(8),
        "head": rng.standard_normal((8 * cells * cells, dim)) / 5,
    }
    names = ["683", "684"][:outputs]
    nodes = [
        helper.make_node("Conv", ["input.1", "conv", "bias"], ["cells"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        *(helper.make_node("MatMul", ["flat", "head"], [name]) for name in names),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [batch, 3, crop, crop])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, dim]) for name in names],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return str(path)


@pytest.fixture
def recogniser(tmp_path):
    return write_recogniser(tmp_path / "w600k_r50.onnx")


def crop_of_a_face() -> np.ndarray:
    """An RGB crop whose channels differ everywhere, [112, 112, 3] uint8."""
    row, column = np.mgrid[:112, :112]
    return np.stack([2 * row, 2 * column, row + 20], axis=-1).astype(np.uint8)


def test_the_embedding_is_insightfaces(recogniser):
    """insightface takes BGR and swaps the channels itself; so its network, like ours, sees RGB in -1..1."""
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    crop = crop_of_a_face()
    expected = ArcFaceONNX(recogniser).get_feat(crop[..., ::-1])
    crops = torch.from_numpy(np.stack([crop, crop[::-1].copy()])).float() / 255
    face = load_arcface(recogniser).encode(crops, masked=False)
    assert face.features.shape == (2, 1, 512) and face.embedding.shape == (2, 512)
    np.testing.assert_allclose(face.features[0].numpy(), expected, rtol=1e-4, atol=1e-4)
    other = ArcFaceONNX(recogniser).get_feat(crop)
    assert np.abs(other - expected).max() > 0.1  # the order of the channels matters to this file


def test_the_embedding_is_of_length_one_and_the_features_are_raw(recogniser):
    crops = torch.rand(3, 112, 112, 3, generator=torch.Generator().manual_seed(0))
    face = load_arcface(recogniser).encode(crops, masked=True)
    assert (face.encoder, face.file, len(face.sha256), face.masked) == ("arcface", "w600k_r50.onnx", 64, True)
    torch.testing.assert_close(face.embedding.norm(dim=1), torch.ones(3))
    lengths = face.features.squeeze(1).norm(dim=1, keepdim=True)
    assert (lengths > 1.5).all()
    torch.testing.assert_close(face.embedding * lengths, face.features.squeeze(1))


def test_a_fixed_batch_of_one(tmp_path):
    encoder = load_arcface(write_recogniser(tmp_path / "auraface.onnx", batch=1))
    assert encoder.encode(torch.rand(3, 112, 112, 3), masked=False).embedding.shape == (3, 512)


def test_the_session_goes_with_the_models_and_comes_back(recogniser):
    encoder = load_arcface(recogniser)
    crops = torch.rand(1, 112, 112, 3)
    first = encoder.encode(crops, masked=False)
    assert encoder.patcher.model._session is not None
    comfy.model_management.unload_all_models()
    assert encoder.patcher.model._session is None
    assert torch.equal(encoder.encode(crops, masked=False).embedding, first.embedding)
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("present, device, first", [
    (["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda:1", ("CUDAExecutionProvider", {"device_id": 1})),
    (["CUDAExecutionProvider", "CPUExecutionProvider"], "cpu", "CPUExecutionProvider"),
    (["CPUExecutionProvider"], "cuda", "CPUExecutionProvider"),
])  # fmt: skip
def test_the_gpu_where_onnxruntime_and_the_host_have_one(present, device, first):
    class Onnxruntime:
        @staticmethod
        def get_available_providers():
            return present

    assert arcface_onnx.list_providers(Onnxruntime, torch.device(device))[0] == first


@pytest.mark.parametrize("wrong", [{"crop": 224}, {"outputs": 2}])
def test_refuses_other_networks(tmp_path, wrong):
    path = write_recogniser(tmp_path / "other.onnx", **wrong)
    with pytest.raises(ValueError, match=r"other.onnx is no ArcFace recogniser: .*\[n, 3, 112, 112\].* Choose w600k"):
        load_arcface(path)


def test_refuses_what_is_no_onnx_file(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"<!doctype html> too many downloads")
    with pytest.raises(ValueError, match="broken.onnx cannot be used as a recogniser: it is a web page"):
        load_arcface(str(path))


def test_without_onnxruntime(monkeypatch, recogniser):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="needs a package that is not installed .*pip install onnxruntime-gpu"):
        load_arcface(recogniser)
