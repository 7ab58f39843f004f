"""FaceID's LoRA on some rows of a batch: where it acts it is the LoRA in the weights, elsewhere there is none."""

from functools import partial

import comfy.controlnet
import comfy.model_management
import pytest
import torch
from comfy.cldm.cldm import ControlNet
from likeness.attention_patches.infinite_id import apply_infinite_id
from likeness.attention_patches.ip_adapter import apply_ip_adapter
from likeness.attention_patches.lora_rows import LORA_ROWS, _find_spans
from likeness.attention_patches.people import PlacedPerson, apply_people, make_masks
from likeness.faces.places import PARTS
from likeness.tests.support import guests, menu, tiny, tiny_ip
from likeness.tests.support.golden_cases import Case

import nodes

ROUNDING, ACTS = 1e-5, 1e-3
ALL, IDENTITY, WITH_NEGATIVE = LORA_ROWS
OFF = {"lora_strength": 0.0}
SMALL = {"height": 64, "width": 64, "steps": 1}


class Bench:
    """A base model and an adapter with a LoRA for it."""

    def __init__(self, base="SD1.5"):
        self.model = tiny.model() if base == "SD1.5" else tiny_ip.sdxl()
        self.adapter = tiny_ip.adapter("faceid", base, lora_rank=2)
        with torch.inference_mode():
            self.tokens = self.adapter.tokens(face=tiny_ip.face())

    @torch.inference_mode()
    def face(self, model=None, rows=ALL, **settings):
        return apply_ip_adapter(model or self.model, self.adapter, self.tokens, lora_rows=rows, **settings)


@pytest.fixture(scope="module")
def bench():
    return Bench()


@torch.inference_mode()
def predict(model, positive=None, negative=None, batch=1):
    """(positive, negative) predictions of the first step."""
    predictions, model = [], model.clone()

    def note(args):
        predictions.append((args["cond_denoised"], args["uncond_denoised"]))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(note)
    latent = {"samples": torch.zeros(batch, 4, 8, 8)}
    prompts = positive or tiny.conditioning(3), negative or tiny.conditioning(4)
    nodes.common_ksampler(model, 5, 1, 3.0, "euler", "normal", *prompts, latent)
    return predictions[0]


def assert_rows(bench, **options):
    """With IDENTITY the positive's prediction is that of the LoRA in the weights, the negative's that without it."""
    (yes, _), (no, none) = (predict(bench.face(**settings), **options) for settings in ({}, OFF))
    positive, negative = predict(bench.face(rows=IDENTITY), **options)
    assert guests.rel(positive, yes) < ROUNDING < ACTS < guests.rel(positive, no)
    assert guests.rel(negative, none) < 1e-6


def test_where_it_acts_and_where_not(bench):
    assert_rows(bench)
    base, whole = tiny.sample(bench.model, **SMALL), bench.face(rows=WITH_NEGATIVE, lora_strength=0.3)
    first = tiny.sample(whole, **SMALL)
    assert guests.rel(first, tiny.sample(bench.face(lora_strength=0.3), **SMALL)) < ROUNDING
    assert torch.equal(tiny.sample(whole, **SMALL), first) and torch.equal(tiny.sample(bench.model, **SMALL), base)
    assert not whole.patches, "nothing is in the weights"


def test_spans():
    assert _find_spans((True, False, True, True)) == [slice(0, 1), slice(2, 4)]
    assert _find_spans((False, False)) == [] and _find_spans((False, True)) == [slice(1, 2)]


def controlled(prompt):
    """A prompt with the host's ControlNet."""
    case = Case("fact_unet")
    unet = {k: v for k, v in case.json("unet_config").items() if k not in ("out_channels", "transformer_depth_output")}
    network = ControlNet(**unet, hint_channels=3, dtype=torch.float32)
    case.fill(network)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    control.set_cond_hint(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), 0.3)
    return [[prompt[0][0], {"control": control}]]


