"""Recognise an adapter file by its tensors."""

from pathlib import Path

from ..weights.reading import read_state_dict
from .fact import PROJECTOR_PREFIX, FactAdapter


def load_adapter(path: str) -> FactAdapter:
    """Load the adapter file at `path`, whatever it is called.

    Raises ValueError naming the file when it cannot be read or is no adapter this pack knows.
    """
    state_dict = read_state_dict(path)
    name = Path(path).name
    if not any(key.startswith(PROJECTOR_PREFIX) for key in state_dict):
        raise ValueError(
            f"{name} is not a face adapter: it has no 'local_fac_prj.*' tensors (FACT), its first tensor is "
            f"'{next(iter(state_dict))}'. Choose another file in Load Face Adapter."
        )
    try:
        return FactAdapter(state_dict, name)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{name} is not a FACT adapter this pack can load: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the tensor {error} is missing, so the file is incomplete; fetch it again"
    return str(error).replace("\n\t", " ")
