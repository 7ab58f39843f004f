"""Stand-ins for what other nodes do to a MODEL in real graphs, written from their described behaviour.

Each guest is a function MODEL -> MODEL, which clones first, or at the end a guider. It does the one thing by which real
nodes upset patches inside the UNet, and is built so that **nothing may change**: its docstring names the invariant, so
that a test needs no expected image:

    plain = tiny.sample(ours(model))
    for graph in (lambda model: guests.tiles(ours(model)), lambda model: ours(guests.tiles(model))):
        assert guests.rel(tiny.sample(graph(model)), plain) < 1e-4

An error is right only where the docstring allows it, and then in words that say what to do. What a guest changes in
the bare model (2e-6 is rounding) is its own fault. They work with SD1.5's and SDXL's UNets; no ControlNet inside
`tiles` and `bypass`.
"""

from contextlib import contextmanager

import comfy.context_windows
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import convert_cond

KEY = "guest"


def rel(a: torch.Tensor, b: torch.Tensor) -> float:
    """L2 distance over the L2 norm of the second."""
    return float((a.float() - b.float()).norm() / b.float().norm())


# ---------------------------------------------------------------- the batch of one UNet call


def tiles(model, size=8, overlap=4, per_call=4):
    """Cut the latent into tiles, several per UNet call, tile after tile (TiledDiffusion's three methods).

    The host's batch holds chunk after chunk (negative images, positive images). A call with t tiles holds
    t x that whole batch: [tile 0: negative, positive | tile 1: negative, positive | ...], and `cond_or_uncond` and
    `uuids` still have one entry per chunk. Sits in the one `model_function_wrapper` slot: the last of its kind wins.

    size, overlap in latent pixels; per_call: tiles in one call.
    Invariant: per_call changes nothing (compare per_call=1 with any other; the tiles themselves change the image).
    With overlap 0, a region mask that is black over a whole tile leaves that tile as it is without the patch.
    """

    def wrapper(apply_model, call):
        x, t, c = call["input"], call["timestep"], call["c"]
        step = size - overlap
        boxes = [(y, i) for y in _starts(x.shape[-2], size, step) for i in _starts(x.shape[-1], size, step)]
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for first in range(0, len(boxes), per_call):
            some = boxes[first : first + per_call]
            cut = torch.cat([x[..., y : y + size, i : i + size] for y, i in some])
            parts = {name: _for_tiles(part, x, some, size) for name, part in c.items()}
            out = apply_model(cut, t.repeat(len(some)), **parts)
            for (y, i), part in zip(some, out.chunk(len(some))):
                total[..., y : y + size, i : i + size] += part
                count[..., y : y + size, i : i + size] += 1
        return total / count

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def couple(model, regions=2, masks=None, prompts=None, marker=True):
    """Regional prompts: the conditional rows become `regions` times as many inside cross-attention, and are blended.

    An attn2_patch takes each chunk whose entry in `cond_or_uncond` is not 1 and repeats it region after region
    ([region 0: images | region 1: images | ...]) in queries, keys and values; an attn2_output_patch weighs the
    regions by their masks and brings the rows back. What sits in the attn2 slot between the two therefore sees more
    rows than chunks x images. `cond_or_uncond` is unchanged.

    masks:   [regions, H, W], made to sum to 1; None: equal shares
    prompts: per region text tokens [1, m, d] or None for the prompt that is there
    marker:  True: `extra_options["cond_or_uncond_couple"]` lists the kind of every run of images, e.g. [1, 0, 0]
             (ppm); False: nothing tells (cgem156)
    Invariant: with prompts=None the image stays the same, for any regions, masks and marker.
    """
    prompts = list(prompts or [None] * regions)
    shares = torch.ones(regions, 8, 8) if masks is None else masks.float()
    shares = (shares / shares.sum(dim=0)).unsqueeze(1)

    def widen(q, k, v, extra):
        kinds = extra["cond_or_uncond"]
        parts, couple_kinds = [], []
        for kind, *rows in zip(kinds, q.chunk(len(kinds)), k.chunk(len(kinds)), v.chunk(len(kinds))):
            copies = prompts if kind != 1 else [None]
            couple_kinds += [kind] * len(copies)
            for text in copies:
                parts.append(rows if text is None else [rows[0], *(_as_rows(text, part) for part in rows[1:])])
        if marker:
            extra["cond_or_uncond_couple"] = couple_kinds
        extra["guest_couple"] = couple_kinds
        return tuple(torch.cat(part) for part in zip(*parts))

    def narrow(out, extra):
        kinds = extra["guest_couple"]
        height, width = extra["activations_shape"][-2:]
        weights = torch.nn.functional.interpolate(shares, size=(height, width), mode="area").flatten(1)
        result, runs = [], list(out.chunk(len(kinds)))
        for kind in extra["cond_or_uncond"]:
            if kind == 1:
                result.append(runs.pop(0))
                continue
            blend = [runs.pop(0) * weight.to(out)[None, :, None] for weight in weights]
            result.append(torch.stack(blend).sum(dim=0))
        return torch.cat(result)

    model = model.clone()
    model.set_model_attn2_patch(widen)
    model.set_model_attn2_output_patch(narrow)
    return model


