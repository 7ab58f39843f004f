"""Image cross-attention inside the host's sampler: what must equal what, bit for bit or to rounding."""

import collections
import shutil

import comfy.controlnet
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.cldm.cldm import ControlNet
from likeness.adapters.unet_blocks import transformer_blocks
from likeness.attention_patches.infinite_id import STYLE, Streams, apply_infinite_id
from likeness.attention_patches.ip_adapter import (
    AttentionReplacement,
    ImageAttentionPatch,
    apply_ip_adapter,
    parse_layer_weights,
    spread_strengths,
)
from likeness.tests.support import tiny, tiny_ip
from likeness.tests.support.golden_cases import Case
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.slow

ROUNDING = 1e-5
WHERE = {"block": ("input", 1), "block_index": 0, "n_heads": 8, "attn_precision": None}
VIEWS = set("view _unsafe_view transpose t permute unsqueeze expand slice select detach alias".split())


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def adapter():
    return tiny_ip.adapter("faceid")


@pytest.fixture(scope="module")
def tokens(adapter):
    with torch.inference_mode():
        return adapter.tokens(face=tiny_ip.face())


@pytest.fixture(scope="module")
def base(model):
    return tiny.sample(model)


@pytest.fixture(scope="module")
def with_face(model, adapter, tokens):
    return tiny.sample(patched(model, adapter, tokens))


@torch.inference_mode()
def difference(a, b) -> float:
    """Distance of two latents, relative to the second."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


@torch.inference_mode()
def patched(model, adapter, tokens, **settings):
    return apply_ip_adapter(model, adapter, tokens, **settings)


def slots(model) -> dict:
    return model.model_options["transformer_options"]["patches_replace"]["attn2"]


def attend(q, k, v, extra_options):
    return comfy.ldm.modules.attention.optimized_attention(q, k, v, extra_options["n_heads"])


def test_the_face_changes_the_picture(base, with_face):
    assert difference(with_face, base) > 0.05


@pytest.mark.parametrize("settings", [
    {"strength": 0.0},
    {"weights": 0.0},
    {"mask": torch.zeros(1, 128, 128)},
    {"start_percent": 0.5, "end_percent": 0.5},
    {"start_percent": 0.1, "end_percent": 0.2},
    {"start_percent": 1.0, "end_percent": 1.0},
])  # fmt: skip
def test_off_is_the_base_model_bit_for_bit(model, adapter, tokens, base, settings):
    """Between 10 and 20 per cent lies no step of these two."""
    assert torch.equal(tiny.sample(patched(model, adapter, tokens, **settings)), base)


def test_off_leaves_the_lora_off_too(model, base):
    faceid = tiny_ip.adapter("faceid", lora_rank=2)
    with torch.inference_mode():
        given = faceid.tokens(face=tiny_ip.face())
    assert torch.equal(tiny.sample(patched(model, faceid, given, strength=0.0)), base)


def test_a_schedule_switches_at_its_ends(model, adapter, tokens, base, with_face):
    early = tiny.sample(patched(model, adapter, tokens, end_percent=0.2))
    late = tiny.sample(patched(model, adapter, tokens, start_percent=0.2))
    assert difference(early, base) > 1e-3 and difference(late, base) > 1e-3
    assert difference(early, with_face) > 1e-3 and difference(late, with_face) > 1e-3


def test_masks(model, adapter, tokens, with_face):
    ones = tiny.sample(patched(model, adapter, tokens, mask=torch.ones(1, 128, 128)))
    assert difference(ones, with_face) < ROUNDING
    grey = patched(model, adapter, tokens, strength=2.0, mask=torch.full((128, 128), 0.5))
    assert difference(tiny.sample(grey), with_face) < ROUNDING


def layer(model):
    """The slot of one layer, and what the host would call it with at 128 px."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 32, generator=generator) for n in (256, 77, 77))
    options = WHERE | {"cond_or_uncond": [1, 0], "activations_shape": [2, 32, 16, 16]}
    return slots(model)["input", 1], (q, k, v, options)


