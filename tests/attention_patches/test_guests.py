"""Beside what other packs do to a MODEL, connected before and after ours: what may not change an image does not."""

import logging
from functools import partial

import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from likeness.attention_patches.fact import apply_fact
from likeness.attention_patches.ip_adapter import apply_ip_adapter
from likeness.tests.support import guests, tiny, tiny_ip

import nodes

ROUNDING = 1e-4
MISSING = ("attn_precision", "n_heads", "block_index", "activations_shape", "cond_or_uncond")
LEFT = torch.zeros(1, 128, 128)
LEFT[..., :64] = 1


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def patches():
    """A function MODEL -> MODEL for each patch, with settings."""
    adapter, face, image_adapter = tiny.adapter(), tiny.face_id(), tiny_ip.adapter("faceid")
    with torch.inference_mode():
        tokens = image_adapter.tokens(face=tiny_ip.face())

    @torch.inference_mode()
    def fact(model, strength=1.0, **settings):
        return apply_fact(model, adapter, face, strength, **settings)

    @torch.inference_mode()
    def image(model, **settings):
        return apply_ip_adapter(model, image_adapter, tokens, **settings)

    return {"FACT": fact, "image adapter": image}


@pytest.fixture(scope="module", params=["FACT", "image adapter"])
def ours(request, patches):
    return patches[request.param]


@pytest.fixture(scope="module")
def alone(model, ours):
    """What is sampled with our patch and no guest."""
    return tiny.sample(ours(model))


@pytest.fixture(params=["after", "before"])
def order(request):
    return request.param


def connect(guest, ours, model, order):
    return guest(ours(model)) if order == "after" else ours(guest(model))


@torch.inference_mode()
def sample_areas(model, positive, negative):
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    return nodes.common_ksampler(model, 7, 1, 3.0, "euler", "normal", positive, negative, latent)[0]["samples"]


UNCHANGING = {
    "couple of 2": guests.couple,
    "couple of 3 that does not tell": partial(guests.couple, regions=3, marker=False),
    "turned": guests.turned,
    "two calls": guests.two_calls,
    "attn2 guest that adds nothing": partial(guests.attn2_guest, weight=0.0),
    "reference": guests.reference,
    "reference that tells little": partial(guests.reference, missing=MISSING),
    "uneven rows": guests.uneven_rows,
    "bypass": guests.bypass,
}


@pytest.mark.parametrize("name", UNCHANGING)
def test_a_guest_that_changes_nothing_changes_nothing(model, ours, alone, order, name):
    graph = connect(UNCHANGING[name], ours, model, order)
    assert guests.rel(tiny.sample(graph), alone) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("name", UNCHANGING)
def test_a_guest_changes_nothing_on_sdxl(name, order):
    """Also with two transformer blocks and more in a module, whose slots other packs key in another way."""
    adapter = tiny_ip.adapter("faceid", "SDXL")
    with torch.inference_mode():
        tokens = adapter.tokens(face=tiny_ip.face())

    @torch.inference_mode()
    def ours(model):
        return apply_ip_adapter(model, adapter, tokens)

    base = tiny_ip.sdxl()
    expected, graph = tiny_ip.sample_sdxl(ours(base)), connect(UNCHANGING[name], ours, base, order)
    assert guests.rel(tiny_ip.sample_sdxl(graph), expected) < ROUNDING < guests.rel(tiny_ip.sample_sdxl(base), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["couple of 3 that does not tell", "turned", "two calls", "reference"])
def test_a_guest_and_a_batch_of_two(model, ours, order, name):
    expected, graph = tiny.sample(ours(model), batch=2), connect(UNCHANGING[name], ours, model, order)
    assert guests.rel(tiny.sample(graph, batch=2), expected) < ROUNDING