def windows(model, length=4, stride=1):
    """Run the images of a batch in windows, as AnimateDiff-Evolved does (without a motion module).

    A CALC_COND_BATCH wrapper cuts latents, noise levels and conditions to `length` images per call and writes
    `transformer_options["ad_params"]` = {"full_length", "context_length", "sub_idxs"}: sub_idxs are the numbers of the
    images in the call (None outside a window). stride: 1 deals the images out as they come, 2 the even ones first.

    Invariant: the images do not know of each other, so the result is that without windows, whatever the length and
    the stride, also with one mask per image. Infinite-ID with its own trajectory may refuse it in words.
    """

    def wrapper(executor, model, conds, x, timestep, model_options):
        images = x.shape[0]
        dealt = sorted(range(images), key=lambda image: (image % stride, image))
        results = [torch.zeros_like(x) for _ in conds]
        for first in range(0, images, length):
            indices = dealt[first : first + length]
            about = {"full_length": images, "context_length": len(indices), "sub_idxs": indices}
            parts = [cond and [_window_of(entry, indices, images) for entry in cond] for cond in conds]
            options = _with(model_options, ad_params=about)
            outputs = executor(model, parts, x[indices], timestep[indices], options)
            for result, output in zip(results, outputs):
                result[indices] = output
        return results

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, wrapper)
    return model


def host_windows(model, length=4, overlap=0, anchored=False, dim=0):
    """The host's own context windows over the batch, as ContextWindowsManual sets them (anchored: causal_window_fix).

    They lie outside the CALC_COND_BATCH wrappers, whose x then holds the window only, and leave
    `transformer_options["context_window"]` (index_list, dim, total_frames, causal_anchor_index) behind.
    Invariant: as of `windows`.
    """
    model = model.clone()
    model.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("flat"),
        context_length=length,
        context_overlap=overlap,
        context_stride=1,
        closed_loop=False,
        dim=dim,
        causal_window_fix=anchored,
    )
    comfy.context_windows.create_prepare_sampling_wrapper(model)
    return model


# ---------------------------------------------------------------- who is asked, and when


def turned(model):
    """Ask for the conditions in the order negative, positive (DualCFGGuider): index 0 is then the negative.

    Invariant: the image stays the same.
    """

    def ask(args):
        positive, negative = args["conds"]
        options = args["model_options"]
        out = comfy.samplers.calc_cond_batch(args["model"], [negative, positive], args["input"], args["sigma"], options)
        return [out[1], out[0]]

    return _asking(model, ask)


def two_calls(model):
    """Ask for each condition in a call of its own, index 0 both times (DualModelGuider).

    Invariant: the image stays the same.
    """

    def ask(args):
        options = args["model_options"]
        return [
            torch.zeros_like(args["input"])
            if cond is None
            else comfy.samplers.calc_cond_batch(args["model"], [cond], args["input"], args["sigma"], options)[0]
            for cond in args["conds"]
        ]

    return _asking(model, ask)


