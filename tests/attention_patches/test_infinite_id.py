"""Mixed attention: two streams in the host's sampler on a tenth-width UNet."""

import comfy.samplers
import pytest
import torch
from likeness.adapters.unet_blocks import transformer_blocks
from likeness.attention_patches.infinite_id import Streams, apply_infinite_id
from likeness.tests.support import tiny

pytestmark = pytest.mark.slow


def assert_same_picture(actual, expected):
    """Equal but for the rounding of other batch sizes, which the drawn UNet's large numbers carry along."""
    assert (actual - expected).abs().max() < 5e-5 * expected.std()


def test_streams_part_every_run_and_join_again():
    x = torch.arange(24.0).reshape(24, 1)
    streams = Streams("mixed", "none", 1.0, images=3)
    for rows in (x[:12], x):  # two chunks; two tiles of two chunks
        identity, text = streams.split(rows)
        assert identity.flatten()[:6].tolist() == [0, 1, 2, 6, 7, 8]
        assert text.flatten()[:6].tolist() == [3, 4, 5, 9, 10, 11]
        assert torch.equal(streams.join(identity, text), rows)
    identity, text = streams.split(x, pieces=2)
    assert identity.flatten().tolist() == [*range(6), *range(12, 18)]
    with pytest.raises(RuntimeError, match="9 rows, which cannot be told apart into the two streams of 3 images"):
        streams.split(x[:9])


class MarkIdentity:
    """Stands in for an identity in every block: shifts what stands between the attentions."""

    def __init__(self, shift):
        self.shift = shift

    def __call__(self, x, extra_options):
        return x + self.shift


def marked(model, shift=0.3):
    model = model.clone()
    model.set_model_patch(MarkIdentity(shift), "middle_patch")
    return model


@pytest.fixture(scope="module")
def base():
    return tiny.model()


@pytest.mark.parametrize("trajectory", ["own", "same latent"])
def test_without_an_identity_both_streams_are_the_stock_picture_and_it_is_said(base, trajectory, caplog):
    """Equal streams: keys and values twice, which attention does not notice."""
    mixed = tiny.sample(apply_infinite_id(base, trajectory=trajectory))
    assert_same_picture(mixed, tiny.sample(base))
    assert [r.message for r in caplog.records if "has no face in it" in r.message]
    caplog.clear()
    tiny.sample(marked(apply_infinite_id(base, trajectory=trajectory)))
    assert not [r.message for r in caplog.records if "has no face in it" in r.message]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_text_stream_is_stock_sampling_of_the_doubled_batch_bit_for_bit(base, batch, order):
    model = apply_infinite_id(marked(base)) if order == "before" else marked(apply_infinite_id(base))
    model, predictions = tiny.record(model)
    result = tiny.sample(model, batch=batch)
    noise = torch.randn(batch, 4, 16, 16, generator=torch.manual_seed(5))
    stock, doubled = tiny.record(base)
    comfy_sample(stock, torch.cat((noise, noise)))
    for both, plain in zip(predictions, doubled, strict=True):
        identity, text = both.split(batch)
        assert torch.equal(text, plain[batch:]) and not torch.allclose(identity, text, atol=1e-3)
    assert result.shape[0] == batch


@torch.inference_mode()
def comfy_sample(model, noise):
    sampler = comfy.samplers.KSampler(model, steps=2, device="cpu", sampler="euler", scheduler="sgm_uniform")
    latent = torch.zeros_like(noise)
    return sampler.sample(noise, tiny.conditioning(3), tiny.conditioning(4), cfg=3.0, latent_image=latent, seed=5)


def test_the_trajectories_agree_at_the_first_step_and_part_later(base):
    own, same = (apply_infinite_id(marked(base), trajectory=name) for name in ("own", "same latent"))
    assert_same_picture(tiny.sample(own, steps=1), tiny.sample(same, steps=1))
    assert (tiny.sample(own, steps=3) - tiny.sample(same, steps=3)).abs().max() > 1e-3


def test_the_ablations_differ(base):
    settings = [("mixed", "none"), ("mutual", "none"), ("mixed", "AdaIN-mean"), ("mixed", "AdaIN")]
    results = [tiny.sample(marked(base))]
    results += [tiny.sample(apply_infinite_id(marked(base), mixing, style)) for mixing, style in settings]
    for i, one in enumerate(results):
        for other in results[i + 1 :]:
            assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("trajectory", ["own", "same latent"])
@pytest.mark.parametrize("settings", [{"start_percent": 1.0}, {"mixing": "off"}, {"parts": ()}])
def test_without_mixing_the_identity_stream_is_on_its_own(base, settings, trajectory):
    alone = tiny.sample(marked(base))
    assert_same_picture(tiny.sample(apply_infinite_id(marked(base), trajectory=trajectory, **settings)), alone)


def test_part_of_the_steps_lies_between(base):
    late, whole, none = (tiny.sample(apply_infinite_id(marked(base), start_percent=p), steps=4) for p in (0.5, 0, 1))
    assert (late - whole).abs().max() > 1e-3 and (late - none).abs().max() > 1e-3


@pytest.mark.parametrize("trajectory", ["own", "same latent"])
def test_split_cond_and_uncond_give_the_same_picture(base, trajectory, monkeypatch):
    model = apply_infinite_id(marked(base), trajectory=trajectory)
    together = tiny.sample(model)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *args, **kwargs: 1e30)
    assert_same_picture(tiny.sample(model), together)


def test_what_sits_in_the_slot_stays_in_effect(base):
    """A patch that another pack put there scales what it attends to."""

    def halved(q, k, v, extra_options):
        return 0.5 * comfy.ldm.modules.attention.optimized_attention(q, k, v, extra_options["n_heads"])

    before = base.clone()
    before.set_model_attn1_replace(halved, "middle", 0)
    assert_same_picture(tiny.sample(apply_infinite_id(before)), tiny.sample(before))
    assert (tiny.sample(before) - tiny.sample(base)).abs().max() > 1e-3


def test_every_block_is_named_and_the_model_stays_as_it_was(base):
    blocks = transformer_blocks(base.get_model_object("diffusion_model"))
    assert len(blocks) == 16 and ("middle", 0, 0) in blocks
    before = tiny.sample(base)
    tiny.sample(apply_infinite_id(marked(base)))
    assert torch.equal(tiny.sample(base), before)


@pytest.mark.parametrize("trajectory", ["own", "same latent"])
@pytest.mark.parametrize("rows", [2, 5])
def test_prompts_and_masks_of_other_batches_count_alike_for_both_streams(base, trajectory, rows):
    """Of three images the host gives the third the first of two prompts, and leaves out what are too many."""
    noise = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(5))
    prompts = torch.randn(rows, 77, tiny.TOKEN_DIM, generator=torch.manual_seed(6))
    masks = torch.rand(rows if rows > 3 else 1, 8, 8, generator=torch.manual_seed(7)) + 0.1
    positive = [[prompts, {}], [prompts.flip(0), {"mask": masks}]]

    @torch.inference_mode()
    def sample(model):
        sampler = comfy.samplers.KSampler(model, 2, "cpu", "euler", "sgm_uniform")
        return sampler.sample(noise, positive, tiny.conditioning(4), cfg=3.0, latent_image=torch.zeros_like(noise))

    assert_same_picture(sample(apply_infinite_id(base, trajectory=trajectory)), sample(base))
