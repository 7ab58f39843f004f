"""FACT inside the host's sampler: what must equal what, bit for bit or to rounding."""

import shutil

import comfy.model_management
import comfy.samplers
import pytest
import torch
from likeness.attention_patches.fact import apply_fact
from likeness.tests.support import tiny
from torch.utils.flop_counter import FlopCounterMode

import nodes

ROUNDING = 1e-5


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def adapter():
    return tiny.adapter()


@pytest.fixture(scope="module")
def face():
    return tiny.face_id()


@pytest.fixture(scope="module")
def base(model):
    return tiny.sample(model)


@pytest.fixture(scope="module")
def with_face(model, adapter, face):
    return tiny.sample(apply_fact(model, adapter, face))


@torch.inference_mode()
def difference(a, b) -> float:
    """Distance of two latents, relative to the second."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def patched(model, adapter, face, **settings):
    with torch.inference_mode():
        return apply_fact(model, adapter, face, **settings)


def patches_of(model):
    """What the host calls for all FACT of a model."""
    return model.model_options["transformer_options"]["patches"]["middle_patch"][0]


def test_the_face_changes_the_picture(base, with_face):
    assert difference(with_face, base) > 0.05


@pytest.mark.parametrize(
    "settings",
    [
        {"strength": 0.0},
        {"mask": torch.zeros(1, 128, 128)},
        {"start_percent": 0.5, "end_percent": 0.5},
        {"start_percent": 0.8, "end_percent": 0.2},
        {"start_percent": 0.0, "end_percent": 0.0},
        {"start_percent": 1.0, "end_percent": 1.0},
    ],
)
def test_off_is_the_base_model_bit_for_bit(model, adapter, face, base, settings):
    assert torch.equal(tiny.sample(patched(model, adapter, face, **settings)), base)


def test_a_schedule_that_no_step_meets_is_the_base_model_bit_for_bit(model, adapter, face, base):
    """Two steps, at the start and near the middle: nothing falls between 10 and 20 per cent."""
    narrow = patched(model, adapter, face, start_percent=0.1, end_percent=0.2)
    assert torch.equal(tiny.sample(narrow), base)


def test_a_schedule_switches_at_its_ends(model, adapter, face, base, with_face):
    early = tiny.sample(patched(model, adapter, face, end_percent=0.2))
    late = tiny.sample(patched(model, adapter, face, start_percent=0.2))
    assert difference(early, base) > 1e-3 and difference(late, base) > 1e-3
    assert difference(early, with_face) > 1e-3 and difference(late, with_face) > 1e-3
    whole = tiny.sample(patched(model, adapter, face, start_percent=0.0, end_percent=1.0))
    assert torch.equal(whole, with_face)


def test_all_ones_mask_equals_no_mask(model, adapter, face, with_face):
    assert torch.equal(tiny.sample(patched(model, adapter, face, mask=torch.ones(1, 128, 128))), with_face)


def test_half_mask_acts_on_its_half(model, adapter, face):
    """Read at the first site, before convolutions spread it: the left half of the tokens moves, the right stays."""
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1
    patch = patches_of(patched(model, adapter, face, mask=mask))
    x = torch.randn(2, 256, 32, generator=torch.Generator().manual_seed(0))
    options = {
        "block": ("input", 1),
        "cond_or_uncond": [1, 0],
        "activations_shape": [2, 32, 16, 16],
        "n_heads": 8,
        "attn_precision": None,
    }
    with torch.inference_mode():
        moved = (patch(x, options) - x).unflatten(1, (16, 16)).abs().amax((0, 1, 3))
    patch.cleanup()
    assert (moved[:8] > 0).all() and (moved[8:] == 0).all()


def test_people_in_places_of_their_own_cost_what_one_costs(model, adapter):
    """Each is worked out in its place alone, where it is what it is without a mask; what all look at, once."""
    faces, places = [tiny.face_id(seed=seed) for seed in range(4)], torch.zeros(4, 1, 128, 128)
    four = model
    for number, (one, place) in enumerate(zip(faces, places)):
        place[..., 32 * number : 32 * (number + 1)] = 1
        four = patched(four, adapter, one, mask=place)
    x = torch.randn(2, 256, 32, generator=torch.Generator().manual_seed(0))
    options = {
        "block": ("input", 1), "cond_or_uncond": [1, 0], "activations_shape": [2, 32, 16, 16], "attn_precision": None,
    }  # fmt: skip

    @torch.inference_mode()
    def call(patch):
        patch(x, dict(options))  # what is made once
        with FlopCounterMode(display=False) as counter:
            result = patch(x, dict(options))
        patch.cleanup()
        return result.unflatten(1, (16, 16)), counter.get_total_flops()

    together, flops = call(patches_of(four))
    for number, one in enumerate(faces):
        alone, flops_of_one = call(patches_of(patched(model, adapter, one)))
        columns = slice(4 * number, 4 * (number + 1))
        assert difference(together[:, :, columns], alone[:, :, columns]) < ROUNDING
    assert flops_of_one <= flops < 1.1 * flops_of_one


def test_a_place_that_an_area_does_not_show(model, adapter, face, base):
    left = torch.zeros(1, 128, 128)
    left[..., :64] = 1
    prompt = [[tiny.conditioning(3)[0][0], {"area": (16, 8, 0, 8)}]]

    @torch.inference_mode()
    def sample(model):
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        return nodes.common_ksampler(model, 7, 1, 1.0, "euler", "normal", prompt, prompt, latent)[0]["samples"]

    assert torch.equal(sample(patched(model, adapter, face, mask=left)), sample(model))


def test_mask_of_any_strength_scales_the_gates(model, adapter, face, with_face):
    """A mask of one half is half the strength, everywhere."""
    grey = tiny.sample(patched(model, adapter, face, strength=1.0, mask=torch.full((1, 128, 128), 0.5)))
    assert difference(grey, with_face) < ROUNDING


@pytest.mark.parametrize("cfg_face", [True, False])
def test_cond_and_uncond_together_or_apart(monkeypatch, model, adapter, face, cfg_face):
    face_model = patched(model, adapter, face, cfg_face=cfg_face)
    together = tiny.sample(face_model)
    monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)
    assert difference(tiny.sample(face_model), together) < ROUNDING


def test_cfg_face_shows_the_uncond_branch_an_empty_face(model, adapter, face, with_face):
    assert difference(tiny.sample(patched(model, adapter, face, cfg_face=False)), with_face) > 1e-3


def test_without_cfg_only_the_face_tokens_count(model, adapter, face):
    """At cfg 1 the host runs the conditional branch alone."""
    pictures = [tiny.sample(patched(model, adapter, face, cfg_face=on), cfg=1.0) for on in (True, False)]
    assert torch.equal(*pictures)


def test_order_of_references_does_not_matter(model, adapter):
    several = tiny.face_id(photos=3)
    turned = tiny.face_id(photos=3)
    object.__setattr__(turned, "features", several.features[[2, 0, 1]])
    pictures = [tiny.sample(patched(model, adapter, identity)) for identity in (several, turned)]
    assert difference(*pictures) < ROUNDING
    assert difference(pictures[0], tiny.sample(patched(model, adapter, tiny.face_id(photos=1)))) > 1e-3


def test_twice_the_same_reference_is_once_the_reference(model, adapter, face):
    """Duplicated keys: rows of the softmax keep their proportions only among the face rows, so the pictures differ
    a little; the tokens themselves are exactly repeated."""
    double = tiny.face_id()
    object.__setattr__(double, "features", face.features.repeat(2, 1, 1))
    with torch.inference_mode():
        once, twice = adapter.face_tokens(face.features), adapter.face_tokens(double.features)
    assert difference(twice, torch.cat((once, once), dim=1)) < ROUNDING


def test_sampled_twice_is_bit_equal(model, adapter, face, with_face):
    face_model = patched(model, adapter, face)
    assert torch.equal(tiny.sample(face_model), with_face)
    assert torch.equal(tiny.sample(face_model), with_face)


def test_later_applies_leave_earlier_models_alone(model, adapter, face, base, with_face):
    """A slider moved and moved back: the cached upstream model is the one it was."""
    half = patched(model, adapter, face)
    stacked = patched(half, adapter, tiny.face_id(seed=9), strength=1.3)
    assert difference(tiny.sample(stacked), with_face) > 1e-3
    assert torch.equal(tiny.sample(half), with_face)
    assert torch.equal(tiny.sample(model), base)


def test_several_read_the_same_input_and_add_up(model, adapter, face, with_face):
    """In any order; a face that is off in this part of the sampling leaves the other alone, bit for bit."""
    other = tiny.face_id(seed=9)
    one, two = (tiny.sample(patched(patched(model, adapter, a), adapter, b)) for a, b in ((face, other), (other, face)))
    assert difference(one, two) < ROUNDING and difference(one, with_face) > 1e-2
    never = patched(patched(model, adapter, face), adapter, other, start_percent=0.1, end_percent=0.2)
    assert difference(tiny.sample(never), with_face) < ROUNDING


@pytest.mark.parametrize("ours_first", [True, False])
def test_other_packs_patches_keep_working(model, adapter, face, with_face, ours_first):
    """Another middle_patch, an attn2 patch and an attn2 replace, put on before or after ours."""
    seen = set()

    def middle(x, extra_options):
        seen.add(("middle_patch", extra_options["block"]))
        return x

    def attn2(n, context, value, extra_options):
        seen.add(("attn2_patch", extra_options["block"]))
        return n, context, value

    def replace(q, k, v, extra_options):
        seen.add(("attn2", extra_options["block"]))
        return comfy.ldm.modules.attention.optimized_attention(q, k, v, extra_options["n_heads"])

    def theirs(m):
        m = m.clone()
        m.set_model_patch(middle, "middle_patch")
        m.set_model_attn2_patch(attn2)
        m.set_model_attn2_replace(replace, "middle", 0)
        return m

    both = theirs(patched(model, adapter, face)) if ours_first else patched(theirs(model), adapter, face)
    assert difference(tiny.sample(both), with_face) < ROUNDING
    assert len([place for slot, place in seen if slot == "middle_patch"]) == 16
    assert len([place for slot, place in seen if slot == "attn2_patch"]) == 16
    assert ("attn2", ("middle", 0)) in seen


def only_input_blocks(x, extra_options):
    """Another pack's patch, which throws away what it finds and acts in some blocks."""
    return x


