"""The golden UNets in the host's own model patchers, and what the golden cases put into them, on any device."""

import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from likeness.adapters.fact import FACE_BLOCKS, GatedSelfAttention
from likeness.adapters.ip_adapter import IpAdapter
from likeness.tests.support.golden_cases import Case


class GoldenBase(torch.nn.Module):
    """The golden UNet where the host has it in its own models, so that weight patches find their keys."""

    def __init__(self, case: Case):
        super().__init__()
        self.diffusion_model = UNetModel(**case.json("unet_config"), operations=comfy.ops.manual_cast)
        case.fill(self.diffusion_model)


def make_unet(case: Case, device: torch.device):
    """The case's UNet in a model patcher, on `device` for good."""
    return comfy.model_patcher.CoreModelPatcher(GoldenBase(case).eval().to(device), device, device)


def make_face_blocks(case: Case, device: torch.device):
    """The case's face blocks in the order of FACE_BLOCKS, likewise."""
    weights, blocks = case.weights("adapter_shapes"), torch.nn.ModuleList()
    for block in FACE_BLOCKS:
        prefix = block.diffusers
        part = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        blocks.append(GatedSelfAttention(*part["linear.weight"].shape, operations=comfy.ops.manual_cast))
        blocks[-1].load_state_dict(part)
    return comfy.model_patcher.CoreModelPatcher(blocks.eval().to(device), device, device)


def make_image_adapter(case: Case) -> IpAdapter:
    """The golden attentions with the smallest projector there is, which the golden's ready tokens go past."""
    weights = case.weights("adapter_shapes")
    dim = weights["ip_adapter.1.to_k_ip.weight"].shape[1]
    projector = {"proj.weight": torch.zeros(4 * dim, 8), "proj.bias": torch.zeros(4 * dim)}
    projector |= {"norm.weight": torch.ones(dim), "norm.bias": torch.zeros(dim)}
    return IpAdapter(weights | {f"image_proj.{key}": value for key, value in projector.items()}, "golden.bin")