def asked_again(model, what="uncond", log=None, prompt=None):
    """Ask for one condition more after guidance and throw the answer away (SAG: "uncond"; PAG: "cond").

    what:    "uncond" or "cond": a list of the guider; "copy": copies of the negative's entries (same uuids, other
             objects); "stranger": a condition made when the node ran, unknown to the guider (PerpNeg, deprecated)
    prompt:  the conditioning of the stranger, which plays the negative's part
    log:     a list that takes, per step, the largest difference between this answer and the one of the same condition
             in the common call; for a stranger with the negative's prompt, too

    Invariants: the image stays the same; every number in `log` stays at rounding (1e-5 of the values).
    """
    stranger = None if prompt is None else convert_cond(prompt)

    def after(args):
        model, options = args["model"], args["model_options"]
        known = args["cond"] if what == "cond" else args["uncond"]
        if known is None:
            return args["denoised"]
        asked = [entry.copy() for entry in known] if what == "copy" else known
        if what == "stranger":
            asked = comfy.samplers.encode_model_conds(
                model.extra_conds, list(stranger), args["input"], args["input"].device, "negative"
            )
        (again,) = comfy.samplers.calc_cond_batch(model, [asked], args["input"], args["sigma"], options)
        if log is not None:
            log.append(float((again - args["cond_denoised" if what == "cond" else "uncond_denoised"]).abs().max()))
        return args["denoised"]

    model = model.clone()
    model.set_model_sampler_post_cfg_function(after, disable_cfg1_optimization=True)
    return model


class TurnedGuider(comfy.samplers.CFGGuider):
    """A guider that asks [negative, middle, positive] in one call, with middle = positive and full weight on it.

    set_conds(positive, negative), set_cfg(cfg), then as CFGGuider. Invariant: the latents of CFGGuider with the same
    conditions, cfg and seed (both positive conditions see the face, the negative does not).
    """

    def set_conds(self, positive, negative):
        self.inner_set_conds({"positive": positive, "middle": positive, "negative": negative})

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006, as the host declares it
        order = [self.conds["negative"], self.conds["middle"], self.conds["positive"]]
        negative, middle, positive = comfy.samplers.calc_cond_batch(self.inner_model, order, x, timestep, model_options)
        return negative + (middle - negative) * self.cfg + (positive - middle)


def later_sampling(model, kind="edm"):
    """A ModelSampling node: "edm" (continuous, sigmas 0.002 to 120) or "shifted" (another schedule of betas).

    Invariant: connected after the patches it gives the image that it gives before them, also where start and end
    percents differ from 0 and 1 (sample with 20 steps and 0.2 to 0.6).
    """
    old = model.get_model_object("model_sampling")
    if kind == "edm":
        bases = (comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EPS)
        new = type("Sampling", bases, {})(model.model.model_config)
        new.set_parameters(0.002, 120.0, 1.0)
    else:
        new = type("Sampling", (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS), {})(
            model.model.model_config
        )
        new.set_sigmas(old.sigmas.float().clone() * torch.linspace(0.7, 3.0, len(old.sigmas)))
    model = model.clone()
    model.add_object_patch("model_sampling", new)
    return model


# ---------------------------------------------------------------- calls and blocks that do not happen


class Replay:
    """What a cache remembers: the first sampling fills it, later ones read it (same seed, same steps)."""

    def __init__(self):
        self.store, self.position, self.runs, self.skips = {}, 0, 0, 0

    def rewind(self):
        """Call between two samplings."""
        self.position = 0


def step_cache(model, replay, skip=lambda call: call % 2 == 1):
    """Answer some UNet calls without running the UNet (EasyCache: a DIFFUSION_MODEL wrapper, inside APPLY_MODEL).

    The first sampling runs everything and remembers it; after `replay.rewind()` the second one answers the calls for
    which `skip(number)` from memory. `replay.skips` counts them.
    Invariant: the second sampling gives the first one's image bit for bit, and no error.
    """

    def wrapper(executor, *args, **kwargs):
        call = replay.position
        replay.position += 1
        if call in replay.store and skip(call):
            replay.skips += 1
            return replay.store[call].clone()
        replay.runs += 1
        replay.store[call] = executor(*args, **kwargs).clone()
        return replay.store[call].clone()

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)
    return model


