"""Beside every node of the host's menu that takes and gives a MODEL, every guider, every conditioning.

What is tested comes from the host's registry, so that a new node of the host is in it. No expected image is needed: a
node that leaves the bare model's image alone must leave it with a face, and the order of connection must not matter.
"""

import logging

import comfy.samplers
import pytest
import torch
from likeness.attention_patches.fact import apply_fact
from likeness.attention_patches.infinite_id import apply_infinite_id
from likeness.attention_patches.ip_adapter import apply_ip_adapter
from likeness.tests.support import guests, menu, tiny, tiny_ip

import nodes

NEUTRAL, ROUNDING, ACTS = 1e-5, 1e-4, 1e-3
FAST = ("PerpNeg", "TomePatchModel", "HyperTile")
RANDOM = ("HyperTile",)  # draws its pieces anew in every call
WEIGHTS = ("model/merging", "experimental/attention_experiments")  # categories that change weights, key by key: slow
ON_SDXL = ("UNetCrossAttentionMultiply",)  # of these; merging takes ten seconds a node there
SILENT = ("ModelMergeSubtract",)  # of a model with itself is a model of zeros, in which nothing acts


class Bench:
    """A base model, the faces that it may get, and prompts."""

    def __init__(self, base):
        self.model = tiny.model() if base == "SD1.5" else tiny_ip.sdxl()
        self.adapter = tiny_ip.adapter("faceid", base)
        pooled = {"pooled_output": torch.ones(1, tiny_ip.POOLED)} if base == "SDXL" else {}
        self.prompts = [[[tiny.conditioning(seed)[0][0], pooled]] for seed in (3, 4)]
        self.fact, self.face, self.images = tiny.adapter(), tiny.face_id(), {}
        with torch.inference_mode():
            self.tokens = self.adapter.tokens(face=tiny_ip.face())

    @torch.inference_mode()
    def apply(self, patch, model, **settings):
        """A model with FACT, an image adapter, or that and Infinite-ID."""
        if patch == "FACT":
            return apply_fact(model, self.fact, self.face, **{"strength": 1.0} | settings)
        model = apply_ip_adapter(model, self.adapter, self.tokens, **settings)
        return apply_infinite_id(model) if patch == "Infinite-ID" else model

    @torch.inference_mode()
    def sample(self, model, steps=2, batch=1, prompts=None, size=128):
        latent = {"samples": torch.zeros(batch, 4, size // 8, size // 8)}
        return nodes.common_ksampler(model, 5, steps, 3.0, "euler", "normal", *(prompts or self.prompts), latent)[0][
            "samples"
        ]

    def sample_once(self, patch=None, **options):
        """The image of the base model, or of it with a face, made once for all nodes beside which it is asked for."""
        key = patch, *options.items()
        if key not in self.images:
            self.images[key] = self.sample(self.apply(patch, self.model) if patch else self.model, **options)
        return self.images[key]

    @torch.inference_mode()
    def guide(self, guider, steps=2):
        sigmas = comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", steps)
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
        return guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, seed=5)


SD15 = [("SD1.5", patch) for patch in ("FACT", "image adapter")]
EVERY = [*SD15, *(pytest.param(*case, marks=pytest.mark.slow) for case in (
    ("SD1.5", "Infinite-ID"), ("SDXL", "image adapter"), ("SDXL", "Infinite-ID"),
))]  # fmt: skip


@pytest.fixture(scope="module")
def benches():
    return {base: Bench(base) for base in ("SD1.5", "SDXL")}


def count_steps(name: str) -> int:
    """As many as show what a node does: a cache begins after some steps."""
    return 20 if "Cache" in name else 6 if menu.has_schedule(menu.load()[name]) else 2


def compare(bench, name, patches, size=128) -> dict[str, str] | None:
    """What is wrong with a face before and after a node, by patch; None where the node is not for this model."""
    options = {"steps": count_steps(name), "batch": 4 if "Windows" in name else 1, "size": size}

    def connect(model):
        with torch.inference_mode():
            return menu.call(name, model, *bench.prompts, other=bench.model)[0]

    try:
        connected = connect(bench.model)
        bare = bench.sample(connected, **options)
    except Exception as error:  # whatever it says: it says so without a face as well
        logging.info(f"{name} is not for this model: {error}")
        return None
    if not bare.isfinite().all():
        return None
    neutral = guests.rel(bare, bench.sample_once(**options)) < NEUTRAL
    found = {}
    for patch in patches:
        try:
            after = bench.sample(connect(bench.apply(patch, bench.model)), **options)
            before = bench.sample(bench.apply(patch, connected), **options)
        except Exception as error:
            if not (patch == "Infinite-ID" and not _runs_on_two(bench, connected, options)):
                found[patch] = f"{type(error).__name__}: {error}"
            continue
        # Infinite-ID mixes what a node may change that is neutral without it.
        alone = bench.sample_once(patch, **options) if neutral and patch != "Infinite-ID" else None
        if wrong := _find_fault(name, bare, after, before, alone):
            found[patch] = wrong
    return found


def _find_fault(name, bare, after, before, alone) -> str:
    if not (after.isfinite().all() and before.isfinite().all()):
        return "not finite"
    if guests.rel(after, bare) < ACTS and name not in SILENT:
        return "the face does not act"
    if guests.rel(after, before) > ROUNDING and name not in RANDOM:
        return f"the order of connection changes the image by {guests.rel(after, before):.1e}"
    if alone is not None and guests.rel(after, alone) > ROUNDING:
        return f"the node changes the image by {guests.rel(after, alone):.1e}, and without a face not at all"
    return ""


def _runs_on_two(bench, connected, options) -> bool:
    """Whether a node can do with twice as many images, as two streams are, without a face."""
    try:
        return bool(bench.sample(connected, **options | {"batch": 2 * options["batch"]}).isfinite().all())
    except Exception:
        return False


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("patch", ["FACT", "image adapter"])
def test_beside_a_model_node(benches, patch, name):
    assert compare(benches["SD1.5"], name, [patch]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("base, patches", [
    ("SD1.5", ["FACT", "image adapter", "Infinite-ID"]), ("SDXL", ["image adapter", "Infinite-ID"]),
])  # fmt: skip
def test_beside_every_model_node(benches, base, patches):
    """Those that change weights, which is the host's slowest work, stand beside one patch in turn; on SDXL few do."""
    results = {}
    for number, (name, node) in enumerate(sorted(menu.find("MODEL", "MODEL").items())):
        slow = node.CATEGORY.startswith(WEIGHTS)
        if not slow or base == "SD1.5" or name in ON_SDXL:
            results[name] = compare(benches[base], name, [patches[number % len(patches)]] if slow else patches, 64)
    ran = {name: wrong for name, wrong in results.items() if wrong is not None}
    assert {name: wrong for name, wrong in ran.items() if wrong} == {}
    assert len(ran) >= 40, ran.keys()


@pytest.mark.slow
@pytest.mark.parametrize("base, patch", EVERY)
def test_under_every_guider(benches, base, patch):
    """With one prompt for all that are positive, and one for the others, they come to the host's CFG, or to cfg 1."""
    bench = benches[base]
    positive, negative = bench.prompts
    guiders, faults = menu.find("GUIDER", "MODEL"), {}
    assert {"CFGGuider", "DualCFGGuider", "DualModelGuider", "BasicGuider", "PerpNegGuider"} <= guiders.keys()
    for name in guiders:
        bare, ours = bench.model, bench.apply(patch, bench.model)
        with torch.inference_mode():
            asked = {model: menu.call(name, model, positive, negative, other=bare)[0] for model in (bare, ours)}
        images = {model: bench.guide(guider) for model, guider in asked.items()}
        plain = {model: bench.guide(_guide_plainly(model, asked[model], positive, negative)) for model in (bare, ours)}
        if not images[ours].isfinite().all() or guests.rel(images[ours], images[bare]) < ACTS:
            faults[name] = "not finite, or without a face"
        if guests.rel(images[bare], plain[bare]) < NEUTRAL and guests.rel(images[ours], plain[ours]) > ROUNDING:
            faults[name] = f"{guests.rel(images[ours], plain[ours]):.1e} from CFG, without a face not at all"
    assert faults == {}


def _guide_plainly(model, asked, positive, negative):
    """The host's CFG at the scale of another guider between what is positive and what is not."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(getattr(asked, "cfg2", asked.cfg))
    return guider


@pytest.mark.slow
@pytest.mark.parametrize("base, patch", EVERY)
def test_with_every_conditioning(benches, base, patch):
    """A mask that is white everywhere is no mask, wherever the conditioning acts."""
    bench, faults, ran = benches[base], {}, 0
    white = torch.ones(1, 128, 128)
    for name, node in menu.find("CONDITIONING", "CONDITIONING").items():
        try:
            with torch.inference_mode():
                given = menu.call(name, None, *bench.prompts)
                prompts = [part for part, kind in zip(given, node.RETURN_TYPES) if kind == "CONDITIONING"]
                prompts = [prompts[0], prompts[1] if len(prompts) > 1 else bench.prompts[1]]
            bare = bench.sample(bench.model, prompts=prompts)
        except Exception as error:
            logging.info(f"{name} is not for this model: {error}")
            continue
        if not bare.isfinite().all():
            continue
        ran += 1
        image = bench.sample(bench.apply(patch, bench.model), prompts=prompts)
        masked = bench.sample(bench.apply(patch, bench.model, mask=white), prompts=prompts)
        if not image.isfinite().all() or guests.rel(image, bare) < ACTS or guests.rel(masked, image) > ROUNDING:
            faults[name] = f"acts {guests.rel(image, bare):.1e}, white mask {guests.rel(masked, image):.1e}"
    assert faults == {} and ran >= 12, ran