def in_area(seed, x=0, **options):
    return [[tiny.conditioning(seed)[0][0], {"area": (8, 4, 0, x), **options}]]


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {"batch": 2},
    {"positive": in_area(3) + tiny.conditioning(6)},
    {"positive": in_area(3) + in_area(6, 4), "negative": in_area(7, 2) + tiny.conditioning(4), "batch": 2},
    {"positive": tiny.conditioning(3) + tiny.conditioning(6)},
    {"positive": controlled(tiny.conditioning(3))},
])  # fmt: skip
def test_rows_of_every_layout(bench, options):
    assert_rows(bench, **options)


GUESTS = {
    "couple of two": guests.couple,
    "couple of three that does not tell": partial(guests.couple, regions=3, marker=False),
    "turned": guests.turned,
    "two calls": guests.two_calls,
    "uneven rows": guests.uneven_rows,
    "a reference that tells little": partial(guests.reference, missing=("attn_precision", "n_heads"), half=False),
    "query tiles": guests.query_tiles,
    "bypass": guests.bypass,
    "tiles": guests.tiles,
    "windows": guests.windows,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GUESTS)
def test_beside_other_packs_it_is_the_lora_in_the_weights(bench, name):
    guest, options = GUESTS[name], SMALL | {"batch": 6 if name == "windows" else 1}
    expected = tiny.sample(guest(bench.face()), **options)
    for model in (guest(bench.face(rows=WITH_NEGATIVE)), bench.face(guest(bench.model), WITH_NEGATIVE)):
        assert guests.rel(tiny.sample(model, **options), expected) < ROUNDING
    if name not in ("query tiles", "tiles"):  # which change the image
        alone = tiny.sample(bench.face(rows=IDENTITY), **options)
        assert guests.rel(tiny.sample(guest(bench.face(rows=IDENTITY)), **options), alone) < ROUNDING


def test_a_reference_is_refused_with_what_helps(bench):
    with pytest.raises(RuntimeError, match="on identity rows alone .* patches of .*guests: set lora_rows to all, or"):
        tiny.sample(guests.reference(bench.face(rows=IDENTITY)), **SMALL)
    assert tiny.sample(guests.reference(bench.face()), **SMALL).isfinite().all()  # the remedy


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "TomePatchModel", "PerpNeg", "SelfAttentionGuidance", "PerturbedAttentionGuidance", "PatchModelAddDownscale",
])  # fmt: skip
def test_beside_the_hosts_nodes_it_is_the_lora_in_the_weights(bench, name):
    """ToMe merges the tokens most alike, which rounding may turn: so it must only not see the order of nodes."""
    options = SMALL | ({"height": 128, "width": 128} if name == "SelfAttentionGuidance" else {})

    def connect(model):
        with torch.inference_mode():
            return menu.call(name, model, tiny.conditioning(3), tiny.conditioning(4), other=bench.model)[0]

    models = (connect(bench.face(rows=WITH_NEGATIVE)), bench.face(connect(bench.model), WITH_NEGATIVE))
    before, after = (tiny.sample(model, **options) for model in models)
    assert torch.equal(before, after)
    if name != "TomePatchModel":
        assert guests.rel(before, tiny.sample(connect(bench.face()), **options)) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("trajectory", ["own", "same latent"])
def test_infinite_ids_text_stream_stays_the_stock_picture(bench, trajectory):
    """And the identity stream, before the two mix, is the adapter alone."""
    never = {"start_percent": 0.1, "end_percent": 0.2, "trajectory": trajectory}  # this step does not lie there
    for rows in (IDENTITY, WITH_NEGATIVE):
        alone, apart = bench.face(rows=rows), apply_infinite_id(bench.face(rows=rows), **never)
        assert guests.rel(tiny.sample(apart, batch=2, **SMALL), tiny.sample(alone, batch=2, **SMALL)) < 2e-5
    streams = {}
    for settings in ({"rows": ALL}, {"rows": IDENTITY}, {"rows": WITH_NEGATIVE}, OFF):
        model, both = tiny.record(apply_infinite_id(bench.face(**settings), "mixed", trajectory=trajectory))
        streams[tuple(settings.values())] = tiny.sample(model, batch=2, **SMALL), both[-1]
    images = [image for image, _ in streams.values()]
    assert min(guests.rel(a, b) for i, a in enumerate(images) for b in images[:i]) > ACTS
    if trajectory == "own":
        text = {name: both[2:] for name, (_, both) in streams.items()}
        assert torch.equal(text[IDENTITY,], text[0.0,]) and torch.equal(text[WITH_NEGATIVE,], text[0.0,])
        assert guests.rel(text[ALL,], text[0.0,]) > ACTS


