"""Infinite-ID with a real image adapter in the host's sampler: what each stream is, and who else is in the model."""

import collections
import shutil

import comfy.controlnet
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.cldm.cldm import ControlNet
from likeness.attention_patches.infinite_id import STREAMS, MixedSelfAttention, Streams, apply_infinite_id
from likeness.attention_patches.ip_adapter import apply_ip_adapter
from likeness.tests.support import tiny, tiny_ip
from likeness.tests.support.golden_cases import Case

pytestmark = pytest.mark.slow

ROUNDING = 5e-5  # of other batch sizes
MODES = ["own", "same latent"]


def difference(a, b) -> float:
    """Distance of two latents, relative to the second."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


class Bench:
    """A base model, an adapter that fits it with its tokens, and prompts."""

    def __init__(self, base):
        self.model = tiny.model() if base == "SD1.5" else tiny_ip.sdxl()
        self.adapter = tiny_ip.adapter("faceid", base)
        pooled = {"pooled_output": torch.ones(1, tiny_ip.POOLED)} if base == "SDXL" else {}
        self.prompts = [[[tiny.conditioning(seed)[0][0], pooled]] for seed in (3, 4)]
        with torch.inference_mode():
            self.tokens = self.adapter.tokens(face=tiny_ip.face())

    @torch.inference_mode()
    def face(self, model=None, **settings):
        return apply_ip_adapter(model or self.model, self.adapter, self.tokens, **settings)

    @torch.inference_mode()
    def sample(self, model, noise, steps=2, prompts=None, **options):
        """(what the sampler returns, both streams as the guider predicts them at the last step)."""
        model, predictions = tiny.record(model)
        sampler = comfy.samplers.KSampler(model, steps, "cpu", "ddim", "sgm_uniform")
        latent = torch.zeros_like(noise)
        result = sampler.sample(noise, *(prompts or self.prompts), cfg=3.0, latent_image=latent, seed=5, **options)
        return result, predictions[-1]


@pytest.fixture(scope="module")
def benches():
    return {base: Bench(base) for base in ("SD1.5", "SDXL")}


@pytest.fixture(scope="module")
def bench(benches):
    return benches["SD1.5"]


def noise(batch=1, size=16):
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(5))


def doubled(x):
    return torch.cat((x, x))


def attend(q, k, v, extra_options):
    return comfy.ldm.modules.attention.optimized_attention(q, k, v, extra_options["n_heads"])


@pytest.mark.parametrize("settings", [{}, {"style": "AdaIN-mean"}, {"mixing": "mutual", "style": "AdaIN"}])
@pytest.mark.parametrize("base, batch", [("SD1.5", 1), ("SD1.5", 2), ("SDXL", 1)])
def test_the_text_stream_is_stock_sampling_of_the_doubled_batch_bit_for_bit(benches, base, batch, settings):
    bench, start = benches[base], noise(batch, 16 if base == "SD1.5" else 8)
    result, both = bench.sample(apply_infinite_id(bench.face(), **settings), start)
    _, stock = bench.sample(bench.model, doubled(start))
    identity, text = both.split(batch)
    assert torch.equal(text, stock[batch:])
    assert difference(identity, text) > 1e-3
    assert difference(result, bench.model.model.process_latent_out(identity)) < ROUNDING


@pytest.mark.parametrize("base", ["SD1.5", "SDXL"])
def test_without_identity_and_mixing_both_streams_are_equal_bit_for_bit(benches, base):
    """A style alone keeps the two streams; with nothing to restyle they are one and the same."""
    bench, start = benches[base], noise(size=8)
    _, both = bench.sample(apply_infinite_id(bench.face(strength=0.0), "off", "AdaIN-mean"), start)
    assert both.shape[0] == 2 and torch.equal(both[0], both[1])
    _, both = bench.sample(apply_infinite_id(bench.face(strength=0.0), "mixed"), start)
    assert 0 < difference(both[:1], both[1:]) < ROUNDING  # equal keys twice, which attention does not notice


@pytest.mark.parametrize("settings", [
    {"mixing": "off"},
    {"mixing": "off", "style": "AdaIN-mean", "style_strength": 0.0},
    {"start_percent": 0.5, "end_percent": 0.5},
    {"start_percent": 1.0},
    {"parts": ()},
])  # fmt: skip
@pytest.mark.parametrize("trajectory", MODES)
def test_off_is_the_adapter_alone_bit_for_bit(bench, settings, trajectory):
    model = apply_infinite_id(bench.face(), trajectory=trajectory, **settings)
    result, whole = bench.sample(model, noise())
    assert torch.equal(result, bench.sample(bench.face(), noise())[0]) and whole.shape[0] == 1


@pytest.mark.parametrize("trajectory", MODES)
def test_between_two_steps_it_is_the_adapter_alone(bench, trajectory):
    """Between 10 and 20 per cent lies no step of these two."""
    model = apply_infinite_id(bench.face(), start_percent=0.1, end_percent=0.2, trajectory=trajectory)
    assert difference(bench.sample(model, noise())[0], bench.sample(bench.face(), noise())[0]) < ROUNDING


@pytest.mark.parametrize("trajectory", MODES)
def test_queued_again_and_with_another_slider(bench, trajectory):
    """What the host caches upstream stays as it was."""
    face = bench.face()
    alone, _ = bench.sample(face, noise())
    mixed = apply_infinite_id(face, trajectory=trajectory)
    first, _ = bench.sample(mixed, noise())
    other, _ = bench.sample(apply_infinite_id(face, "mutual", trajectory=trajectory), noise())
    assert torch.equal(bench.sample(mixed, noise())[0], first) and difference(other, first) > 1e-3
    assert torch.equal(bench.sample(face, noise())[0], alone)


@pytest.mark.parametrize("trajectory", MODES)
def test_a_batch_of_two_is_two_pictures(bench, trajectory):
    model = apply_infinite_id(bench.face(), style="AdaIN-mean", trajectory=trajectory)
    both, _ = bench.sample(model, noise(2))
    for row in (0, 1):
        alone, _ = bench.sample(model, noise(2)[row : row + 1])
        assert difference(both[row : row + 1], alone) < ROUNDING


@pytest.mark.parametrize("height, width", [(9, 13), (24, 8)])
@pytest.mark.parametrize("trajectory", MODES)
def test_odd_sizes_with_a_mask(bench, height, width, trajectory):
    start = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, 100, 50)
    mask[:, :, 25:] = 1
    result, _ = bench.sample(apply_infinite_id(bench.face(mask=mask), trajectory=trajectory), start, steps=1)
    assert result.shape == start.shape and torch.isfinite(result).all()
    assert difference(result, bench.sample(bench.model, start, steps=1)[0]) > 1e-3


@pytest.mark.parametrize("stored, computed, tolerance", [
    (torch.float16, None, 0.05), (torch.bfloat16, None, 0.4), (torch.float8_e4m3fn, torch.float32, 1.0),
])  # fmt: skip
def test_other_precisions(bench, stored, computed, tolerance):
    settings = {"style": "AdaIN-mean"}
    expected, _ = bench.sample(apply_infinite_id(bench.face(), **settings), noise())
    low = bench.face(tiny.model(stored, computed))
    result, _ = bench.sample(apply_infinite_id(low, **settings), noise())
    assert torch.isfinite(result).all() and 0 < difference(result, expected) < tolerance


def controlled(prompts):
    """The prompts with the host's ControlNet on a drawn hint."""
    case = Case("fact_unet")
    unet = {k: v for k, v in case.json("unet_config").items() if k not in ("out_channels", "transformer_depth_output")}
    network = ControlNet(**unet, hint_channels=3, dtype=torch.float32)
    case.fill(network)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    return [[[tokens, {"control": control.copy().set_cond_hint(hint, 0.3)}]] for ((tokens, _),) in prompts]


