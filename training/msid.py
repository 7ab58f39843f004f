"""MSID's training (arXiv 2403.05094, Eq. 3; docs/papers.md 3.6): a face recogniser's ViT, by one loss on all its taps.

The direction of every person is complete in every process: for 85,742 people and 1536 numbers 0.5 GB, and 2.1 GB with
gradient and AdamW's moments; a step has 2.8 GB for a moment. Crops come in the order of epochs, each once in each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint

from ..encoders.msid import HEAD_WIDTH, Msid, MsidSizes
from ..metrics.statistics import verification_accuracy
from .distributed import count_processes, get_rank
from .face_crops import CropSet
from .photos import ALIGNED
from .portraits import choose_held_out
from .precision import cast_to, compute_dtype
from .settings import Count, CountOrNone, Positive, Range, Share, WatchedSettings
from .watch import Loss

HEADS = ("arcface", "cosface")
_FOLDS = 10  # of a verification, as LFW has them
_AT_ONCE = 256
_SETTLING = 50  # batches of which the norms' statistics are taken


@dataclass(frozen=True)
class MsidSettings(WatchedSettings):
    """Settings of MSID's training; batch, lr, checkpointing and held_out are those of adapters.

    dim, depth, patch: of the ViT, as published; its MLPs are four times as wide. taps: the blocks that are read,
    counted from 0. head: one of HEADS: ArcFace's margin is an angle in radians, CosFace's is taken from the cosine.
    scale, margin: s and m of Eq. 3. flip: whether crops are mirrored, half of the time. validation_batches: how many
    batches of pairs of one person a validation has, and as many of two.
    """

    batch: Annotated[int, Range(ge=2)] = 128
    lr: Positive = 1e-3
    checkpointing: bool = False
    held_out: Share = 0.05
    validation_batches: Count = 8
    dim: Annotated[int, Range(ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH)] = 384
    depth: Count = 12
    patch: Annotated[int, Range(ge=1, le=ALIGNED)] = 8
    taps: tuple[CountOrNone, ...] = (2, 5, 8, 11)
    head: Literal[HEADS] = HEADS[0]
    scale: Positive = 64.0
    margin: Annotated[float, Range(ge=0, le=1.5)] = 0.5
    flip: bool = True


def arcface_loss(cosines: torch.Tensor, labels: torch.Tensor, scale: float, margin: float) -> torch.Tensor:
    """Return Eq. 3: -log softmax of s cos(theta + m) for the own class, s cos(theta) for the others; cosines [b,
    classes].
    """
    theta = cosines.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6).acos()
    return cross_entropy(scale * cosines.scatter(1, labels[:, None], (theta + margin).cos()), labels)


def cosface_loss(cosines: torch.Tensor, labels: torch.Tensor, scale: float, margin: float) -> torch.Tensor:
    """Return CosFace's loss (arXiv 1801.09414, Eq. 4): as ArcFace's, with s (cos(theta) - m) for the own class."""
    own = cosines.gather(1, labels[:, None]) - margin
    return cross_entropy(scale * cosines.scatter(1, labels[:, None], own), labels)


_LOSSES = dict(zip(HEADS, (arcface_loss, cosface_loss)))


class MarginHead(nn.Module):
    """The directions of people, which are needed to train a recogniser and by nobody else."""

    def __init__(self, width: int, people: int):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(people, width) * 0.01)

    def cosines(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return the cosines of embeddings [b, width] with all people's directions, [b, people].

        Lengths are divided out of the products: of normalised directions a step would keep copies.
        """
        return normalize(embedding, dim=1) @ self.directions.T / self.directions.norm(dim=1)


class RecomputedMsid(Msid):
    """An MSID whose blocks keep only what goes into them, and are computed again on the way back."""

    def run(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(block, x, use_reentrant=False)


class MsidTraining(nn.Module):
    """An MSID and the directions of the people from whom it learns."""

    def __init__(self, network: Msid, head: MarginHead):
        super().__init__()
        self.network, self.head = network, head


class Epochs:
    """The order in which `count` crops come: in each epoch all of them once, shuffled, and of these every `world`-th,
    from `rank` on, to one of so many processes.
    """

    def __init__(self, count: int, seed: int, rank: int = 0, world: int = 1):
        self.count, self.seed, self.rank, self.world = count, seed, rank, world
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, start: int, size: int) -> torch.Tensor:
        """Return the `size` rows that follow the first `start` ones of this process."""
        own, parts = len(range(self.rank, self.count, self.world)), []
        while size:
            epoch, place = divmod(start, own)
            if epoch != self.epoch:
                generator = torch.Generator().manual_seed((self.seed + epoch) % 2**63)
                self.order = torch.randperm(self.count, generator=generator)[self.rank :: self.world]
                self.epoch = epoch
            parts.append(self.order[place : place + size])
            start, size = start + len(parts[-1]), size - len(parts[-1])
        return torch.cat(parts)


def hold_out(crops: CropSet, share: float, people: torch.Tensor) -> tuple[CropSet, CropSet]:
    """Return the crops to train on, whose people are counted anew, and those of a share of `people`, who are held out.

    Raises ValueError where nobody would be left.
    """
    held = torch.zeros(crops.count, dtype=torch.bool)
    held[choose_held_out(people, share)] = True
    numbers, rows = (~held).cumsum(0) - 1, (~held[crops.people]).nonzero()[:, 0]
    trained = crops.select(rows)
    trained = CropSet(numbers[trained.people], int((~held).sum()), trained.fetch)
    return trained, crops.select(held[crops.people].nonzero()[:, 0])