def test_a_node_that_takes_the_patch_out_is_named(model, adapter, face, with_face):
    lost = patched(model, adapter, face)
    patches = lost.model_options["transformer_options"]["patches"]["middle_patch"]
    patches[:] = [only_input_blocks]
    expected = r"Apply FACT: .*test_fact_in_host has replaced it at the block \('input', 1\).* before Apply FACT"
    with pytest.raises(RuntimeError, match=expected):
        tiny.sample(lost)
    patches.clear()
    with pytest.raises(RuntimeError, match="Apply FACT: another node has removed its patch"):
        tiny.sample(lost)
    before = model.clone()
    before.set_model_patch(only_input_blocks, "middle_patch")
    assert torch.equal(tiny.sample(patched(before, adapter, face)), with_face)


def test_a_node_that_drops_some_blocks_is_named(model, adapter, face):
    face_model = patched(model, adapter, face)
    patches = face_model.model_options["transformer_options"]["patches"]["middle_patch"]
    ours = patches[0]
    patches[0] = lambda x, extra: ours(x, extra) if extra["block"][0] == "input" else x
    with pytest.raises(RuntimeError, match=r"test_fact_in_host has replaced it at the block \('middle', 0\)"):
        tiny.sample(face_model)


def test_a_node_that_calls_what_it_found_may_stand_in_our_place(model, adapter, face, with_face):
    face_model = patched(model, adapter, face)
    patches = face_model.model_options["transformer_options"]["patches"]["middle_patch"]
    ours = patches[0]
    patches[0] = lambda x, extra: ours(x, extra)
    assert torch.equal(tiny.sample(face_model), with_face)


