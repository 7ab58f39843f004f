"""Recognise an adapter file by its tensors."""

from functools import partial
from pathlib import Path

from ..weights.reading import build_network, read_metadata, read_state_dict
from .face2diffusion import MAPPING_KEY, Face2DiffusionAdapter
from .fact import PROJECTOR_PREFIX, FactAdapter
from .ip_adapter import BY_NAME, IpAdapter, is_ip_adapter


def load_adapter(path: str, variant: str = BY_NAME) -> FactAdapter | Face2DiffusionAdapter | IpAdapter:
    """Load the adapter file at `path`, whatever it is called.

    variant: one of `ip_adapter.VARIANTS`: which of two image adapters with the same tensors it is; others ignore it

    Raises ValueError naming the file when it cannot be read or is no adapter this pack knows.
    """
    state_dict = read_state_dict(path)
    name = Path(path).name
    if MAPPING_KEY in state_dict:
        family, adapter = "a Face2Diffusion mapping network", Face2DiffusionAdapter
    elif any(key.startswith(PROJECTOR_PREFIX) for key in state_dict):
        family, adapter = "a FACT adapter", FactAdapter
    elif is_ip_adapter(state_dict):
        family, adapter = "an image adapter", partial(IpAdapter, variant=variant, metadata=read_metadata(path))
    elif any(key.startswith(("pulid_encoder.", "pulid_ca.")) for key in state_dict):
        raise ValueError(
            f"{name} is PuLID for Flux, which this pack has no place for: choose a PuLID file for SDXL "
            "(pulid_v1.1.safetensors, ip-adapter_pulid_sdxl_fp16.safetensors) in Load Face Adapter."
        )
    else:
        raise ValueError(
            f"{name} is not a face adapter: it has no 'local_fac_prj.*' tensors (FACT), no '{MAPPING_KEY}' "
            "(Face2Diffusion) and no '*.to_k_ip.weight' (IP-Adapter, FaceID, InstantID, PuLID), its first tensor is "
            f"'{next(iter(state_dict))}'. Choose another file in Load Face Adapter."
        )
    return build_network(f"{name} is not {family} this pack can load", adapter, state_dict, name)
