"""One call of the UNet: whose rows its batch holds, what part of which image they show, how far sampling is.

The host puts conditions, areas and images into one batch or several as memory allows, and other nodes repeat, cut and
reorder what it made. So a row is known by where it comes from, never by its index. `describe_calls` has a model write
down who the guider's conditions are and where their areas lie; patches read it in their block:

    rows = read_rows(extra_options, len(x))   # runs of all images of the call: each has one role and shows one area
    rows.expand(pair)                         # what (positive, other) rows get -> what every row gets
    rows.place(mask, size, extra_options)     # a mask of the whole image -> of the tokens of every row
    schedule.is_on(extra_options)             # by the sigmas of the model that is sampled

Every key of `extra_options` may be missing, since other packs run the host's blocks in their own way.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from torch.nn.functional import interpolate

GUIDANCE, CALL = "likeness_guidance", "likeness_call"
COMPILED = "torch_compile_kwargs"  # in `model_options` where the host's compile node stands
POSITIVE, OTHER = "positive", "other"

Area = tuple[int, int, int, int]  # height, width, y and x in the latent


def is_positive(role: str) -> bool:
    """Return whether a condition is a prompt that wants the person, by a guider's name of it.

    The host's guiders say "positive", "middle", "negative" and "empty_negative_prompt".
    """
    return role != OTHER and not any(word in role for word in ("neg", "uncond", "empty"))


@dataclass
class Guidance:
    """One sampling: who the conditions of its guider are, and what its calls of the UNet have reached.

    roles:    by the uuid of a condition's entry the guider's name of the condition
    orders:   the roles of the last call of so many conditions whose roles were all different
    sigmas:   of percents of the sampling, by (the model's sampling, percent)
    calls:    how often the guider's conditions were asked for
    reached:  in how many of these calls a patch ran in how many blocks, by (patch, blocks)
    """

    roles: dict[UUID, str]
    orders: dict[int, tuple[str, ...]] = field(default_factory=dict)
    sigmas: dict[tuple, float] = field(default_factory=dict)
    calls: int = 0
    reached: Counter = field(default_factory=Counter)

    def name_roles(self, conditions: list[list[dict] | None]) -> tuple[str, ...]:
        """Return the role of every condition of a call; one that the guider does not know is an OTHER.

        A condition is known by its first entry: behind its own the host appends copies of other conditions' entries
        with areas, under their uuids. Where a window shows nothing but such a copy, two conditions seem to be one; then
        they are in the order of the call before. Where the guider knows none of several, the first is the positive.
        """
        roles = tuple(self.roles.get(entries[0]["uuid"], OTHER) if entries else OTHER for entries in conditions)
        named = [role for role in roles if role != OTHER]
        if not named and len(roles) > 1:
            return (POSITIVE, *roles[1:])
        if len(set(named)) < len(named):
            return self.orders.get(len(roles), roles)
        self.orders[len(roles)] = roles
        return roles

    def percent_to_sigma(self, sampling, percent: float) -> float:
        if (sampling, percent) not in self.sigmas:
            self.sigmas[sampling, percent] = float(sampling.percent_to_sigma(percent))
        return self.sigmas[sampling, percent]


@dataclass
class UNetCall:
    """What the host knows where it makes the batches of a noise level, and a block cannot see.

    roles:     of the conditions, by their index in `cond_or_uncond`
    indices:   of the conditions, by the uuid of their first entry
    areas:     by the uuid of an entry the part of the latent that it is about; without: all of it
    size:      (height, width) of the whole latent
    sampling:  the `model_sampling` of the model that runs
    options:   the `model_options` of the call, to name other nodes
    reached:   (patch, block) of every block that a patch has run in
    """

    guidance: Guidance
    roles: tuple[str, ...] = ()
    indices: dict[UUID, int] = field(default_factory=dict)
    areas: dict[UUID, Area] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    sampling: object = None
    options: dict = field(default_factory=dict)
    reached: set[tuple] = field(default_factory=set)
    _sigma: tuple = (None, 0.0)
    _rows: tuple = (None, 0, None)

    def role(self, index: int) -> str:
        """Return the role of an entry of `cond_or_uncond`; undescribed, the host's order is assumed."""
        if index < len(self.roles):
            return self.roles[index]
        return OTHER if index else POSITIVE

    def remember_rows(self, shape: list, rows: int, make) -> "Rows":
        """Return what `make` gives, once for each run of the UNet, which is known by its `original_shape`."""
        if self._rows[0] is not shape or self._rows[1] != rows:
            self._rows = shape, rows, make()
        return self._rows[2]

    def sigma(self, sigmas: torch.Tensor) -> float:
        """Return the call's noise level; reading it waits for the GPU, so that it is done once."""
        if self._sigma[0] is not sigmas:
            self._sigma = sigmas, float(sigmas[0])
        return self._sigma[1]


_compiled: tuple | None = None  # how the UNet stood when it ran compiled, see `_compile_anew`


def describe_calls(model) -> None:
    """Have a model describe its UNet calls to `read_rows` and `Schedule`, once however many patches ask for it."""
    if not model.get_wrappers(WrappersMP.OUTER_SAMPLE, CALL):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, CALL, _note_roles)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, CALL, _describe_call)