@pytest.mark.slow
def test_two_adapters_with_loras_of_their_own(bench):
    other = tiny_ip.adapter("faceid", lora_rank=3, seed=5)

    @torch.inference_mode()
    def both(*rows):
        settings = {"lora_rows": rows[1], "lora_strength": 0.1}
        face = bench.face(rows=rows[0], lora_strength=0.1)
        return apply_ip_adapter(face, other, other.tokens(face=tiny_ip.face()), **settings)

    expected = tiny.sample(both(ALL, ALL), **SMALL)
    for rows in ((WITH_NEGATIVE, WITH_NEGATIVE), (ALL, WITH_NEGATIVE), (WITH_NEGATIVE, ALL)):
        assert guests.rel(tiny.sample(both(*rows), **SMALL), expected) < ROUNDING
    assert len(set(both(IDENTITY, IDENTITY).model_patches_models())) == 2


@pytest.mark.slow
def test_people_in_places_have_it_once(bench):
    people = [PlacedPerson(tiny_ip.face(), box=PARTS[part]) for part in ("left half", "right half")]
    masks = make_masks(people, (64, 64), 8.0)
    with torch.inference_mode():
        models = {rows: apply_people(bench.model, bench.adapter, people, masks, lora_rows=rows) for rows in LORA_ROWS}
    images = {rows: tiny.sample(model, **SMALL) for rows, model in models.items()}
    assert guests.rel(images[WITH_NEGATIVE], images[ALL]) < ROUNDING < ACTS < guests.rel(images[IDENTITY], images[ALL])
    assert len(set(models[IDENTITY].model_patches_models())) == 1


def test_a_first_person_without_a_place_leaves_it_to_the_next(bench):
    people, masks = [PlacedPerson(tiny_ip.face())] * 3, torch.tensor([0.0, 1.0, 1.0])[:, None, None].expand(3, 8, 8)
    with torch.inference_mode():
        model = apply_people(bench.model, bench.adapter, people, masks)
    assert {len(patches) for patches in model.patches.values()} == {1}


@pytest.mark.slow
def test_sdxl():
    bench = Bench("SDXL")
    images = [tiny_ip.sample_sdxl(bench.face(rows=rows)) for rows in LORA_ROWS]
    assert guests.rel(images[2], images[0]) < ROUNDING < ACTS < guests.rel(images[1], images[0])


def test_its_weights_are_the_hosts_to_load_and_nothing_stays(bench):
    """Also left on the offload device, as on a card where nothing fits; and away with the UNet."""
    adapter = tiny_ip.adapter("faceid", lora_rank=2)
    with torch.inference_mode():
        model = apply_ip_adapter(bench.model, adapter, bench.tokens, lora_rows=WITH_NEGATIVE)
    (weights,) = set(model.model_patches_models())
    first = tiny.sample(model, **SMALL)
    assert weights in comfy.model_management.loaded_models()
    comfy.model_management.unload_all_models()
    assert comfy.model_management.loaded_models() == []
    weights.load(weights.load_device, lowvram_model_memory=1)
    assert weights.model.model_lowvram
    assert guests.rel(tiny.sample(model, **SMALL), first) < ROUNDING
    hooks = [module for module in model.model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not hooks and "attn1" not in model.model_options["transformer_options"].get("patches_replace", {})