def block_cache(model, replay, skip=lambda call: call % 2 == 1, kept=1):
    """Skip some blocks of some UNet calls: all SpatialTransformers but the first `kept` (FBCache keeps 1 of 16).

    As `step_cache`, but below the UNet: the others' outputs come from memory. kept=5 resembles DeepCache at depth 3.
    Invariant: the second sampling gives the first one's image bit for bit. The image is the adapter's own, so an
    error is wrong; one warning is fine.
    """
    blocks = [m for m in model.get_model_object("diffusion_model").modules() if isinstance(m, SpatialTransformer)]

    def wrapper(executor, *args, **kwargs):
        call = replay.position
        replay.position += 1
        skipping = call in replay.store and skip(call)
        replay.skips += skipping
        replay.runs += not skipping
        memory = replay.store.setdefault(call, {})

        def recorded(number, forward):
            def run(*inputs, **options):
                if skipping and number >= kept:
                    return memory[number].clone()
                memory[number] = forward(*inputs, **options).clone()
                return memory[number].clone()

            return run

        with _replaced({block: recorded(n, block.forward) for n, block in enumerate(blocks)}):
            return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)
    return model


def bypass(model):
    """Call the UNet round the host's APPLY_MODEL and DIFFUSION_MODEL wrappers (DeepCache nodes for SD and SDXL).

    A `model_function_wrapper` that never calls the function it is given: it scales the input, runs the UNet's blocks
    with the patches in `transformer_options` and scales back. Nothing of a patch that lives in an APPLY_MODEL or
    DIFFUSION_MODEL wrapper happens.
    Invariant: the image stays the same, also with start and end percents.
    """

    def wrapper(apply_model, call):
        x, t, c = call["input"], call["timestep"], dict(call["c"])
        base = apply_model.__self__
        sampling, dtype = base.model_sampling, base.get_dtype_inference()
        inputs = sampling.calculate_input(t, x)
        if c.get("c_concat") is not None:
            inputs = torch.cat((inputs, c["c_concat"]), dim=1)
        options, extras = c["transformer_options"], {"y": c["y"].to(dtype)} if "y" in c else {}
        context = c["c_crossattn"].to(dtype)
        steps = sampling.timestep(t).float()
        output = base.diffusion_model._forward(
            inputs.to(dtype), steps, context=context, transformer_options=options, **extras
        )
        return sampling.calculate_denoised(t, output.float(), x)

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


# ---------------------------------------------------------------- other tenants of the attention


class Tenant:
    """What packs of the IPAdapter family put into an attn2 replacement: later ones call `add` on what they find."""

    def __init__(self, callback, **settings):
        self.callbacks = [(callback, settings)]

    def add(self, callback, **settings):
        self.callbacks.append((callback, settings))
        for name, value in settings.items():
            setattr(self, name, value)

    def __call__(self, q, k, v, extra):
        out = optimized_attention(q, k, v, extra["n_heads"])
        sigma = float(extra["sigmas"][0]) if "sigmas" in extra else 1e9
        for callback, settings in self.callbacks:
            if settings["sigma_end"] <= sigma <= settings["sigma_start"]:
                out = out + callback(out, q, k, v, extra, **settings)
        return out