def _note_roles(executor, *args, **kwargs):
    """Write down the guider's conditions while each has only entries of its own: OUTER_SAMPLE wrapper."""
    guider = executor.class_obj
    _compile_anew(guider.model_options)
    roles = {entry["uuid"]: role for role, entries in guider.conds.items() for entry in entries}
    guider.model_options = _with_option(guider.model_options, GUIDANCE, Guidance(roles))
    return executor(*args, **kwargs)


def _compile_anew(model_options: dict) -> None:
    """Have torch forget compiled code where other patches stand in the UNet than in the compiled sampling before.

    The host has such code run again whatever `transformer_options` hold: without our patches, or in search of others.
    """
    global _compiled
    if COMPILED not in model_options:
        return
    options = model_options["transformer_options"]
    patches = {name: [type(patch) for patch in patches] for name, patches in options.get("patches", {}).items()}
    replaced = {name: list(blocks) for name, blocks in options.get("patches_replace", {}).items()}
    layout = list(options), patches, replaced
    if layout != _compiled:
        torch.compiler.reset()
        _compiled = layout


def _describe_call(executor, model, conds, x, timestep, model_options):
    """Describe the calls of one noise level: CALC_COND_BATCH wrapper."""
    guidance, size = find_guidance(model_options), tuple(x.shape[-2:])
    call = UNetCall(
        guidance,
        guidance.name_roles(conds),
        {entries[0]["uuid"]: index for index, entries in enumerate(conds) if entries},
        {entry["uuid"]: _clip(entry["area"], size) for entries in conds for entry in entries or () if "area" in entry},
        size,
        model.model_sampling,
        model_options,
    )
    output = executor(model, conds, x, timestep, _with_option(model_options, CALL, call))
    guidance.calls += 1
    guidance.reached.update(Counter(patch for patch, _ in call.reached).items())
    return output


def _clip(area: Area, size: tuple[int, int]) -> Area:
    height, width, y, x = area
    return min(height, size[0] - y), min(width, size[1] - x), y, x


def _with_option(model_options: dict, name: str, value) -> dict:
    return model_options | {"transformer_options": model_options.get("transformer_options", {}) | {name: value}}


def find_guidance(model_options: dict) -> Guidance:
    """Return what is known of the sampling; of one without a guider there is nothing."""
    return model_options.get("transformer_options", {}).get(GUIDANCE) or Guidance({})


def read_call(extra_options: dict) -> UNetCall:
    """Return the description of the call in progress, without anything in it where the host's way was left."""
    return extra_options.get(CALL) or UNetCall(Guidance({}))


