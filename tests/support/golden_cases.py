"""Golden cases: inputs and outputs of the authors' code, and the weights that `golden_recipe` draws for them."""

import json
from functools import lru_cache
from pathlib import Path

import safetensors
import torch
from likeness.tests.support import golden_recipe

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 2e-5  # of float32 arithmetic in another order

_draw = lru_cache(maxsize=2048)(golden_recipe.draw)  # of two or three networks, which tests make again and again


class Case:
    def __init__(self, name: str):
        with safetensors.safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            self.metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        self.input = {key.removeprefix("input."): t for key, t in tensors.items() if key.startswith("input.")}
        self.output = {key.removeprefix("output."): t for key, t in tensors.items() if key.startswith("output.")}
        self.seed = int(self.metadata["seed"]) if self.metadata["seed"] != "none" else None  # no weights to draw

    def json(self, key: str):
        return json.loads(self.metadata[key])

    def weights(self, key: str = "shapes") -> dict[str, torch.Tensor]:
        return self._draw_all(self.json(key))

    def fill(self, module: torch.nn.Module) -> None:
        """Draw the module's own parameters by their names."""
        module.load_state_dict(self._draw_all({name: tensor.shape for name, tensor in module.state_dict().items()}))

    def _draw_all(self, shapes: dict) -> dict[str, torch.Tensor]:
        return {name: _draw(name, tuple(shape), self.seed).clone() for name, shape in shapes.items()}


def shrunk_shapes(name: str, factor: int) -> dict:
    """The shapes of a golden's network with a `factor`th of its channels."""
    shapes = Case(name).json("shapes")
    return {
        key: [
            max(part // factor, 1) if part > 3 and (i < 2 or len(shape) == 3) and "pos" not in key else part
            for i, part in enumerate(shape)
        ]
        for key, shape in shapes.items()
    }


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual.double() - expected.double()).abs().max())