def attn2_guest(model, weight=1.0, seed=0, log=None, sdxl=None):
    """A face of another pack in attn2: takes the key, or calls `add` on whoever is there.

    It adds attention to 4 drawn keys and values for the rows of kind 0 and to zeros for the others, chunk after chunk,
    as that family does. Slots are keyed (block, number) in SD1.5 and (block, number, index) in SDXL; the family writes
    ("middle", 1), which the host never asks, so the middle block stays without.

    weight:  0: it is called and adds nothing;  log: takes (place, rows of q, rows of k) per call
    Invariants: weight 0 leaves the image as it is without the guest; before and after ours give the same image;
    upstream models stay as they were when it is connected again and again. With two streams in the batch (Infinite-ID)
    the text rows stay stock.
    """
    unet = model.get_model_object("diffusion_model")
    paths = [name.split(".") for name, module in unet.named_modules() if name.endswith("attn2")]
    sdxl = any(path[-2] != "0" for path in paths) if sdxl is None else sdxl

    def callback(out, q, k, v, extra, sigma_start, sigma_end, **_):
        if log is not None:
            log.append((*extra["block"], q.shape[0], k.shape[0]))
        if weight == 0:
            return torch.zeros_like(out)
        kinds, width = extra["cond_or_uncond"], q.shape[-1]
        draw = torch.Generator().manual_seed(seed + width)
        keys, values = (torch.randn(1, 4, width, generator=draw).to(q) for _ in range(2))
        per = q.shape[0] // len(kinds)
        faces = ((keys, values), (keys * 0, values * 0))
        keys, values = (torch.cat([faces[min(kind, 1)][n].repeat(per, 1, 1) for kind in kinds]) for n in range(2))
        return weight * optimized_attention(q, keys, values, extra["n_heads"])

    model = model.clone()
    options = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
    options["patches_replace"] = replaced = options.get("patches_replace", {}).copy()
    replaced["attn2"] = taken = replaced.get("attn2", {}).copy()
    settings = {"sigma_start": 1e9, "sigma_end": 0.0}
    for path in paths:
        if path[0] == "middle_block":
            key = ("middle", 1)
        else:
            key = ({"input_blocks": "input", "output_blocks": "output"}[path[0]], int(path[1]))
        key += (int(path[-2]),) if sdxl else ()
        if key in taken:
            taken[key].add(callback, **settings)
        else:
            taken[key] = Tenant(callback, **settings)
    return model


def reference(model, missing=("attn_precision",), one_row=False, half=True):
    """A reference image inside self-attention (Advanced-ControlNet's Reference), with its influence set to nothing.

    Before every UNet call the UNet runs once on another latent with the same options; in the real call every attn1 slot
    is called a second time with the rows of kind 1 alone, `cond_or_uncond` unchanged; and patches get extra_options
    without the keys in `missing` (that pack runs its own copy of the host's block, which sets no `attn_precision`).

    one_row: the pass before has one row in all, fewer than there are chunks;  half: the second call of the slot
    Invariant: the image is the one without this guest. Infinite-ID may refuse `one_row` and `half` in words.
    """

    def wrapper(executor, x, t, context, y, control, options, *args, **kwargs):
        stripped = dict(options)
        for name in ("patches", "patches_replace"):
            stripped[name] = _strip(options.get(name), missing, False)
        rows = slice(0, 1) if one_row else slice(None)
        other = None if y is None else y[rows]
        executor(x[rows].flip(-1), t[rows], context[rows], other, None, dict(stripped), *args, **kwargs)
        stripped["patches_replace"] = _strip(options.get("patches_replace"), missing, half)
        return executor(x, t, context, y, control, stripped, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)
    return model


def uneven_rows(model, extra_rows=1):
    """More rows of keys than of queries in cross-attention (KSamplerWithNAG), with guidance of weight nothing.

    The text gets `extra_rows` rows more at its end (a negative prompt of its own), and every attn2 module knows to let
    q attend to the first rows. What sits in an attn2 replacement is called with these unequal rows instead.
    Invariant: the image stays the same (the first q.shape[0] rows of k and v belong to q), or an error in words.
    """
    unet = model.get_model_object("diffusion_model")
    modules = [module for name, module in unet.named_modules() if name.endswith("attn2")]

    def first_rows(forward):
        def run(x, context=None, value=None, **options):
            cut = [part if part is None else part[: x.shape[0]] for part in (context, value)]
            return forward(x, context=cut[0], value=cut[1], **options)

        return run

    def wrapper(executor, x, t, context, *args, **kwargs):
        longer = torch.cat((context, torch.zeros_like(context[:extra_rows])))
        with _replaced({module: first_rows(module.forward) for module in modules}):
            return executor(x, t, longer, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)
    return model