@dataclass(frozen=True)
class Schedule:
    """A part of the sampling, from `start` to `end` in 0..1."""

    start: float
    end: float

    @property
    def is_empty(self) -> bool:
        return self.start >= self.end

    def is_on(self, extra_options: dict) -> bool:
        """Return whether the call's noise level lies in this part of the sampling; its two ends belong to it.

        Percents become sigmas by the model that is sampled, since nodes behind ours may have changed its sampling.
        Raises RuntimeError where the call's noise level is not known.
        """
        if self.start <= 0 and self.end >= 1:
            return True  # reading sigma would wait for the GPU
        call = read_call(extra_options)
        if call.sampling is None or "sigmas" not in extra_options:
            raise RuntimeError(
                f"start_percent {self.start} and end_percent {self.end} need a sampler that samples as ComfyUI's own "
                "do; this one does not tell the noise level. Set them to 0 and 1, or choose another sampler."
            )
        sigma = call.sigma(extra_options["sigmas"])
        first = call.guidance.percent_to_sigma(call.sampling, self.start) if self.start > 0 else math.inf
        last = call.guidance.percent_to_sigma(call.sampling, self.end) if self.end < 1 else 0.0
        return last <= sigma <= first


ALWAYS = Schedule(0.0, 1.0)


@dataclass(frozen=True)
class Rows:
    """What the rows of a tensor are: run after run of all images of the call.

    roles:    of every run
    areas:    of every run, the part of the latent that it shows; None: all of it
    images:   the numbers that the images of each run have in the whole batch
    """

    roles: tuple[str, ...]
    areas: tuple[Area | None, ...]
    images: tuple[int, ...]

    def expand(self, pair: torch.Tensor) -> torch.Tensor:
        """Give every row its own of (positive, other), [2, ...] -> [runs * images, ...]."""
        count, positive = len(self.images), [is_positive(role) for role in self.roles]
        if positive == [True, False] and count == 1:
            return pair
        return torch.cat([pair[0 if mine else 1].expand(count, *pair.shape[1:]) for mine in positive])

    def place(self, mask: torch.Tensor, size: tuple[int, int], latent: tuple[int, int] | None) -> torch.Tensor:
        """Return a mask of the whole image, averaged over each token's area, as [1 or runs * images, h w, 1].

        mask: [1 or more, H, W], repeated where there are more images; size: (h, w) of the tokens;
        latent: (height, width) of the whole latent, in which areas lie
        """
        areas = self.areas if len(set(self.areas)) > 1 else self.areas[:1]
        tokens = [
            interpolate(_cut(mask, area, latent).unsqueeze(1), size=size, mode="area").flatten(2).transpose(1, 2)
            for area in areas
        ]
        if len(mask) == 1 and len(areas) == 1:
            return tokens[0]
        images = [image % len(mask) for image in self.images]
        return torch.cat([part[images] for part in (tokens if len(areas) > 1 else tokens * len(self.areas))])