def test_half_mask_acts_on_its_half(model, adapter, tokens):
    """Read at the first layer, before convolutions spread it: the left half of the tokens moves, the right stays."""
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1
    slot, call = layer(patched(model, adapter, tokens, mask=mask))
    with torch.inference_mode():
        moved = (slot(*call) - attend(*call)).unflatten(1, (16, 16)).abs().amax((0, 3))
    assert (moved[:, :8] > 0).all() and (moved[:, 8:] == 0).all()


def test_batch_of_two_equals_two_pictures(model, adapter, tokens):
    """With a mask for each picture of the batch."""
    masks = torch.zeros(2, 128, 128)
    masks[0, :64], masks[1, 64:] = 1, 1
    both = tiny.sample(patched(model, adapter, tokens, mask=masks), batch=2)
    latent = torch.zeros(1, 4, 16, 16)
    first = tiny.sample(patched(model, adapter, tokens, mask=masks[:1]), latent=latent)
    assert difference(both[:1], first) < ROUNDING
    swapped = tiny.sample(patched(model, adapter, tokens, mask=masks.flip(0)), batch=2)
    assert difference(swapped[:1], first) > 1e-3


@pytest.mark.parametrize("height, width", [(72, 104), pytest.param(576, 832, marks=pytest.mark.slow)])
def test_odd_sizes_with_masks(model, adapter, tokens, height, width):
    """9 x 13 latents, whose halves are 5 x 7, 3 x 4 and 2 x 2, and a mask of another size."""
    mask = torch.zeros(1, 100, 50)
    mask[:, :, 25:] = 1
    picture = tiny.sample(patched(model, adapter, tokens, mask=mask), height, width, steps=1)
    assert picture.shape[-2:] == (height // 8, width // 8) and torch.isfinite(picture).all()
    assert difference(picture, tiny.sample(model, height, width, steps=1)) > 1e-3


def test_cond_and_uncond_together_or_apart(monkeypatch, model, adapter, tokens, with_face):
    monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)
    assert difference(tiny.sample(patched(model, adapter, tokens)), with_face) < ROUNDING


