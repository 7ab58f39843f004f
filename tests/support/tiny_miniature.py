"""The miniature's files with drawn weights, in float16 and the layout in which trained ones come with the pack."""

import shutil
from pathlib import Path

import comfy.clip_model
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.sd1_clip import SD1ClipModel
from likeness.adapters.facea_file import save_facea
from likeness.adapters.ip_adapter import INFINITE_ID_METADATA
from likeness.adapters.unet_blocks import BLOCKS, transformer_blocks
from likeness.miniature import detector as finder
from likeness.miniature.models import base_model
from likeness.miniature.models.autoencoder import Autoencoder, AutoencoderSizes
from likeness.miniature.models.recogniser import Recogniser
from likeness.tests.support import checkpoints, tiny_ip
from likeness.tests.support.facea_identity import drawn_identity
from safetensors.torch import save_file

WORDS = torch.tensor([49406, 49407, 320, 786, 1611, 325, 331])  # start, end, a, man, ..., f, l
WIDTH = 32  # of the UNet's finest level
DIM = base_model.TEXT["hidden_size"]
_FINER = [WIDTH, WIDTH, *[2 * WIDTH] * 11, *[WIDTH] * 3]  # of the UNet's tokens at each of FACT's sites


def drawn(network, seed: int = 1) -> dict[str, torch.Tensor]:
    """Weights that keep the variance; vectors are 1, or 0 where they are added."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5
        if weight.ndim > 1
        else torch.ones_like(weight) * (name.endswith("weight") or "running_var" in name)
        for name, weight in network.state_dict().items()
        if weight.is_floating_point()
    }


def prefixed(prefix: str, weights: dict) -> dict:
    return {prefix + name: weight for name, weight in weights.items()}


def write(folder: Path) -> Path:
    """Every file of the miniature; the finder is the trained one."""
    for kind in ("facechain_fact", "face2diffusion", "insightface", "ipadapter", "facea"):
        (folder / kind).mkdir(parents=True)
    shutil.copy(finder.WEIGHTS, folder)
    _save(
        unet() | prefixed(base_model.TEXT_ENCODER, text(2)) | prefixed(base_model.FIRST_STAGE, _autoencoder()),
        folder / base_model.BASE,
    )
    first = {name: each for name, each in unet(33).items() if ".input_blocks.0.0." in name}
    _save(first, folder / base_model.INPAINTING, tokens=False)
    _save(pair(), folder / base_model.PAIR, f"text.{base_model.TOKENS}")
    _save(drawn(Recogniser((8, 8, 8), 16)), folder / "scorer.safetensors", tokens=False)
    write_faces(folder)
    model, *_ = base_model.load_miniature(folder, inpainting=True)
    save_facea(folder / "facea" / "miniature_facea.safetensors", drawn_identity(model, width=DIM))
    return folder


def write_faces(folder: Path) -> None:
    """Encoders and adapters."""
    shapes = {
        "facechain_fact/miniature_transface": checkpoints.transface_shapes(32, 1, 64, 14, 16),
        "facechain_fact/miniature_fact": checkpoints.fact_shapes(_FINER, DIM, 32, 64, 64, 4, 1),
        "face2diffusion/miniature_msid": checkpoints.msid_shapes(32, 4, 64, 14, (0, 1, 2, 3)),
        "face2diffusion/miniature_face2diffusion": checkpoints.mapping_shapes(4 * 32, 64, 16, DIM),
        "face2diffusion/miniature_expression": checkpoints.deep3d_shapes(8, ((1, 8), (1, 8), (1, 8), (1, 8))),
        "ipadapter/miniature_infinite_id": _infinite_id_shapes(),
    }
    for name, each in shapes.items():
        metadata = INFINITE_ID_METADATA if "infinite" in name else None
        weights = checkpoints.drawn(each, 1)
        _save(weights, folder / f"{name}.safetensors", tokens=False, metadata=metadata)
    # The real one: a recogniser that was not trained is refused.
    shutil.copy(base_model.WEIGHTS / "insightface" / "miniature_arcface.onnx", folder / "insightface")


def unet(in_channels: int = base_model.CHANNELS) -> dict[str, torch.Tensor]:
    network = UNetModel(**base_model.unet_layout(WIDTH, in_channels), operations=comfy.ops.manual_cast)
    return prefixed(base_model.UNET, drawn(network))


def text(seed: int) -> dict[str, torch.Tensor]:
    """Of the base, as it is trained: without a projection, and with the embeddings of WORDS only."""
    weights = drawn(SD1ClipModel(model_options={"clip_l_model_config": base_model.TEXT}).clip_l.transformer, seed)
    del weights[base_model._PROJECTION]
    weights[base_model._EMBEDDING] = weights[base_model._EMBEDDING][WORDS]
    return weights


def pair() -> dict[str, torch.Tensor]:
    projection = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(6)) * DIM**-0.5
    vision = comfy.clip_model.CLIPVisionModelProjection(base_model.VISION, torch.float32, "cpu", comfy.ops.manual_cast)
    halves = prefixed("text.", text(3) | {base_model._PROJECTION: projection}), prefixed("vision.", drawn(vision, 5))
    return halves[0] | halves[1]


def _autoencoder() -> dict[str, torch.Tensor]:
    return drawn(Autoencoder(AutoencoderSizes(encoder=(8, 8, 16), decoder=(16, 8, 8))))


def _infinite_id_shapes() -> dict[str, tuple[int, ...]]:
    shapes = tiny_ip.resampler("clip_mapper.", DIM, outputs=DIM) | tiny_ip.linear("face_mapper.proj.0", 512, 16)
    shapes |= tiny_ip.linear("face_mapper.proj.2", 16, 4 * DIM) | tiny_ip.norm("face_mapper.norm", DIM)
    blocks = transformer_blocks(UNetModel(**base_model.unet_layout(WIDTH), operations=comfy.ops.manual_cast))
    for place in BLOCKS["SD1.5"]:
        for part in ("to_k", "to_v"):
            width = blocks[place].attn2.to_q.out_features
            shapes[f"image_attention.{'.'.join(map(str, place))}.{part}.weight"] = (width, DIM)
    return shapes


def _save(weights: dict, path: Path, tokens: str | bool = base_model.TOKENS, metadata: dict | None = None) -> None:
    own = {name: weight.half().contiguous() for name, weight in weights.items()}
    save_file(own | ({tokens: WORDS} if tokens else {}), path, metadata)