def make(people: int, settings: MsidSettings, device: torch.device) -> MsidTraining:
    """Return a fresh network and head; raises ValueError where taps or patches do not fit, or nobody is told apart."""
    if people < 2:
        raise ValueError("train msid learns to tell people apart: give it photos of two at least.")
    if not settings.taps or list(settings.taps) != sorted({*settings.taps}) or settings.taps[-1] >= settings.depth:
        raise ValueError(
            f"taps must be different blocks in their order, counted from 0, below depth = {settings.depth}, not "
            f"{list(settings.taps)}."
        )
    if ALIGNED % settings.patch:
        raise ValueError(f"Crops of {ALIGNED} pixels do not divide into patches of {settings.patch}: take 7, 8 or 14.")
    torch.manual_seed(settings.seed)
    tokens, dim = (ALIGNED // settings.patch) ** 2, settings.dim
    kind = RecomputedMsid if settings.checkpointing else Msid
    network = kind(MsidSizes(tokens, dim, settings.depth, 4 * dim, settings.patch, settings.taps))
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02)
        elif not name.startswith("norms.") and name.endswith("bias"):
            nn.init.zeros_(parameter)
    return MsidTraining(network, MarginHead(dim * len(settings.taps), people)).to(device)


def as_pixels(crops: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return crops uint8 [b, S, S, 3] as the network reads them: [b, 3, S, S] in -1..1."""
    return crops.to(device).movedim(-1, 1).float() / 127.5 - 1


def make_loss(
    module: MsidTraining, crops: CropSet, settings: MsidSettings, device: torch.device, split: bool = False
) -> Loss:
    """Return Eq. 3 of batches of `crops`, a function of generator and step.

    split: whether the crops are this process's alone, and not shared by all.
    """
    rank, world = (0, 1) if split else (get_rank(), count_processes())
    epochs, dtype = Epochs(len(crops), settings.seed, rank, world), compute_dtype(settings.precision, device)
    done = {"step": -1, "losses": 0}  # of a step that has several

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        done.update(step=step, losses=done["losses"] + 1 if done["step"] == step else 0)
        rows = epochs.rows((step * settings.accumulate + done["losses"]) * settings.batch, settings.batch)
        pixels, labels = as_pixels(crops.fetch(rows), device), crops.people[rows].to(device)
        if settings.flip:
            mirrored = torch.rand(len(rows), generator=generator).to(device) < 0.5
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        with cast_to(dtype, device):
            embedding = module.network(pixels)
        return _LOSSES[settings.head](module.head.cosines(embedding.float()), labels, settings.scale, settings.margin)

    return loss


def settle(network: Msid, crops: CropSet, settings: MsidSettings, device: torch.device) -> None:
    """Let the norms' running statistics be those of the weights as they are, always by the same crops."""
    epochs, dtype = Epochs(len(crops), settings.seed), compute_dtype(settings.precision, device)

    def batches() -> Iterator[torch.Tensor]:
        for number in range(_SETTLING):
            yield as_pixels(crops.fetch(epochs.rows(number * settings.batch, settings.batch)), device)

    training = network.training
    with cast_to(dtype, device):
        update_bn(batches(), network.train())
    network.train(training)


class Pairs(NamedTuple):
    """first, second: int64 [n], rows of crops; same: bool [n], whether of one person; folds: int64 [n]."""

    first: torch.Tensor
    second: torch.Tensor
    same: torch.Tensor
    folds: torch.Tensor


def choose_pairs(people: torch.Tensor, count: int) -> Pairs:
    """Return about `count` pairs of one person and as many of two, always the same ones, no person in two folds.

    people: int64 [n]. Raises ValueError where fewer than four people have two photos.
    """
    generator = torch.Generator().manual_seed(0)
    numbers, person, counts = people.unique(return_inverse=True, return_counts=True)
    order, starts = person.argsort(stable=True), counts.cumsum(0) - counts
    several = (counts > 1).nonzero()[:, 0]
    if len(several) < 4:
        raise ValueError(
            f"Only {len(several)} of {len(numbers)} people who are held out have two photos, and a verification needs "
            "four: take photos of more people, a larger held_out, or validate_steps = 0."
        )
    folds = min(_FOLDS, len(several) // 2)
    several = several[torch.randperm(len(several), generator=generator)]
    chosen: set[tuple[int, int, int]] = set()
    for fold in range(folds):
        group = several[fold::folds]
        for _ in range(-(-count // folds)):
            one, other = group[torch.randperm(len(group), generator=generator)[:2]].tolist()
            places = [int(torch.randint(1 << 62, (), generator=generator)) for _ in range(3)]
            first = places[0] % int(counts[one])
            second = (first + 1 + places[1] % (int(counts[one]) - 1)) % int(counts[one])
            rows = [int(order[starts[one] + place]) for place in (first, second)]
            stranger = int(order[starts[other] + places[2] % int(counts[other])])
            chosen |= {(fold, *sorted(rows)), (fold, *sorted((rows[0], stranger)))}
    folds_of, first, second = torch.tensor(sorted(chosen)).T
    return Pairs(first, second, people[first] == people[second], folds_of)


@torch.no_grad()
def verify(network: Msid, crops: CropSet, pairs: Pairs, device: torch.device) -> float:
    """Return the share of pairs of crops that the network, in eval mode, tells rightly: 0..1."""
    rows, places = torch.cat((pairs.first, pairs.second)).unique(return_inverse=True)
    vectors = torch.cat([network(as_pixels(crops.fetch(part), device)).cpu() for part in rows.split(_AT_ONCE)])
    first, second = places.chunk(2)
    return verification_accuracy(cosine_similarity(vectors[first], vectors[second]), pairs.same, pairs.folds)