@pytest.mark.parametrize("chunks", [[0], [1], [0, 1], [1, 0], [0, 0, 1], [1, 0, 0, 2]])
def test_every_row_sees_the_tokens_of_its_branch(model, adapter, tokens, chunks):
    """However many chunks the host puts into a call, two pictures each; and each row as if it were alone."""
    slot, _ = layer(patched(model, adapter, tokens))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2 * len(chunks), n, 32, generator=generator) for n in (16, 77, 77))
    options = WHERE | {"activations_shape": [2, 32, 4, 4]}
    with torch.inference_mode():
        together = slot(q, k, v, options | {"cond_or_uncond": chunks})
        for row, result in enumerate(together):
            alone = slice(row, row + 1)
            kind = [chunks[row // 2]]
            expected = slot(q[alone], k[alone], v[alone], options | {"cond_or_uncond": kind})
            torch.testing.assert_close(result, expected[0])


def test_a_slot_called_in_place_of_another_does_the_others_work(model, adapter, tokens):
    """As a compiled model does, which holds the slots of equal blocks for equal; also in a clone, with guests."""
    ours = with_guest(patched(model, adapter, tokens)).clone()
    slot, (q, k, v, options) = layer(ours)
    with torch.inference_mode():
        meant = slots(ours)["input", 2](q, k, v, options | {"block": ("input", 2)})
        assert torch.equal(slot(q, k, v, options | {"block": ("input", 2)}), meant)
        assert not torch.allclose(slot(q, k, v, options), meant)
    assert slots(ours)["input", 2] is slot.family["input", 2, 0]


def test_uncond_sees_the_empty_face(model, adapter, tokens, with_face):
    same = tokens[:1].expand(2, -1, -1)
    assert difference(tiny.sample(patched(model, adapter, same)), with_face) > 1e-3


def test_sampled_twice_is_bit_equal(model, adapter, tokens, with_face):
    face_model = patched(model, adapter, tokens)
    assert torch.equal(tiny.sample(face_model), with_face)
    assert torch.equal(tiny.sample(face_model), with_face)


def test_later_applies_leave_earlier_models_alone(model, adapter, tokens, base, with_face):
    once = patched(model, adapter, tokens)
    twice = patched(once, adapter, tokens, strength=0.5)
    assert difference(tiny.sample(twice), with_face) > 1e-3
    assert torch.equal(tiny.sample(once), with_face)
    assert torch.equal(tiny.sample(model), base)


def test_two_files_are_summed(model, adapter, tokens):
    """Each through its own keys and values; twice the same file at half strength is once the file."""
    halves = patched(patched(model, adapter, tokens, strength=0.5), adapter, tokens, strength=0.5)
    assert difference(tiny.sample(halves), tiny.sample(patched(model, adapter, tokens))) < ROUNDING
    other = tiny_ip.adapter("plus", seed=7)
    with torch.inference_mode():
        picture = other.tokens(clip=tiny_ip.clip())
    first = tiny.sample(patched(patched(model, adapter, tokens), other, picture))
    second = tiny.sample(patched(patched(model, other, picture), adapter, tokens))
    assert difference(first, second) < ROUNDING
    assert difference(first, tiny.sample(patched(model, other, picture))) > 1e-3


def test_order_of_references_does_not_matter(model, adapter):
    pictures = []
    for order in ([0, 1, 2], [2, 0, 1], [0, 0, 0]):
        face = tiny_ip.face(photos=3)
        object.__setattr__(face, "embedding", face.embedding[order])
        with torch.inference_mode():
            pictures.append(tiny.sample(patched(model, adapter, adapter.tokens(face=face))))
    assert difference(pictures[1], pictures[0]) < ROUNDING < 1e-3 < difference(pictures[2], pictures[0])
    assert difference(pictures[2], single(model, adapter)) < ROUNDING  # softmax does not see repetition


def single(model, adapter):
    face = tiny_ip.face(photos=3)
    object.__setattr__(face, "embedding", face.embedding[:1])
    with torch.inference_mode():
        return tiny.sample(patched(model, adapter, adapter.tokens(face=face)))


def test_weights_of_stages_and_layers(model, adapter, tokens, base, with_face):
    def picture(weights):
        return tiny.sample(patched(model, adapter, tokens, weights=weights))

    assert torch.equal(picture({"down": 1.0}), with_face)
    assert torch.equal(picture([1.0] * 16), with_face)
    assert torch.equal(picture({"down": 0, "middle": 0, "up": 0}), base)
    only_middle = [0.0] * 6 + [1.0] + [0.0] * 9
    assert torch.equal(picture(only_middle), picture({"down": 0, "up": 0}))
    assert difference(picture({"down": 0.0}), with_face) > 1e-3


def test_layer_weights_are_in_the_unets_order(adapter):
    places = spread_strengths(adapter.widths, [float(n) for n in range(16)])
    assert places["input", 1, 0] == 0 and places["middle", 0, 0] == 6 and places["output", 11, 0] == 15
    assert spread_strengths(adapter.widths, {"up": 0.5})["output", 3, 0] == 0.5
    with pytest.raises(ValueError, match="3 layer weights, but this model has 16"):
        spread_strengths(adapter.widths, [1.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="'top' is no stage of the UNet: use down, middle, up"):
        spread_strengths(adapter.widths, {"top": 1.0})


@pytest.mark.parametrize("text, expected", [
    ("", 1.0), ("0.5", 0.5), ("down=1, middle=0.5", {"down": 1.0, "middle": 0.5}), ("1, 0.5\n0", [1.0, 0.5, 0.0]),
])  # fmt: skip
def test_written_layer_weights(text, expected):
    assert parse_layer_weights(text) == expected


@pytest.mark.parametrize("text", ["a lot", "down=", "down", "up=0.5, 1", "nan", "inf, 1", "up=1e999", "1\nx" * 99])
def test_unreadable_layer_weights(text):
    with pytest.raises(ValueError, match="is no list of layer weights: write one number") as caught:
        parse_layer_weights(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


class Family:
    """What packs of the IPAdapter family keep in an attn2 slot: a list of callbacks that later nodes add to."""

    def __init__(self, callback, **settings):
        self.callbacks = [(callback, settings)]

    def add(self, callback, **settings):
        self.callbacks.append((callback, settings))

    def __call__(self, q, k, v, extra_options):
        out = attend(q, k, v, extra_options)
        for callback, settings in self.callbacks:
            out = out + callback(out, q, k, v, extra_options, **settings)
        return out


def guest(out, q, k, v, extra_options, weight, **settings):
    return weight * torch.tanh(q)


def with_guest(model, weight=0.5, sigma_start=1000.0, sigma_end=0.0):
    """As the IPAdapter family patches a model: by its own dictionaries, and `add` where a slot is taken."""
    model = model.clone()
    options = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
    options["patches_replace"] = options.get("patches_replace", {}).copy()
    taken = options["patches_replace"]["attn2"] = options["patches_replace"].get("attn2", {}).copy()
    settings = {"weight": weight, "sigma_start": sigma_start, "sigma_end": sigma_end}
    for key in {place[:2] for place in transformer_blocks(model.model.diffusion_model)}:
        if key in taken:
            taken[key].add(guest, **settings)
        else:
            taken[key] = Family(guest, **settings)
    return model


def test_beside_the_ipadapter_family_in_both_orders(model, adapter, tokens, with_face):
    guest_last = tiny.sample(with_guest(patched(model, adapter, tokens)))
    guest_first = tiny.sample(patched(with_guest(model), adapter, tokens))
    assert difference(guest_last, guest_first) < ROUNDING
    assert difference(guest_last, with_face) > 1e-3
    assert difference(guest_last, tiny.sample(with_guest(model))) > 1e-3


def test_guests_keep_to_their_schedule(model, adapter, tokens, with_face):
    never = with_guest(patched(model, adapter, tokens), sigma_start=-1.0, sigma_end=-2.0)
    assert torch.equal(tiny.sample(never), with_face)


def test_guests_never_reach_the_model_they_came_from(model, adapter, tokens, with_face):
    """The cached upstream model, when a later node is run again and again with another slider."""
    upstream = patched(model, adapter, tokens)
    pictures = [tiny.sample(with_guest(upstream, weight)) for weight in (0.5, 0.7, 0.5)]
    assert torch.equal(pictures[0], pictures[2]) and difference(pictures[1], pictures[0]) > 1e-3
    assert torch.equal(tiny.sample(upstream), with_face)
    twice = with_guest(with_guest(upstream, 0.25), 0.25)
    assert difference(tiny.sample(twice), pictures[0]) < ROUNDING
    assert all(slot.guests == () for slot in slots(upstream).values())


@pytest.mark.parametrize("key", [("middle", 0), ("middle", 0, 0)])
def test_a_plain_replace_patch_before_ours_is_called(model, adapter, tokens, with_face, key):
    seen = []

    def replace(q, k, v, extra_options):
        seen.append(extra_options["block"])
        return attend(q, k, v, extra_options)

    theirs = model.clone()
    theirs.set_model_attn2_replace(replace, *key)
    assert difference(tiny.sample(patched(theirs, adapter, tokens)), with_face) < ROUNDING
    assert set(seen) == {("middle", 0)}


def test_a_patch_of_a_whole_sdxl_block_is_called_by_each_of_our_layers():
    """The host looks for the key with index first, so theirs would be lost behind ours."""
    theirs = tiny_ip.sdxl()
    theirs.set_model_attn2_replace(attend, "middle", 0)
    faceid = tiny_ip.adapter("faceid", "SDXL")
    with torch.inference_mode():
        given = faceid.tokens(face=tiny_ip.face())
    found = slots(patched(theirs, faceid, given))
    assert [found["middle", 0, index].previous for index in range(10)] == [attend] * 10
    assert found["input", 4, 0].previous is None


def test_a_plain_replace_patch_that_calls_what_it_found(model, adapter, tokens, with_face):
    ours = patched(model, adapter, tokens)
    found = slots(ours)["middle", 0]
    ours.set_model_attn2_replace(lambda *call: found(*call), "middle", 0)
    assert torch.equal(tiny.sample(ours), with_face)


def test_a_layer_that_is_not_reached_is_an_error(model, adapter, tokens):
    """Another node, later, throws ours away."""
    lost = patched(model, adapter, tokens)
    lost.set_model_attn2_replace(attend, "middle", 0)
    expected = r"tiny_faceid.bin: .*test_ip_in_host has replaced it at the block \('middle', 0, 0\).*that node before"
    with pytest.raises(RuntimeError, match=expected):
        tiny.sample(lost)
    del slots(lost)["middle", 0]
    with pytest.raises(RuntimeError, match=r"tiny_faceid.bin: another node has removed its patch at \('middle', 0, 0"):
        tiny.sample(lost)


def test_the_slot_before_keeps_its_models_and_is_told_the_end(model, adapter, tokens):
    told = []

    class Theirs:
        def __call__(self, *call):
            return attend(*call)

        def models(self):
            return [adapter.attentions]

        def to(self, device_or_dtype):
            told.append("to")
            return self

        def cleanup(self):
            told.append("cleanup")

    theirs = model.clone()
    theirs.set_model_attn2_replace(Theirs(), "middle", 0)
    ours = patched(theirs, adapter, tokens)
    assert ours.model_patches_models() == [adapter.attentions]
    tiny.sample(ours, steps=1)
    assert {"to", "cleanup"} <= set(told)


def test_every_layer_of_sdxl(monkeypatch):
    """All 70, ten of them in the middle block; and strength 0 is the base model there too."""
    model, faceid = tiny_ip.sdxl(), tiny_ip.adapter("faceid", "SDXL", lora_rank=2)
    with torch.inference_mode():
        given = faceid.tokens(face=tiny_ip.face())
    face_model = patched(model, faceid, given, lora_strength=0.0)
    reached = collections.Counter()
    add_image = ImageAttentionPatch.add_image

    def spy(self, text, q, k, v, place, rows, extra_options):
        reached[place] += 1
        assert (*extra_options["block"], extra_options["block_index"]) == place
        return add_image(self, text, q, k, v, place, rows, extra_options)

    monkeypatch.setattr(ImageAttentionPatch, "add_image", spy)
    plain, picture = tiny_ip.sample_sdxl(model), tiny_ip.sample_sdxl(face_model)
    assert len(reached) == 70 and set(reached.values()) == {1}
    assert sum(place[0] == "middle" for place in reached) == 10
    assert difference(picture, plain) > 1e-3
    assert torch.equal(tiny_ip.sample_sdxl(patched(model, faceid, given, strength=0.0)), plain)
    with_lora = tiny_ip.sample_sdxl(patched(model, faceid, given))
    assert difference(with_lora, picture) > 1e-3
    assert torch.equal(tiny_ip.sample_sdxl(model), plain)  # the host takes the LoRA off again


def test_lora_strength_is_the_loras(model):
    """At 0.3 as the host itself adds a LoRA at 0.3, which is neither all of it nor none."""
    faceid = tiny_ip.adapter("faceid", lora_rank=2)
    with torch.inference_mode():
        given = faceid.tokens(face=tiny_ip.face())
    images = {share: tiny.sample(patched(model, faceid, given, lora_strength=share)) for share in (0.0, 0.3, 1.0)}
    by_host = patched(model, faceid, given, lora_strength=0.0)
    by_host.add_patches(faceid.lora, 0.3)
    assert torch.equal(images[0.3], tiny.sample(by_host))
    assert min(difference(images[0.3], images[share]) for share in (0.0, 1.0)) > 1e-3


class Operations(TorchDispatchMode):
    """Counts what is computed; views cost nothing."""

    def __init__(self):
        super().__init__()
        self.seen = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.seen.update([name] if name not in VIEWS else [])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mask", [None, torch.ones(1, 128, 128)])
def test_one_attention_and_one_addition_more_and_no_wait_for_the_device(model, adapter, tokens, mask):
    slot, call = layer(patched(model, adapter, tokens, mask=mask))
    with torch.no_grad():  # where composite operations show their parts
        slot(*call)  # what is made once
        counts = []
        for attention in (attend, slot):
            with Operations() as operations:
                attention(*call)
            counts.append(operations.seen)
    added = counts[1] - counts[0]
    assert added.total() == 2, added
    assert not added.keys() & {"_local_scalar_dense", "_to_copy", "mm", "addmm", "bmm", "nonzero"}, added


def test_the_hosts_attention_options_reach_both_attentions(model, adapter, tokens):
    """The precision, an override such as sage attention's, and the wish to keep few keys exact."""
    seen = []

    def override(function, *args, **kwargs):
        seen.append((kwargs["attn_precision"], kwargs.get("low_precision_attention", True), args[1].shape[1]))
        return function(*args, **kwargs)

    slot, call = layer(patched(model, adapter, tokens))
    options = call[3] | {"attn_precision": torch.float32, "optimized_attention_override": override}
    with torch.inference_mode():
        slot(*call[:3], options)
    assert seen == [(torch.float32, True, 77), (torch.float32, False, 4)]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.05), (torch.bfloat16, 0.4)])
def test_half_precision_bases(adapter, tokens, with_face, base, dtype, tolerance):
    picture = tiny.sample(patched(tiny.model(dtype), adapter, tokens))
    assert torch.isfinite(picture).all()
    assert difference(picture, with_face) < tolerance < difference(base, with_face)


def test_fp8_stored_base_and_half_precision_adapter(tokens):
    low = tiny.model(torch.float8_e4m3fn, torch.float32)
    half = tiny_ip.adapter("faceid")
    half.attentions.model.to(torch.bfloat16)
    picture = tiny.sample(patched(low, half, tokens))
    assert torch.isfinite(picture).all() and difference(picture, tiny.sample(low)) > 0.05


def test_another_dtype_than_the_models_own(model, adapter, tokens):
    """A caller that runs the UNet in another precision."""
    slot, (q, k, v, options) = layer(patched(model, adapter, tokens))
    with torch.inference_mode():
        slot(q, k, v, options)
        half = slot(q.half(), k.half(), v.half(), options)
    assert half.dtype == torch.float16


def test_weights_that_stream_in_give_the_same_picture(model, with_face):
    """Everything left on the offload device, as on a card where nothing fits."""
    low = tiny_ip.adapter("faceid")
    for patcher in (low.projector, low.attentions):
        patcher.load(patcher.load_device, lowvram_model_memory=1)
        assert patcher.model.model_lowvram
    with torch.inference_mode():
        given = low.tokens(face=tiny_ip.face())
    assert difference(tiny.sample(patched(model, low, given)), with_face) < ROUNDING


def test_weights_are_not_needed_while_sampling(monkeypatch, model, adapter, tokens, with_face):
    """Projected when applied, and then gone: the sampler loads the UNet alone."""
    face_model = patched(model, adapter, tokens)
    loaded = []
    load = comfy.model_management.load_models_gpu

    def spy(models, *args, **kwargs):
        for patcher in models:
            loaded.extend((patcher, *patcher.model_patches_models()))
        return load(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    comfy.model_management.unload_all_models()
    assert torch.equal(tiny.sample(face_model), with_face)
    assert loaded and adapter.attentions not in loaded and adapter.projector not in loaded


def test_nothing_stays_after_sampling(model, adapter, tokens):
    face_model = patched(model, adapter, tokens)
    tiny.sample(face_model)
    assert all(slot.patch._runs == {} for slot in slots(face_model).values())
    comfy.model_management.unload_all_models()
    assert comfy.model_management.loaded_models() == []


def test_what_stays_of_an_identity_on_sdxl():
    """The acceptance limit is 12 MB at 16 tokens in half precision, which are 70 layers' keys and values."""
    widths = [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10
    assert 2 * 16 * 2 * sum(widths) * 2 == 10_649_600 < 12e6
    sdxl = tiny_ip.adapter("plus", "SDXL")
    with torch.inference_mode():
        kept = sdxl.keys_values(sdxl.tokens(clip=tiny_ip.clip()), torch.float16)
    assert kept.numel() == 2 * 4 * 2 * sum(tiny_ip.WIDTHS["SDXL"]) and kept.element_size() == 2


def test_an_interrupted_run_leaves_nothing_behind(model, adapter, tokens, with_face):
    face_model = patched(model, adapter, tokens)
    stopped = face_model.clone()

    def stop(x, extra_options):
        raise comfy.model_management.InterruptProcessingException()

    stopped.set_model_patch(stop, "middle_patch")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(stopped)
    assert all(slot.patch._runs == {} for slot in slots(face_model).values())
    assert torch.equal(tiny.sample(face_model), with_face)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m_sde", "lcm"])
def test_with_other_samplers(model, adapter, tokens, sampler):
    picture = tiny.sample(patched(model, adapter, tokens), sampler=sampler)
    assert torch.isfinite(picture).all()
    assert difference(picture, tiny.sample(model, sampler=sampler)) > 1e-3


def test_with_a_lora_of_the_user(model, adapter, tokens, with_face):
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    lora = {key: ("diff", (torch.randn(128, 128, generator=torch.Generator().manual_seed(0)) / 4,))}

    def with_lora(given):
        given = given.clone()
        given.add_patches(lora, 1.0)
        return given

    after = tiny.sample(with_lora(patched(model, adapter, tokens)))
    assert difference(after, tiny.sample(patched(with_lora(model), adapter, tokens))) < ROUNDING
    assert difference(after, with_face) > 1e-3


def test_with_a_controlnet(monkeypatch, model, adapter, tokens, with_face):
    """The host's ControlNet is a UNet of its own, which sees the text alone."""
    case = Case("fact_unet")
    unet = case.json("unet_config")
    for key in ("out_channels", "transformer_depth_output"):
        del unet[key]
    network = ControlNet(**unet, hint_channels=3, dtype=torch.float32)
    case.fill(network)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    plain = tiny.conditioning

    def controlled(seed):
        return [[plain(seed)[0][0], {"control": control.copy().set_cond_hint(hint, 0.3)}]]

    monkeypatch.setattr(tiny, "conditioning", controlled)
    picture = tiny.sample(patched(model, adapter, tokens))
    assert difference(picture, tiny.sample(model)) > 1e-3 and difference(picture, with_face) > 1e-3


def test_infinite_ids_style_moves_the_images_keys_and_values(model, adapter, tokens):
    slot, (q, k, v, options) = layer(patched(model, adapter, tokens))
    style = Streams("mixed", "AdaIN-mean", 1.0)
    with torch.inference_mode():
        styled = slot(q, k, v, options | {STYLE: style})
        keys, values = slot.patch._runs[torch.device("cpu")].faces[slot.block]
        keys = style.restyle(keys[[1, 0]], k, slot.block)  # the chunks are uncond, cond
        values = style.restyle(values[[1, 0]], v, slot.block)
        expected = attend(q, k, v, options) + attend(q, keys, values, options)
    torch.testing.assert_close(styled, expected)


@pytest.mark.parametrize("trajectory", ["own", "same latent"])
def test_infinite_id_with_an_adapter(model, adapter, tokens, base, with_face, trajectory):
    mixed = tiny.sample(apply_infinite_id(patched(model, adapter, tokens), trajectory=trajectory))
    assert difference(mixed, base) > 1e-3 and difference(mixed, with_face) > 1e-3
    before = tiny.sample(patched(apply_infinite_id(model, trajectory=trajectory), adapter, tokens))
    assert difference(before, mixed) < ROUNDING


def test_refuses_another_base(adapter, tokens):
    expected = r"tiny_faceid.bin fits SD1.5 with 16 cross-attentions .* is SDXL with 70 .*Load an SD1.5"
    with pytest.raises(ValueError, match=expected):
        patched(tiny_ip.sdxl(), adapter, tokens)
    wide = tiny_ip.adapter("faceid", widths=[320] * 16)
    with pytest.raises(
        ValueError, match="16 cross-attentions 320 wide .* SD15 with 16 cross-attentions 32/64/128 wide"
    ):
        patched(tiny.model(), wide, tokens)


def test_slots_are_ours(model, adapter, tokens):
    """Under the keys other packs use: no index where a block holds one transformer block."""
    found = slots(patched(model, adapter, tokens))
    assert all(isinstance(slot, AttentionReplacement) for slot in found.values())
    assert len(found) == 16 and ("middle", 0) in found and ("input", 1) in found


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_under_the_hosts_torch_compile_node(compiler, model, adapter, tokens, with_face):
    """The same picture to rounding, with a schedule that switches the compiled model between its two steps."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    early = patched(model, adapter, tokens, end_percent=0.2)
    compiled = TorchCompileModel.execute(early, "inductor").args[0]
    expected = tiny.sample(early)
    assert difference(tiny.sample(compiled), expected) < 1e-4
    assert difference(expected, with_face) > 1e-3
