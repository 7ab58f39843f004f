"""The networks that see: recognisers in the layouts of the published encoders, CLIP, the expression regressor."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn

from ...encoders.clip_vision import encode_images
from ...encoders.deep3d import EXPRESSION, Regressor
from ...encoders.msid import Msid, MsidSizes
from ...encoders.transface import TransFace, TransFaceSizes
from ...metrics.similarity import pair_cosines
from ...metrics.statistics import separation
from ...training import photos
from ...training.progress_line import ProgressLine
from ..models import base_model as miniature
from ..models import language
from ..models.recogniser import Recogniser
from ..training import clip_pair, crops, expression, finder, recogniser
from ..training.degrade import soften
from .common import LONG, MORE_WORDS, OUTPUT, device, load_set, load_tensors, save_losses, save_tensors, traits

_AT_ONCE = 256
_TAPS = 4
_WIDTH = 96  # of MSID


@dataclass(frozen=True)
class RecogniserRecipe:
    """make: the network, of a seed; embed: what of it the identity loss sees; masked: whether on heads before black."""

    make: Callable[[], nn.Module]
    seed: int
    embed: Callable[[nn.Module, torch.Tensor], torch.Tensor] = lambda network, pixels: network(pixels)
    masked: bool = False
    split: str = "train"
    settings: dict = field(default_factory=dict)


def _vit(network: nn.Module) -> nn.Module:
    language.draw_weights(network)
    for name, parameter in network.named_parameters():
        if name in ("pos_embed", "cls_token"):
            nn.init.normal_(parameter, std=0.05)
    return network


def _transface() -> nn.Module:
    return _vit(TransFace(TransFaceSizes(tokens=64, dim=128, depth=4, mlp=256, patch=14, embedding=128)))


def _msid() -> nn.Module:
    return _vit(Msid(MsidSizes(tokens=64, dim=_WIDTH, depth=4, mlp=256, patch=14, taps=tuple(range(_TAPS)))))


# A class token gathers what it needs only slowly: it is told more of what people look like, and longer.
_SLOW = {"steps": 8000, "lr": 2e-3, "traits": 6.0, "late": 0.7}
RECOGNISERS = {
    "transface": RecogniserRecipe(_transface, 3, lambda network, pixels: network.identify(pixels)[1], masked=True,
                        settings={"steps": 4000, "lr": 1e-3, "traits": 6.0}),
    "msid": RecogniserRecipe(_msid, 3, settings=_SLOW),
    "msid_twin": RecogniserRecipe(_msid, 3, lambda network, pixels: network(pixels)[:, -_WIDTH:],
                        settings=_SLOW),
    "arcface": RecogniserRecipe(lambda: Recogniser((16, 32, 64, 128), 512), 3, settings={"steps": 900, "lr": 2e-3}),
    "scorer": RecogniserRecipe(lambda: Recogniser((24, 48, 96, 128), 128), 7, split="score",
                     settings={"steps": 900, "lr": 2e-3, "flip": True, "seed": 11}),
}  # fmt: skip


def train_recogniser(name: str) -> None:
    """Train one of RECOGNISERS, and say how well it tells held-out people apart."""
    recipe = RECOGNISERS[name]
    torch.manual_seed(recipe.seed)
    network = recipe.make()
    crop_array, traits_of_people = _crops(recipe.split, recipe.masked), traits(recipe.split)
    _, labels = np.unique(load_set(recipe.split).people, return_inverse=True)
    settings = recogniser.RecogniserSettings(warmup=100, ema=0.995, weight_decay=0.05, **LONG, **recipe.settings)
    embed = partial(recipe.embed, network)
    checkpoint, labels = OUTPUT / f"{name}.pt", torch.from_numpy(labels)
    progress = recogniser.train(
        network, embed, crop_array, labels, traits_of_people, settings, device(), checkpoint, ProgressLine(settings)
    )
    network.cpu()
    averages = {
        key.removeprefix("network."): tensor for key, tensor in progress.average.items() if key.startswith("network.")
    }
    network.load_state_dict(network.state_dict() | averages)
    settle(network, embed, crop_array, settings.soft)
    print(f"{name}: AUC {measure_auc(embed, recipe.masked):.4f} on held-out people")
    save_tensors(name, network.state_dict())
    save_losses(name, progress)
    if name == "msid_twin":
        _keep_twins(network.state_dict())


def _keep_twins(weights: dict[str, torch.Tensor]) -> None:
    """Save the plain recogniser as two encoders of the ablation: read at all its depths, and at the deepest alone."""
    shallow = tuple(f"norms.layer_{tap}." for tap in range(_TAPS - 1))
    save_tensors("ablations/msid_twin", weights)
    save_tensors("ablations/msid_deep", {key: tensor for key, tensor in weights.items() if not key.startswith(shallow)})


@torch.no_grad()
def settle(network: nn.Module, embed, crop_array: np.ndarray, soft: float, batches: int = 60) -> None:
    """Let the norms' running statistics be those of the averaged weights."""
    generator = torch.Generator().manual_seed(1)
    network.train()
    for _ in range(batches):
        indices = torch.randint(len(crop_array), (128,), generator=generator)
        embed(soften(crops.as_pixels(crop_array[indices.numpy()]) / 2 + 0.5, soft, generator) * 2 - 1)
    network.eval()


