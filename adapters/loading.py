"""Recognise an adapter file by its tensors."""

from pathlib import Path

from ..weights.building import built
from ..weights.reading import read_state_dict
from .face2diffusion import MAPPING_KEY, Face2DiffusionAdapter
from .fact import PROJECTOR_PREFIX, FactAdapter


def load_adapter(path: str) -> FactAdapter | Face2DiffusionAdapter:
    """Load the adapter file at `path`, whatever it is called.

    Raises ValueError naming the file when it cannot be read or is no adapter this pack knows.
    """
    state_dict = read_state_dict(path)
    name = Path(path).name
    if MAPPING_KEY in state_dict:
        family, adapter = "Face2Diffusion mapping network", Face2DiffusionAdapter
    elif any(key.startswith(PROJECTOR_PREFIX) for key in state_dict):
        family, adapter = "FACT adapter", FactAdapter
    else:
        raise ValueError(
            f"{name} is not a face adapter: it has no 'local_fac_prj.*' tensors (FACT) and no '{MAPPING_KEY}' "
            f"(Face2Diffusion), its first tensor is '{next(iter(state_dict))}'. Choose another file in Load Face "
            "Adapter."
        )
    return built(f"{name} is not a {family} this pack can load", adapter, state_dict, name)
