"""Small real ONNX networks in the published layouts: detectors to which a red 32 x 32 cell is a face, nothing else.

The published weights may not be redistributed; what these share with them is names, shapes, strides and pre-processing.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELL = 32
# The five points such a "face" has, in cells from the cell's corner; deliberately not symmetric.
POINTS_IN_CELL = np.array([[0.30, 0.35], [0.70, 0.30], [0.55, 0.55], [0.35, 0.80], [0.65, 0.75]], dtype=np.float32)
# What the landmark network answers to every crop, in its -1..1 coordinates.
LANDMARKS_106 = np.stack([np.linspace(-0.5, 0.5, 106), np.linspace(-0.25, 0.75, 106)], axis=1).astype(np.float32)


def red_cell_picture(row: int, column: int, colour: tuple[int, int, int] = (255, 0, 0), side: int = 640) -> np.ndarray:
    """A black picture [side, side, 3] uint8 RGB with one coloured cell."""
    picture = np.zeros((side, side, 3), dtype=np.uint8)
    picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = colour
    return picture


def write_insightface_pack(
    folder: Path, landmarks: bool = True, points: bool = True, in_cell: np.ndarray = POINTS_IN_CELL
) -> None:
    """det_10g.onnx (SCRFD, 9 outputs, or 6 without points), w600k_r50.onnx and, if wanted, 2d106det.onnx.

    in_cell: the five points [5, 2] of every face, in cells from its cell's corner.
    """
    folder.mkdir(parents=True)
    _save(_scrfd(points, in_cell), folder / "det_10g.onnx")
    _save(_constant_head("input.1", 112, np.ones(512, np.float32)), folder / "w600k_r50.onnx")
    if landmarks:
        _save(_constant_head("data", 192, LANDMARKS_106.ravel()), folder / "2d106det.onnx")


def write_yunet(path: Path, in_cell: np.ndarray = POINTS_IN_CELL) -> None:
    """YuNet's twelve outputs for a 640 x 640 input; `in_cell` as in `write_insightface_pack`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Input 0..255 in BGR: red is the last channel; a red cell gives 255, black 0, every other colour less.
    red = np.array([-1, -1, 1], np.float32)
    heads = {}
    for stride in (8, 16, 32):
        for kind in ("cls", "obj"):
            heads[f"{kind}_{stride}"] = _Head(stride, 1, 0.1 * red, _bias(stride, -12.75), sigmoid=True)
        heads[f"bbox_{stride}"] = _Head(stride, 4, None, np.array([0.5, 0.5, 0, 0], np.float32))
        heads[f"kps_{stride}"] = _Head(stride, 10, None, np.float32(in_cell).ravel())
    order = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
    _save(_network("input", [1, 3, 640, 640], {name: heads[name] for name in order}, batched=True), path)


class _Head:
    def __init__(self, stride: int, width: int, channels: np.ndarray | None, bias: np.ndarray, sigmoid: bool = False):
        self.stride, self.width, self.bias, self.sigmoid = stride, width, bias, sigmoid
        # The mean of each input channel over the cell, weighted.
        self.weight = np.zeros((len(bias), 3, stride, stride), np.float32)
        if channels is not None:
            self.weight += channels[None, :, None, None] / stride**2


def _bias(stride: int, at_cell: float) -> np.ndarray:
    return np.array([at_cell if stride == CELL else -30], np.float32)


def _scrfd(points: bool, in_cell: np.ndarray) -> onnx.ModelProto:
    # Input (x - 127.5) / 128 in RGB: a red cell gives 3, black 1, every other colour less. Two anchors in every cell.
    red = np.array([1, -1, -1], np.float32)
    heads = {}
    for stride in (8, 16, 32):
        heads[f"score_{stride}"] = _Head(stride, 1, 10 * red, np.tile(_bias(stride, -20), 2), sigmoid=True)
    for stride in (8, 16, 32):
        heads[f"bbox_{stride}"] = _Head(stride, 4, None, np.tile(np.array([0, 0, 1, 1], np.float32), 2))
    for stride in (8, 16, 32) if points else ():
        heads[f"kps_{stride}"] = _Head(stride, 10, None, np.tile(np.float32(in_cell).ravel(), 2))
    return _network("input.1", [1, 3, "?", "?"], heads, batched=False)


def _network(input_name: str, input_shape: list, heads: dict[str, _Head], batched: bool) -> onnx.ModelProto:
    nodes, weights, outputs = [], [], []
    for name, head in heads.items():
        shape = [1, -1, head.width] if batched else [-1, head.width]
        weights += [
            numpy_helper.from_array(head.weight, f"{name}.weight"),
            numpy_helper.from_array(head.bias, f"{name}.bias"),
            numpy_helper.from_array(np.array(shape, np.int64), f"{name}.shape"),
        ]
        kernel = [head.stride, head.stride]
        conv_inputs = [input_name, f"{name}.weight", f"{name}.bias"]
        nodes += [
            helper.make_node("Conv", conv_inputs, [f"{name}.conv"], kernel_shape=kernel, strides=kernel),
            helper.make_node("Transpose", [f"{name}.conv"], [f"{name}.cells"], perm=[0, 2, 3, 1]),
        ]
        flat = f"{name}.flat" if head.sigmoid else name
        nodes.append(helper.make_node("Reshape", [f"{name}.cells", f"{name}.shape"], [flat]))
        if head.sigmoid:
            nodes.append(helper.make_node("Sigmoid", [flat], [name]))
        known = [1, None, head.width] if batched else [None, head.width]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, known))
    return _model(nodes, input_name, input_shape, outputs, weights)


def _constant_head(input_name: str, size: int, answer: np.ndarray) -> onnx.ModelProto:
    """A network that reads its input and always gives `answer`."""
    weights = [
        numpy_helper.from_array(np.zeros((3, len(answer)), np.float32), "weight"),
        numpy_helper.from_array(answer, "bias"),
    ]
    nodes = [
        helper.make_node("GlobalAveragePool", [input_name], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["answer"]),
    ]
    outputs = [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, len(answer)])]
    return _model(nodes, input_name, [1, 3, size, size], outputs, weights)


def _model(nodes: list, input_name: str, input_shape: list, outputs: list, weights: list) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, input_shape)]
    graph = helper.make_graph(nodes, "synthetic", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