def with_lora(model):
    model = model.clone()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_k.weight"
    model.add_patches({key: ("diff", (torch.randn(128, 128, generator=torch.Generator().manual_seed(0)) / 4,))}, 1.0)
    return model


def test_controlnet_lora_and_inpaint_mask_count_for_both_streams(bench):
    """The text stream is again the stock picture with all of them, the noise that ddim lays under the mask included."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    settings = {"prompts": controlled(bench.prompts), "denoise_mask": mask}
    _, both = bench.sample(apply_infinite_id(with_lora(bench.face())), noise(), **settings)
    _, stock = bench.sample(with_lora(bench.model), noise(), **settings)
    assert difference(both[1:], stock) < ROUNDING and difference(both[:1], both[1:]) > 1e-3
    _, plain = bench.sample(bench.model, noise(), denoise_mask=mask)
    assert difference(stock, plain) > 1e-3


def test_controlnet_lora_and_inpaint_mask_with_the_same_latent(bench):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    settings = {"prompts": controlled(bench.prompts), "denoise_mask": mask}
    plain = bench.face(strength=0.0)
    same, _ = bench.sample(apply_infinite_id(with_lora(plain), trajectory="same latent"), noise(), **settings)
    stock, _ = bench.sample(with_lora(bench.model), noise(), **settings)
    assert difference(same, stock) < ROUNDING
    face, _ = bench.sample(apply_infinite_id(with_lora(bench.face()), trajectory="same latent"), noise(), **settings)
    assert difference(face, stock) > 1e-3


@pytest.mark.parametrize("trajectory", MODES)
def test_previews_show_the_identity_alone(bench, trajectory):
    shown = []
    model = apply_infinite_id(bench.face(), trajectory=trajectory)
    _, last = bench.sample(model, noise(2), callback=lambda step, x0, x, steps: shown.append((x0, x)))
    assert [(x0.shape[0], x.shape[0]) for x0, x in shown] == [(2, 2), (2, 2)]
    assert torch.equal(shown[-1][0], last[:2])


@pytest.mark.parametrize("base, places", [("SD1.5", 16), ("SDXL", 70)])
def test_every_self_attention_is_mixed(monkeypatch, benches, base, places):
    reached = collections.Counter()
    call = MixedSelfAttention.__call__

    def spy(self, q, k, v, extra_options):
        assert isinstance(extra_options[STREAMS], Streams)
        reached[(*extra_options["block"], extra_options["block_index"])] += 1
        return call(self, q, k, v, extra_options)

    monkeypatch.setattr(MixedSelfAttention, "__call__", spy)
    benches[base].sample(apply_infinite_id(benches[base].face()), noise(size=8), steps=1)
    assert len(reached) == places and set(reached.values()) == {1}
    assert sum(place[0] == "middle" for place in reached) == {"SD1.5": 1, "SDXL": 10}[base]


@pytest.mark.parametrize("key", [("middle", 0), ("middle", 0, 0)])
@pytest.mark.parametrize("trajectory", MODES)
def test_what_another_pack_puts_into_a_slot_is_called_for_both_streams_in_either_order(bench, key, trajectory):
    """Last it sees the sampler's batch, for packs that keep what they see: both streams, or with one latent one."""
    seen = []

    def theirs(q, k, v, extra_options):
        seen.append((q.shape[0], k.shape[1] // q.shape[1], extra_options["original_shape"][0]))
        return attend(q, k, v, extra_options)

    def occupied(model):
        model = model.clone()
        model.set_model_attn1_replace(theirs, *key)
        return model

    expected, _ = bench.sample(apply_infinite_id(bench.face(), trajectory=trajectory), noise(), steps=1)
    for model in (
        occupied(apply_infinite_id(bench.face(), trajectory=trajectory)),
        apply_infinite_id(bench.face(occupied(bench.model)), trajectory=trajectory),
    ):
        seen.clear()
        assert difference(bench.sample(model, noise(), steps=1)[0], expected) < ROUNDING
        assert seen == [(2, 2, 2), (4, 1, 4) if trajectory == "own" else (2, 1, 2)]


@pytest.mark.parametrize("trajectory", MODES)
def test_beside_the_hosts_perturbed_attention_in_both_orders(bench, trajectory):
    """It replaces the middle block's self-attention on purpose, in a call of its own."""
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    def pag(model):
        return PerturbedAttentionGuidance.execute(model, 3.0).args[0]

    without, _ = bench.sample(apply_infinite_id(bench.face(), trajectory=trajectory), noise())
    after, _ = bench.sample(pag(apply_infinite_id(bench.face(), trajectory=trajectory)), noise())
    before, _ = bench.sample(apply_infinite_id(bench.face(pag(bench.model)), trajectory=trajectory), noise())
    assert torch.equal(after, before) and difference(after, without) > 1e-3


def test_twice_is_refused(bench):
    with pytest.raises(ValueError, match="has been through an Infinite-ID Mixing already"):
        apply_infinite_id(apply_infinite_id(bench.face(), "mutual"))


def test_a_style_of_half_strength_is_neither_none_nor_all_of_it(bench):
    none, part, all_of_it = (
        bench.sample(apply_infinite_id(bench.face(), style="AdaIN", style_strength=strength), noise())[0]
        for strength in (0.0, 0.5, 1.0)
    )
    assert min(difference(part, none), difference(part, all_of_it)) > 1e-3


def test_a_style_keeps_to_its_parts():
    x, target = torch.randn(1, 4, 8), torch.randn(1, 9, 8)
    streams = Streams("mixed", "AdaIN-mean", 1.0, parts=("middle", "output"))
    assert torch.equal(streams.restyle(x, target, ("input", 1, 0)), x)
    torch.testing.assert_close(streams.restyle(x, target, ("output", 3, 0)).mean(dim=1), target.mean(dim=1))


def test_parts_differ_from_the_whole(bench):
    whole, down, up = (
        bench.sample(apply_infinite_id(bench.face(), style="AdaIN-mean", parts=parts), noise())[0]
        for parts in (("down", "middle", "up"), ("down",), ("up",))
    )
    assert min(difference(whole, down), difference(whole, up), difference(down, up)) > 1e-3


def test_nothing_stays_and_the_adapters_weights_are_not_needed(monkeypatch, bench):
    model = apply_infinite_id(bench.face())
    loaded = []
    load = comfy.model_management.load_models_gpu

    def spy(models, *args, **kwargs):
        loaded.extend(models)
        return load(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    bench.sample(model, noise())
    assert loaded and not {bench.adapter.attentions, bench.adapter.projector} & set(loaded)
    slots = model.model_options["transformer_options"]["patches_replace"]["attn2"]
    assert all(slot.patch._runs == {} for slot in slots.values())
    assert STREAMS not in model.model_options["transformer_options"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_under_the_hosts_torch_compile_node(compiler, bench):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    for settings in ({"style": "AdaIN-mean"}, {"mixing": "mutual"}):
        model = apply_infinite_id(bench.face(), **settings)
        expected, _ = bench.sample(model, noise())
        compiled, _ = bench.sample(TorchCompileModel.execute(model, "inductor").args[0], noise())
        assert difference(compiled, expected) < 1e-4
