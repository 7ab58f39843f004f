"""MediaPipe's face file in the published layout, with drawn weights: detectors to which one place of a photo is a face.

The networks are the host's own; nothing of the published weights is needed.
"""

from pathlib import Path

import comfy.utils
import torch
from comfy_extras.mediapipe import face_landmarker

FILE = "mediapipe_face_fp32.safetensors"
FIVE = [468, 473, 1, 61, 291]  # irises, nose tip, mouth corners
RINGS = ("face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow", "lips", "irises", "nose", "tesselation")


def drawn_states(picture: torch.Tensor) -> dict[str, dict]:
    """The two networks' state dicts, each sharpened until exactly one anchor of `picture` [1, H, W, 3] is a face."""
    torch.manual_seed(7)
    drawn = {variant: face_landmarker.FaceLandmarker(detector_variant=variant) for variant in ("short", "full")}
    pixels = (picture[0] * 255).round().movedim(-1, 0)
    with torch.no_grad():
        _fire_once(drawn["short"].detector, pixels, 128, ["cls_16", "cls_8"], ["reg_16", "reg_8"])
        _fire_once(drawn["full"].detector, pixels, 192, ["cls_dw"], ["reg_dw"])
    return {variant: landmarker.state_dict() for variant, landmarker in drawn.items()}


def write(path: Path, states: dict[str, dict], silent: tuple[str, ...] = (), mesh: torch.Tensor | None = None) -> None:
    """The published layout; detectors in `silent` never see a face; `mesh` [478, 3] is the answer to any face."""
    tensors = {key: value for key, value in states["short"].items() if not key.startswith("detector.")}
    for variant, state in states.items():
        for key, value in state.items():
            if key.startswith("detector."):
                tensors[f"detector_{variant}.{key[9:]}"] = value.clone()
    for key in [key for key in tensors if key.startswith(tuple(f"detector_{variant}.cls" for variant in silent))]:
        tensors[key] = torch.full_like(tensors[key], -1000.0 if key.endswith("bias") else 0.0)
    tensors["mesh.head_presence.weight"] = torch.zeros_like(tensors["mesh.head_presence.weight"])
    tensors["mesh.head_presence.bias"] = torch.tensor([9.0])  # everything that a detector finds is a face
    if mesh is not None:
        tensors["mesh.head_landmarks.weight"] = torch.zeros_like(tensors["mesh.head_landmarks.weight"])
        tensors["mesh.head_landmarks.bias"] = mesh.reshape(-1)
    tensors |= {f"topology.{name}": torch.tensor([[0, 1], [1, 2], [2, 0]], dtype=torch.int32) for name in RINGS}
    tensors["canonical_vertices"] = torch.randn(478, 3, generator=torch.Generator().manual_seed(0))
    tensors["procrustes_indices"] = torch.arange(30, dtype=torch.int32)
    tensors["procrustes_weights"] = torch.ones(30)
    comfy.utils.save_torch_file({key: value.contiguous() for key, value in tensors.items()}, str(path))


def _fire_once(network, pixels, side, class_heads, box_heads):
    best, second = network(face_landmarker._blazeface_input_warp(pixels, side)[0][None])[1].flatten().topk(2).values
    sharpness = 20 / (best - second)
    for head in map(network.get_submodule, class_heads):
        head.weight *= sharpness
        head.bias.sub_((best + second) / 2).mul_(sharpness)
    # Every anchor answers with the same box around itself and eyes level: width, height and keypoints in input pixels.
    box = torch.tensor([0, 0, side / 3, side / 3, -side / 12, -side / 12, side / 12, -side / 12] + 8 * [0.0])
    for head in map(network.get_submodule, box_heads):
        head.weight.zero_()
        head.bias.copy_(box.repeat(len(head.bias) // 16))