def _cut(mask: torch.Tensor, area: Area | None, latent: tuple[int, int] | None) -> torch.Tensor:
    """Return the part of a mask [n, H, W] that lies over an area of the latent."""
    if area is None:
        return mask
    spans = [
        slice(start * length // whole, -(-(start + extent) * length // whole))
        for extent, start, length, whole in zip(area[:2], area[2:], mask.shape[-2:], latent)
    ]
    return mask[:, spans[0], spans[1]]


def read_rows(extra_options: dict, rows: int) -> Rows:
    """Return what the `rows` of a tensor in a block are.

    Understands the host's batches; tiles, which repeat all chunks; attention couples, which repeat the conditional
    chunks inside cross-attention; and the rows of index 1 alone (docs/architecture.md, One call of the UNet).
    Raises RuntimeError for rows that are none of these.
    """
    call, shape = read_call(extra_options), extra_options.get("original_shape")
    if shape is None or "cond_or_uncond_couple" in extra_options:
        return _read_rows(call, extra_options, rows)
    return call.remember_rows(shape, rows, lambda: _read_rows(call, extra_options, rows))


def _read_rows(call: UNetCall, extra_options: dict, rows: int) -> Rows:
    uuids = extra_options.get("uuids") or ()
    chunks = tuple(extra_options.get("cond_or_uncond") or (call.indices.get(uuid, 0) for uuid in uuids)) or (0,)
    whole = extra_options["original_shape"][0] if "original_shape" in extra_options else rows
    count = len(extra_options["sigmas"]) if "sigmas" in extra_options else whole // len(chunks)
    indices = _list_runs(extra_options, chunks, rows, whole, count)
    if indices is None:
        raise RuntimeError(_explain_rows(extra_options, chunks, rows, whole, count))
    areas = [call.areas.get(uuid) for uuid in (uuids if len(uuids) == len(chunks) else [None] * len(chunks))]
    return Rows(
        tuple(call.role(chunks[index]) for index in indices),
        tuple(areas[index] for index in indices),
        _number_images(extra_options, count),
    )


def _list_runs(extra_options: dict, chunks: tuple[int, ...], rows: int, whole: int, count: int) -> list[int] | None:
    """Return which chunk of the host's each run of `count` rows is; None where they cannot be told.

    chunks: `cond_or_uncond`; whole: the rows of the UNet's call
    """
    if count == 0 or rows % count or whole % (count * len(chunks)):
        return None
    numbers, runs, couple = list(range(len(chunks))), rows // count, extra_options.get("cond_or_uncond_couple", ())
    if rows == whole:
        return numbers * (runs // len(chunks))
    conditional = [n for n in numbers if chunks[n] != 1]
    if runs == len(chunks) - len(conditional):
        return [n for n in numbers if chunks[n] == 1]
    if whole > count * len(chunks):
        return None
    regions, rest = divmod(runs - (len(chunks) - len(conditional)), max(len(conditional), 1))
    coupled = [n for n in numbers for _ in range(regions if n in conditional else 1)]
    if len(couple) == runs and [chunks[n] for n in coupled] != list(couple) and set(couple) <= set(chunks):
        return [chunks.index(kind) for kind in couple]
    return coupled if len(coupled) == runs and regions > 0 and not rest else None


def _number_images(extra_options: dict, count: int) -> tuple[int, ...]:
    """Return which images of the whole batch the `count` of a run are: a window's where there is one of that length."""
    indices = (extra_options.get("ad_params") or {}).get("sub_idxs")  # AnimateDiff-Evolved's
    window = extra_options.get("context_window")  # the host's, which stays there after its last window
    if (indices is None or len(indices) != count) and getattr(window, "dim", None) == 0:
        anchor = getattr(window, "causal_anchor_index", None)
        indices = [*([anchor] if anchor is not None and anchor >= 0 else []), *window.index_list]
    return tuple(indices) if indices is not None and len(indices) == count else tuple(range(count))


def _explain_rows(extra_options: dict, chunks: tuple[int, ...], rows: int, whole: int, count: int) -> str:
    others = ", ".join(list_packs(read_call(extra_options).options)) or "another node"
    return (
        f"This model's batch cannot be told apart any more: {rows} rows in a block, {whole} in the UNet, for {count} "
        f"images and {len(chunks)} prompts. Beside Likeness there are patches of {others}; use one of them at a time."
    )


def name_pack(found) -> str:
    """Return which pack a callable of another node comes from: its folder in custom_nodes, else its module."""
    module = getattr(found, "__module__", None) or type(found).__module__
    _, folder, path = module.replace("\\", "/").rpartition("custom_nodes/")
    return path.split("/")[0].split(".")[0].replace("_x_", ".") if folder else module


def list_packs(model_options: dict) -> list[str]:
    """Return the packs, our own left out, of which there is a patch or a wrapper in a model."""
    options = model_options.get("transformer_options", {})
    groups = [*options.get("patches", {}).values()]
    groups += [replaced.values() for replaced in options.get("patches_replace", {}).values()]
    groups += [group for wrappers in options.get("wrappers", {}).values() for group in wrappers.values()]
    patches = [patch for group in groups for patch in group] + [model_options.get("model_function_wrapper")]
    own = __name__.rpartition(".")[0]
    packs = (name_pack(patch) for patch in patches if patch is not None)
    return list(dict.fromkeys(pack for pack in packs if not pack.startswith(own) and pack != name_pack(attend)))


def attend(q, k, v, extra_options: dict, **options):
    """Run the attention that the host would have run in this block, with its precision and overrides."""
    return optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        attn_precision=extra_options.get("attn_precision"),
        transformer_options=extra_options,
        **options,
    )