@torch.no_grad()
def measure_auc(embed, masked: bool) -> float:
    """Return how often two pictures of one held-out person are nearer than two of two people's."""
    crop_array = _crops("test", masked)
    embedded = torch.cat([embed(crops.as_pixels(crop_array[rows])) for rows in _rows(len(crop_array))])
    return separation(*pair_cosines(embedded, torch.from_numpy(load_set("test").people)))


def _crops(split: str, masked: bool) -> np.ndarray:
    kind = "masked" if masked else "whole"
    return crops.cache_crops(OUTPUT / f"crops_{split}_{kind}.npy", load_set(split), masked)


def _rows(count: int) -> list[slice]:
    return [slice(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE)]


def find() -> None:
    """Train the finder of faces, which the detector "drawn: miniature" is."""
    show = ProgressLine(finder.RECIPE)
    save_tensors("finder", finder.make_weights(load_set("train"), after_step=show, checkpoint=OUTPUT / "finder.pt"))


def clip() -> None:
    """Train the CLIP pair."""
    dataset = load_set("train")
    texts = {text for split in ("train", "test") for caption in load_set(split).captions
             for text in language.manners(caption).values()}  # fmt: skip
    words = language.Vocabulary([*sorted(texts), *MORE_WORDS, "left right"])
    torch.manual_seed(5)
    pair = clip_pair.ClipPair(words)
    settings = clip_pair.ClipPairSettings(
        steps=500, batch=128, lr=1e-3, warmup=100, ema=0.995, weight_decay=0.05, **LONG
    )
    captions = language.Captions(dataset.captions, words)
    progress = clip_pair.train(pair, dataset, captions, settings, device(), OUTPUT / "clip.pt", ProgressLine(settings))
    pair.load_state_dict(progress.average)
    text = pair.text.weights() | {"text_projection.weight": pair.text_projection.weight, "tokens": words.tokens}
    vision = {f"vision.{name}": tensor for name, tensor in pair.vision.state_dict().items()}
    save_tensors("clip", {f"text.{name}": tensor for name, tensor in text.items()} | vision)
    save_losses("clip", progress)


def expressions() -> None:
    """Train the expression regressor, on every eighth image."""
    dataset = load_set("train")
    chosen = list(range(0, len(dataset), 8))
    targets = torch.stack([expression.coefficients(*dataset.recipe.describe(index)[:2]) for index in chosen])
    torch.manual_seed(9)
    network = Regressor(expression.SIZES)
    language.draw_weights(network)
    settings = expression.ExpressionSettings(steps=600, warmup=50, **LONG)
    crop_array = expression.cut_crops(dataset, chosen)
    progress = expression.train(
        network, crop_array, targets, settings, device(), OUTPUT / "expression.pt", ProgressLine(settings)
    )
    save_tensors("expression", network.state_dict())
    save_losses("expression", progress)


@torch.no_grad()
def features(name: str) -> None:
    """Read every image with a network, for the training of adapters."""
    dataset, see = load_set("train"), _make_reader(name)
    with torch.autocast("cpu", torch.bfloat16, enabled=name != "clip"):
        features = [see(range(len(dataset))[rows]).half() for rows in _rows(len(dataset))]
    save_tensors(f"feat_{name}", {name: torch.cat(features)})


def _make_reader(name: str):
    """Return a function from indices of images to features."""
    dataset = load_set("train")
    if name == "msid_deep":
        taps = _make_reader("msid_twin")
        return lambda indices: taps(indices)[:, -_WIDTH:]
    if name == "clip":
        _, vision = miniature.load_pair(OUTPUT)
        save_tensors("clip_nothing", {"nothing": photos.clip_of_nothing(vision)})
        return lambda indices: encode_images(vision, dataset.images(indices).float() / 255, "last")
    if name == "expression":
        network = Regressor(expression.SIZES)
        network.load_state_dict(load_tensors(name))
        network.eval()
        return lambda indices: network(expression.cut_crops(dataset, indices).movedim(-1, 1).float() / 255)[
            :, EXPRESSION
        ]
    recipe = RECOGNISERS[name]
    network = recipe.make()
    network.load_state_dict(load_tensors(name))
    network.eval()
    crop_array = _crops("train", recipe.masked)
    tokens = {"transface": lambda x: network(x), "arcface": lambda x: network(x)[:, None]}.get(name, network)
    return lambda indices: tokens(crops.as_pixels(crop_array[indices.start : indices.stop]))
