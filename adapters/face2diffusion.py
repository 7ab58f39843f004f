"""Face2Diffusion's mapping network: identity and expression become two words (docs/papers.md 3.2)."""

from dataclasses import dataclass

import comfy.model_management
import comfy.ops
import torch
from torch import nn
from torch.nn.functional import leaky_relu

from ..encoders.identity import FaceId
from ..patcher import check_finite, manage
from ..weights.reading import count_modules

MAPPING_KEY = "i2t_first.fc_out.weight"  # no other adapter has it


@dataclass(frozen=True)
class MappingSizes:
    """Sizes of a mapping network: `identity` and `expression` numbers in, `hidden` layer widths, words of `word`."""

    identity: int
    expression: int
    hidden: tuple[int, ...]
    word: int

    @classmethod
    def of(cls, state_dict: dict) -> "MappingSizes":
        """Read the sizes from a published state dict."""
        layers = count_modules(state_dict, "i2t_first.layers.")
        expression = state_dict["null_exp"].shape[0]
        return cls(
            identity=state_dict["i2t_first.layers.0.0.weight"].shape[1] - expression,
            expression=expression,
            hidden=tuple(state_dict[f"i2t_first.layers.{i}.0.weight"].shape[0] for i in range(layers)),
            word=state_dict[MAPPING_KEY].shape[0],
        )


class WordMlp(nn.Module):
    """One word of a person: [n, identity + expression] -> [n, word], leaky ReLU of slope 0.2 between the layers."""

    def __init__(self, sizes: MappingSizes, operations, **factory):
        super().__init__()
        widths = (sizes.identity + sizes.expression, *sizes.hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(operations.Linear(inputs, outputs, **factory)) for inputs, outputs in zip(widths, widths[1:])
        )
        self.fc_out = operations.Linear(widths[-1], sizes.word, **factory)

    def forward(self, x):
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
        return self.fc_out(x)


class MappingNetwork(nn.Module):
    """The mapping network of any size; `operations` is a namespace of layers such as `torch.nn` or `comfy.ops`."""

    def __init__(self, sizes: MappingSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.null_exp = nn.Parameter(torch.empty(sizes.expression, **factory))
        self.i2t_first = WordMlp(sizes, operations, **factory)
        self.i2t_last = WordMlp(sizes, operations, **factory)

    def forward(self, identity: torch.Tensor, expression: torch.Tensor | None = None, strength: float = 1.0):
        """Return both words [n, 2, word] of identities [n, identity] with expressions [n, expression].

        The expression goes from the learned unconditional vector at strength 0 to the given one at 1: e m + e0 (1 - m).
        strength: m, 0..1. Without an expression it is the unconditional vector e0.
        """
        null = self.null_exp.to(identity).expand(len(identity), -1)
        given = null if expression is None else expression * strength + null * (1 - strength)
        x = torch.cat((identity, given), dim=1)
        return torch.stack((self.i2t_first(x), self.i2t_last(x)), dim=1)


def check_mapping(adapter) -> None:
    """Raise ValueError unless the adapter is a mapping network."""
    if adapter.kind != Face2DiffusionAdapter.kind:
        raise ValueError(
            f"Face to Words: {adapter.name} is no Face2Diffusion mapping network but of the kind {adapter.kind}. "
            "Choose the mapping file (mapping.pt) in Load Face Adapter."
        )


class Face2DiffusionAdapter:
    """One loaded mapping file; its network is owned by a model patcher. It computes in float32, as it is small."""

    kind = "face2diffusion"
    encoder = "msid"

    def __init__(self, state_dict: dict, name: str):
        self.name = name
        self.sizes = MappingSizes.of(state_dict)
        offload_device = comfy.model_management.text_encoder_offload_device()
        network = MappingNetwork(self.sizes, comfy.ops.manual_cast, torch.float32, offload_device)
        weights = {key: value.float() for key, value in state_dict.items()}
        self.mapping = manage(network, weights, offload_device)

    def words(self, face_id: FaceId, expression: torch.Tensor | None = None, strength: float = 1.0) -> torch.Tensor:
        """Return the two words [2, word] of one person; several photos are averaged before the mapping.

        expression: [1, 64], or None for the unconditional one; strength: 0..1 between the two.

        Raises ValueError where the identity is another encoder's, of another width, or was read from masked crops.
        """
        self._check(face_id)
        comfy.model_management.load_models_gpu([self.mapping])
        device = self.mapping.load_device
        identity = face_id.features.flatten(1).mean(dim=0, keepdim=True).to(device, torch.float32)
        expression = None if expression is None else expression.to(device, torch.float32)
        words = self.mapping.model(identity, expression, strength)[0]
        check_finite(words, f"{self.name} (Load Face Adapter)", "download the file again")
        return words.to(comfy.model_management.intermediate_device())

    def _check(self, face_id: FaceId) -> None:
        if face_id.encoder != self.encoder:
            raise ValueError(
                f"Face to Words: {self.name} reads {self.encoder} features, but the identity was encoded by "
                f"{face_id.file} ({face_id.encoder}). Choose the MSID file (msid.pt) in Load Face Encoder."
            )
        width = face_id.features[0].numel()
        if width != self.sizes.identity:
            raise ValueError(
                f"Face to Words: {self.name} expects identities of {self.sizes.identity} numbers, but {face_id.file} "
                f"makes {width}. Load the mapping file and the MSID file that were published together."
            )
        if face_id.masked:
            raise ValueError(
                "Face to Words: the identity was read with a blackened background, but MSID was trained on whole "
                "photos. Switch mask_background off in Encode Identity."
            )