@pytest.mark.parametrize("batch", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_how_many_tiles_go_into_a_call_changes_nothing(model, ours, order, batch):
    single, several = (
        tiny.sample(connect(partial(guests.tiles, per_call=count), ours, model, order), batch=batch) for count in (1, 4)
    )
    assert guests.rel(several, single) < ROUNDING


def test_a_mask_and_tiles_are_refused_with_what_helps(model, ours):
    tiled = guests.tiles(ours(model, mask=LEFT))
    with pytest.raises(RuntimeError, match="guests shows the model a part .* 8 x 8 of 16 x 16 .* Disconnect the mask"):
        tiny.sample(tiled)
    assert tiny.sample(ours(model, mask=LEFT)).isfinite().all()  # the two remedies
    assert guests.rel(tiny.sample(guests.tiles(ours(model))), tiny.sample(guests.tiles(model))) > 1e-3


def test_a_mask_of_other_proportions_is_said_once(model, ours, caplog):
    """As a face detailer has it, which samples a crop of the image and tells nobody."""
    for height, width, warnings in ((64, 64, 0), (64, 128, 1)):
        caplog.clear()
        tiny.sample(ours(model, mask=LEFT), height, width)
        said = [record.message for record in caplog.records if "stretched over an image of other" in record.message]
        assert len(said) == warnings and all("crop the mask in the same way" in message for message in said)


def test_a_pass_of_one_row_is_refused_in_words(model, ours):
    with pytest.raises(RuntimeError, match="1 rows in a block, 1 in the UNet, .* patches of .*guests"):
        tiny.sample(guests.reference(ours(model), one_row=True))


WINDOWS = {
    "every second image": partial(guests.windows, length=2, stride=2),
    "the host's": partial(guests.host_windows, length=2),
    "the host's, anchored": partial(guests.host_windows, length=2, anchored=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_over_images_with_masks_of_their_own(model, ours, order, name):
    masks = torch.zeros(4, 128, 128)
    masks[1], masks[2, :64], masks[3, 64:] = 1, 1, 1
    ours = partial(ours, mask=masks)
    expected = tiny.sample(ours(model), batch=4, steps=1)
    graph = connect(WINDOWS[name], ours, model, order)
    assert guests.rel(tiny.sample(graph, batch=4, steps=1), expected) < ROUNDING


@pytest.mark.parametrize("what", ["uncond", "cond", "copy", "stranger"])
def test_a_condition_asked_again_gets_the_same_answer(model, ours, what):
    """As SelfAttentionGuidance, PerturbedAttentionGuidance and PerpNeg ask."""
    log = []
    tiny.sample(guests.asked_again(ours(model), what, log, tiny.conditioning(4)))
    assert len(log) == 2 and max(log) < 1e-3


def with_area(seed, *area):
    return [[tiny.conditioning(seed)[0][0], {"area": area, "strength": 1.0, "set_area_to_bounds": False}]]


def with_bounds(seed, mask):
    return [[tiny.conditioning(seed)[0][0], {"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": True}]]


@pytest.mark.parametrize("prompt", [
    lambda seed: with_area(seed, 16, 8, 0, 0),
    lambda seed: with_area(seed, "percentage", 1.0, 0.5, 0.0, 0.0),
    lambda seed: with_bounds(seed, LEFT),
])  # fmt: skip
def test_a_mask_lies_where_it_belongs_under_a_prompt_for_an_area(model, ours, prompt):
    """The UNet sees the left half: a mask of it is no mask, and one of the other half is no face."""
    prompts = prompt(3), prompt(4)
    face, bare = sample_areas(ours(model), *prompts), sample_areas(model, *prompts)
    assert guests.rel(sample_areas(ours(model, mask=LEFT), *prompts), face) < ROUNDING
    assert guests.rel(sample_areas(ours(model, mask=1 - LEFT), *prompts), bare) < ROUNDING
    assert guests.rel(face, bare) > 1e-2


def test_areas_of_one_size_in_one_call_have_their_own_part_of_the_mask(model, ours):
    halves = with_area(3, 16, 8, 0, 0) + with_area(8, 16, 8, 0, 8)
    negative = with_area(4, 16, 8, 0, 0) + with_area(9, 16, 8, 0, 8)
    masked = ours(model, mask=LEFT)
    whole, left = sample_areas(ours(model), halves, negative), sample_areas(masked, halves, negative)
    bare = sample_areas(model, halves, negative)
    assert guests.rel(left[..., :8], whole[..., :8]) < ROUNDING and guests.rel(left[..., 8:], bare[..., 8:]) < ROUNDING


def test_areas_do_not_turn_the_roles(model, ours):
    """Behind the negative stands a copy of the area's entry, under the positive's uuid."""
    prompts = with_area(3, 16, 8, 0, 0) + tiny.conditioning(3), tiny.conditioning(4)
    expected = sample_areas(ours(model), *prompts)
    assert guests.rel(sample_areas(guests.turned(ours(model)), *prompts), expected) < ROUNDING


@pytest.mark.parametrize("kind", [pytest.param("edm", marks=pytest.mark.slow), "shifted"])
def test_percents_are_those_of_the_model_that_is_sampled(model, ours, kind):
    ours, later = partial(ours, start_percent=0.2, end_percent=0.6), partial(guests.later_sampling, kind=kind)
    after, before = (tiny.sample(connect(later, ours, model, order), steps=6) for order in ("after", "before"))
    assert torch.equal(after, before) and guests.rel(after, tiny.sample(later(model), steps=6)) > ROUNDING


def test_a_schedule_holds_where_the_hosts_wrappers_are_bypassed(model, ours, order):
    ours = partial(ours, start_percent=0.3, end_percent=0.7)
    expected = tiny.sample(ours(model), steps=6)
    bypassed = tiny.sample(connect(guests.bypass, ours, model, order), steps=6)
    assert torch.equal(bypassed, expected) and guests.rel(bypassed, tiny.sample(model, steps=6)) > 1e-3


CACHES = {
    "steps": guests.step_cache,
    "all blocks but one": partial(guests.block_cache, kept=1),
    "all blocks but five": partial(guests.block_cache, kept=5),
}


@pytest.mark.parametrize("name", ["steps", *(pytest.param(name, marks=pytest.mark.slow) for name in list(CACHES)[1:])])
def test_what_a_cache_answers_is_no_fault_and_is_said_once(model, ours, order, name, caplog):
    replay = guests.Replay()
    graph = connect(partial(CACHES[name], replay=replay), ours, model, order)
    with caplog.at_level(logging.INFO):
        first = tiny.sample(graph, steps=4)
        assert "answered without" not in caplog.text
        replay.rewind()
        assert torch.equal(tiny.sample(graph, steps=4), first) and replay.skips == 2
    assert caplog.text.count("2 of 4 calls of the model were answered without some of its 16 blocks") == 1


@pytest.mark.slow
@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
def test_the_hosts_caches_at_their_defaults(model, ours, order, node):
    """Also with a face that stops early: what the cache remembers then has none."""

    def cache(model):
        return node.execute(model, reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False).args[0]

    assert (
        guests.rel(tiny.sample(connect(cache, ours, model, order), steps=20), tiny.sample(ours(model), steps=20)) < 0.5
    )
    early = partial(ours, end_percent=0.3)
    assert tiny.sample(connect(cache, early, model, order), steps=20).isfinite().all()


def test_a_node_that_never_runs_the_unet_is_named(model, ours):
    lost = ours(model)
    lost.set_model_unet_function_wrapper(lambda apply_model, call: 0.5 * call["input"])
    expected = (
        "the model ran 2 times without its 16 blocks.* tests.attention_patches.test_guests runs the model in a way"
    )
    with pytest.raises(RuntimeError, match=expected):
        tiny.sample(lost)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_another_face_adds_up_with_ours_in_both_orders(model, patches, weight):
    theirs = partial(guests.attn2_guest, weight=weight)
    for ours in patches.values():
        after, before = (tiny.sample(connect(theirs, ours, model, order)) for order in ("after", "before"))
        assert guests.rel(after, before) < ROUNDING
