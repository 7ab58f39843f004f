"""Recognisers as ONNX files, against the libraries that publish them on the same file."""

import sys

import comfy.model_management
import numpy as np
import onnx
import pytest
import torch
from likeness.encoders import arcface_onnx
from likeness.encoders.arcface_onnx import Session, load_recogniser
from onnx import TensorProto, helper, numpy_helper


def write_recogniser(path, crop=112, dim=512, batch="None", outputs=1, bias=0.1, beginning=(), unusual=False):
    """A recogniser that looks at every channel of every 28 px cell with a weight of its own.

    beginning: operations with a constant each that come first; unusual: with one that only onnxruntime knows.
    """
    rng = np.random.RandomState(0)
    cells = crop // 28
    weights = {
        "conv": rng.standard_normal((8, 3, 28, 28)) / 50,
        "bias": rng.standard_normal(8) * bias,
        "head": rng.standard_normal((8 * cells * cells, dim)) / 5,
    }
    weights |= {f"constant{i}": np.array([value]) for i, (_, value) in enumerate(beginning)}
    names = ["683", "684"][:outputs]
    steps = ["input.1", *(f"begun{i}" for i in range(len(beginning)))]
    nodes = [
        *(
            helper.make_node(operation, [steps[i], f"constant{i}"], [steps[i + 1]], name=operation)
            for i, (operation, _) in enumerate(beginning)
        ),
        helper.make_node("Conv", [steps[-1], "conv", "bias"], ["cells"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Softsign" if unusual else "Identity", ["cells"], ["answers"]),
        helper.make_node("Flatten", ["answers"], ["flat"]),
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


@pytest.fixture(params=[False, True], ids=["torch", "onnxruntime"])
def recogniser(tmp_path, request):
    return write_recogniser(tmp_path / "w600k_r50.onnx", unusual=request.param)


def crop_of_a_face() -> np.ndarray:
    """An RGB crop whose channels differ everywhere, [112, 112, 3] uint8."""
    row, column = np.mgrid[:112, :112]
    return np.stack([2 * row, 2 * column, row + 20], axis=-1).astype(np.uint8)


def as_crops(crop: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(crop.copy()).float()[None] / 255


def test_the_embedding_is_insightfaces(recogniser):
    """insightface takes BGR and swaps the channels itself; so its network, like ours, sees RGB in -1..1."""
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    crop = crop_of_a_face()
    expected = ArcFaceONNX(recogniser).get_feat(crop[..., ::-1])
    crops = torch.from_numpy(np.stack([crop, crop[::-1].copy()])).float() / 255
    face = load_recogniser(recogniser).encode(crops, masked=False)
    assert face.features.shape == (2, 1, 512) and face.embedding.shape == (2, 512)
    np.testing.assert_allclose(face.features[0].numpy(), expected, rtol=1e-4, atol=1e-4)
    other = ArcFaceONNX(recogniser).get_feat(crop)
    assert np.abs(other - expected).max() > 0.1  # the order of the channels matters to this file


def test_a_file_that_scales_its_pixels_gets_them_as_insightface_and_opencv_give_them(tmp_path):
    """A subtraction and a product at the beginning: both libraries then give 0..255, and we do."""
    import cv2
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    path = write_recogniser(tmp_path / "mxnet.onnx", beginning=(("Sub", 127.5), ("Mul", 1 / 128)))
    bgr = np.ascontiguousarray(crop_of_a_face()[..., ::-1])
    ours = load_recogniser(path).encode(as_crops(bgr[..., ::-1]), masked=False).features[0, 0].numpy()
    np.testing.assert_allclose(ours, ArcFaceONNX(path).get_feat(bgr)[0], rtol=1e-4, atol=1e-4)
    path = write_recogniser(tmp_path / "sface.onnx", dim=128, batch=1, beginning=(("Sub", 127.5), ("Mul", 1 / 128)))
    encoder = load_recogniser(path)
    assert encoder.kind == "sface"
    ours = encoder.encode(as_crops(bgr[..., ::-1]), masked=False).features[0, 0].numpy()
    np.testing.assert_allclose(ours, cv2.FaceRecognizerSF.create(path, "").feature(bgr)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beginning, largest", [
    ((), None),
    ((("Sub", 127.5), ("Mul", 0.0078125)), 255),
    ((("Mul", 2 / 255), ("Add", -1.0)), 255),
    ((("Sub", 0.5), ("Div", 0.5)), 1),
    ((("Mul", 2.0), ("Sub", 1.0)), 1),
])  # fmt: skip
def test_what_white_is_to_a_file(tmp_path, beginning, largest):
    path = write_recogniser(tmp_path / "r.onnx", beginning=beginning)
    white = load_recogniser(path).encode(torch.ones(1, 112, 112, 3), masked=False).features
    plain = (
        load_recogniser(write_recogniser(tmp_path / "plain.onnx")).encode(torch.ones(1, 112, 112, 3), False).features
    )
    assert load_recogniser(path).patcher.model.largest == largest
    torch.testing.assert_close(white, plain, atol=0.05, rtol=0.01)  # 1/128 is not 2/255


def test_the_embedding_is_of_length_one_and_the_features_are_raw(recogniser):
    crops = torch.rand(3, 112, 112, 3, generator=torch.Generator().manual_seed(0))
    face = load_recogniser(recogniser).encode(crops, masked=True)
    assert (face.encoder, face.file, len(face.sha256), face.masked) == ("arcface", "w600k_r50.onnx", 64, True)
    torch.testing.assert_close(face.embedding.norm(dim=1), torch.ones(3))
    lengths = face.features.squeeze(1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(face.embedding * lengths, face.features.squeeze(1))
    assert not torch.allclose(lengths, torch.ones(3, 1), atol=0.1)


def test_a_fixed_batch_of_one(tmp_path):
    encoder = load_recogniser(write_recogniser(tmp_path / "auraface.onnx", batch=1, unusual=True))
    assert encoder.encode(torch.rand(3, 112, 112, 3), masked=False).embedding.shape == (3, 512)


def test_the_session_goes_with_the_models_and_comes_back(tmp_path):
    encoder = load_recogniser(write_recogniser(tmp_path / "r.onnx", unusual=True))
    session = encoder.patcher.model.network
    assert isinstance(session, Session)
    crops = torch.rand(1, 112, 112, 3)
    first = encoder.encode(crops, masked=False)
    assert session._session is not None
    comfy.model_management.unload_all_models()
    assert session._session is None
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


@pytest.mark.parametrize("wrong", [{"crop": 224}, {"outputs": 2}, {"dim": 500}])
def test_refuses_other_networks(tmp_path, wrong):
    path = write_recogniser(tmp_path / "other.onnx", **wrong)
    with pytest.raises(ValueError, match=r"other.onnx is no ArcFace recogniser: .*\[n, 3, 112, 112\].* Choose w600k"):
        load_recogniser(path)


@pytest.mark.parametrize("wrong", [
    {"bias": 30.0},  # whatever it sees is drowned
    {"beginning": (("Sub", 127.5), ("Mul", 1 / 128), ("Add", 4.0))},  # made for other pixels
])  # fmt: skip
def test_refuses_a_file_to_which_everybody_is_the_same(tmp_path, wrong):
    path = write_recogniser(tmp_path / "blind.onnx", **wrong)
    with pytest.raises(ValueError, match="blind.onnx cannot tell faces apart: .* cosine of 1.00, so everybody"):
        load_recogniser(path)


def test_refuses_what_is_no_onnx_file(tmp_path):
    path = tmp_path / "broken.onnx"
    whole = open(write_recogniser(tmp_path / "whole.onnx"), "rb").read()
    for content, reason in (
        (b"", "it is empty"),
        (b"<!doctype html> too many downloads", "it is a web page"),
        (whole[: len(whole) // 2], "it is cut short"),
        (whole[:10], ".*"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"broken.onnx cannot be used as a recogniser: {reason}"):
            load_recogniser(str(path))


def test_without_onnxruntime(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    load_recogniser(write_recogniser(tmp_path / "usual.onnx"))
    with pytest.raises(ValueError, match="needs a package that is not installed .*pip install onnxruntime-gpu"):
        load_recogniser(write_recogniser(tmp_path / "unusual.onnx", unusual=True))