def query_tiles(model, pieces=4):
    """Queries cut into runs of tokens as further rows of self-attention; keys and values stay whole (as HyperTile).

    q: [rows, n, d] -> [rows * pieces, n / pieces, d]. The host's attention views k and v in q's row count, so piece i
    sees the i-th run of the keys: that is a change of the image, which every stream of the batch must undergo alike.
    Invariant: two equal streams (Infinite-ID without identity) stay equal to each other and to the stock image with
    this guest. Also with the host's HyperTile (its pieces are drawn at random from swap_size 3 on).
    """

    def cut(q, k, v, extra):
        rows, n, d = q.shape
        return (q.reshape(rows * pieces, n // pieces, d) if n % pieces == 0 else q), k, v

    def join(out, extra):
        rows = extra["original_shape"][0]
        return out.reshape(rows, -1, out.shape[-1])

    model = model.clone()
    model.set_model_attn1_patch(cut)
    model.set_model_attn1_output_patch(join)
    return model


def crop(samples: torch.Tensor, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    """What face detailers sample: the part (x0, y0, x1, y1) of the latent, blown up to size x size.

    It is sampled as a image of its own with the model of the whole one, at other proportions, often with a noise mask
    and denoise < 1. No key tells a patch that this is a part. Invariant: none; a region mask of the whole image lands
    squeezed in the crop, so the node must refuse or be told the box.
    """
    x0, y0, x1, y1 = box
    return torch.nn.functional.interpolate(samples[..., y0:y1, x0:x1], size=(size, size), mode="bilinear")


# ---------------------------------------------------------------- small parts


def _starts(length, size, step):
    return sorted({min(start, length - size) for start in range(0, length, step)}) if length > size else [0]


def _for_tiles(part, x, boxes, size):
    if not isinstance(part, torch.Tensor):
        return part
    if part.ndim == x.ndim and part.shape[-2:] == x.shape[-2:]:  # c_concat
        return torch.cat([part[..., y : y + size, i : i + size] for y, i in boxes])
    return part.repeat(len(boxes), *(1,) * (part.ndim - 1))


def _as_rows(text, like):
    text = text.to(like)
    if text.shape[1] != like.shape[1]:
        raise ValueError("give regions prompts of the length of the one that is there")
    return text.repeat(like.shape[0], 1, 1)


def _window_of(entry, indices, images):
    def cut(value):
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == images:
            return value[indices]
        if isinstance(getattr(value, "cond", None), torch.Tensor) and value.cond.shape[0] == images:
            return value._copy_with(value.cond[indices])
        if isinstance(value, dict):
            return {name: cut(part) for name, part in value.items()}
        return value

    return {name: cut(value) for name, value in entry.items()}


def _with(model_options, **entries):
    return model_options | {"transformer_options": model_options.get("transformer_options", {}) | entries}


def _asking(model, ask):
    model = model.clone()
    model.set_model_sampler_calc_cond_batch_function(ask)
    model.model_options["disable_cfg1_optimization"] = True
    return model


@contextmanager
def _replaced(forwards):
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            del module.forward


def _strip(patches, missing, half):
    """The same patches, called with extra_options that lack some keys; attn1 slots twice where `half`."""
    if patches is None:
        return {}

    def without(patch, kind):
        def call(*args):
            extra = {name: value for name, value in args[-1].items() if name not in missing}
            out = patch(*args[:-1], extra)
            kinds = extra.get("cond_or_uncond", [])
            if half and kind == "attn1" and 1 in kinds:
                per = args[0].shape[0] // len(kinds)
                rows = [n for n in range(args[0].shape[0]) if kinds[min(n // per, len(kinds) - 1)] == 1]
                out = out.clone()
                out[rows] = patch(*(part[rows] for part in args[:-1]), extra)
            return out

        return call

    if all(isinstance(value, list) for value in patches.values()):
        return {kind: [without(patch, kind) for patch in several] for kind, several in patches.items()}
    return {kind: {key: without(patch, kind) for key, patch in several.items()} for kind, several in patches.items()}