@pytest.mark.parametrize("height, width", [pytest.param(576, 832, marks=pytest.mark.slow), (72, 104)])
def test_odd_sizes_with_masks(model, adapter, face, height, width):
    """72 x 104 latents, and 9 x 13 ones, whose halves are 5 x 7, 3 x 4 and 2 x 2; and a mask of another size."""
    mask = torch.zeros(1, 100, 50)
    mask[:, :, 25:] = 1
    picture = tiny.sample(patched(model, adapter, face, mask=mask), height, width, steps=1)
    assert picture.shape[-2:] == (height // 8, width // 8) and torch.isfinite(picture).all()
    assert difference(picture, tiny.sample(model, height, width, steps=1)) > 1e-3


def test_batch_of_two_equals_two_pictures(model, adapter, face):
    """With a mask for each picture of the batch."""
    masks = torch.zeros(2, 128, 128)
    masks[0, :64], masks[1, 64:] = 1, 1
    latent = torch.zeros(1, 4, 16, 16)
    both = tiny.sample(patched(model, adapter, face, mask=masks), batch=2)
    first = tiny.sample(patched(model, adapter, face, mask=masks[:1]), latent=latent)
    assert difference(both[:1], first) < ROUNDING
    swapped = tiny.sample(patched(model, adapter, face, mask=masks.flip(0)), batch=2)
    assert difference(swapped[:1], first) > 1e-3


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m_sde", "ipndm", "lcm"])
def test_with_other_samplers(model, adapter, face, sampler):
    picture = tiny.sample(patched(model, adapter, face), sampler=sampler)
    assert torch.isfinite(picture).all()
    assert difference(picture, tiny.sample(model, sampler=sampler)) > 1e-3


@pytest.mark.parametrize(
    "stored, computed, tolerance",
    [(torch.float16, None, 0.05), (torch.bfloat16, None, 0.4), (torch.float8_e4m3fn, torch.float32, None)],
)
def test_low_precision_bases(adapter, face, with_face, base, stored, computed, tolerance):
    """Half precision stays near float32; an fp8-stored base has other weights: there the face's effect counts."""
    low = tiny.model(stored, computed)
    picture = tiny.sample(patched(low, adapter, face))
    assert torch.isfinite(picture).all()
    if tolerance is None:
        assert difference(picture, tiny.sample(low)) > 0.05
    else:
        assert difference(picture, with_face) < tolerance < difference(base, with_face)


def test_inpainting_base(adapter, face):
    """Nine input channels, with the host's mask and masked image."""
    inpaint = tiny.model(in_channels=9)
    picture = tiny.sample(patched(inpaint, adapter, face))
    assert difference(picture, tiny.sample(inpaint)) > 1e-3


def test_the_host_loads_the_adapters_weights(monkeypatch, model, adapter, face, with_face):
    """Projector when applied, sites beside the UNet when sampling; nothing else puts them on a device."""
    loaded = []
    load = comfy.model_management.load_models_gpu

    def spy(models, *args, **kwargs):
        for patcher in models:
            loaded.extend((patcher, *patcher.model_patches_models()))
        return load(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    assert torch.equal(tiny.sample(patched(model, adapter, face)), with_face)
    assert adapter.projector in loaded and adapter.face_blocks() in loaded


def test_weights_that_stream_in_give_the_same_picture(model, face, with_face):
    """Everything left on the offload device, as on a card where nothing fits."""
    adapter = tiny.adapter()
    for patcher in (adapter.projector, adapter.face_blocks()):
        patcher.load(patcher.load_device, lowvram_model_memory=1)
        assert patcher.model.model_lowvram
    assert difference(tiny.sample(patched(model, adapter, face)), with_face) < ROUNDING


def test_nothing_stays_after_sampling(model, adapter, face):
    face_model = patched(model, adapter, face)
    tiny.sample(face_model)
    assert all(patch._runs == {} for patch in patches_of(face_model).faces)
    comfy.model_management.unload_all_models()
    assert comfy.model_management.loaded_models() == []


def test_an_interrupted_run_leaves_nothing_behind(model, adapter, face, with_face):
    face_model = patched(model, adapter, face)

    def stop(x, extra_options):
        raise comfy.model_management.InterruptProcessingException()

    stopped = face_model.clone()
    stopped.set_model_patch(stop, "middle_patch")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(stopped)
    assert all(patch._runs == {} for patch in patches_of(face_model).faces)
    assert torch.equal(tiny.sample(face_model), with_face)


def test_refuses_an_encoder_of_another_kind(model, adapter):
    foreign = tiny.face_id()
    object.__setattr__(foreign, "encoder", "msid")
    with pytest.raises(ValueError, match=r"Apply FACT: tiny_fact.ckpt reads transface .* tiny_transface.pt \(msid"):
        patched(model, adapter, foreign)


def test_refuses_another_base(adapter, face):
    wide = tiny.adapter(widths=[320] * 16)
    with pytest.raises(
        ValueError, match="16 blocks 320 wide .* is SD15 with 16 blocks 32/64/128 wide .* SD1.5 checkpoint"
    ):
        patched(tiny.model(), wide, face)


@pytest.mark.slow
def test_of_a_model_that_was_compiled_without_a_face(compiler, model, adapter, face, with_face):
    """The host takes compiled code again whatever patches there are: made anew, or where that is not seen to be due,
    said, and right when it is queued again.
    """
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    bare = TorchCompileModel.execute(model, "eager").args[0]
    compiled = TorchCompileModel.execute(patched(model, adapter, face), "eager").args[0]
    tiny.sample(bare)
    assert difference(tiny.sample(compiled), with_face) < 1e-4
    torch.compiler.reset()
    tiny.sample(bare)
    with pytest.raises(RuntimeError, match="compiled before without a face.* queue it again"):
        tiny.sample(compiled)
    assert difference(tiny.sample(compiled), with_face) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_under_the_hosts_torch_compile_node(compiler, model, adapter, face, with_face):
    """The same picture to rounding, with a schedule that switches the compiled model between its two steps."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    early = patched(model, adapter, face, end_percent=0.2)
    compiled = TorchCompileModel.execute(early, "inductor").args[0]
    expected = tiny.sample(early)
    assert difference(tiny.sample(compiled), expected) < 1e-4
    assert difference(expected, with_face) > 1e-3
