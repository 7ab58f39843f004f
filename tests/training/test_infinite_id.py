"""Infinite-ID's identity-enhanced training: without the text, from pairs of photos, for the nodes' own patch."""

from dataclasses import replace

import pytest
import torch
from likeness.adapters.ip_adapter import INFINITE_ID_METADATA, IpAdapter
from likeness.adapters.unet_blocks import BLOCKS
from likeness.attention_patches.ip_adapter import apply_ip_adapter
from likeness.encoders.clip_vision import ClipFeatures
from likeness.encoders.identity import FaceId
from likeness.tests.support import tiny_frozen, tiny_ip
from likeness.training import infinite_id
from likeness.training.frozen import freeze, sample_noise
from likeness.training.infinite_id import (
    CLIP_MAPPERS,
    InfiniteId,
    InfiniteIdSettings,
    attention_patches,
    make,
    make_loss,
    step_loss,
)
from likeness.training.loop import make_stream
from likeness.training.portraits import others, stack
from torch.nn.functional import normalize

TINY = {"steps": 3, "batch": 2, "queries": 3, "dim": 64, "depth": 1, "face_tokens": 2, "precision": "float32"}
CLIP = (5, 20)


@pytest.fixture(scope="module")
def base():
    return tiny_frozen.frozen_base()


@pytest.fixture(scope="module")
def portraits():
    return tiny_frozen.portraits(clip=CLIP, arcface=(1, 512))


def nothing() -> torch.Tensor:
    return torch.randn(CLIP, generator=torch.Generator().manual_seed(9))


def fresh(base, seed=1) -> InfiniteId:
    torch.manual_seed(seed)
    return InfiniteId(base, CLIP[1], 512, InfiniteIdSettings(**TINY))


def loss_of(base, adapter, portraits, seed=2, **settings):
    data = portraits, nothing()
    return step_loss(base, adapter, data, InfiniteIdSettings(**TINY | settings), torch.Generator().manual_seed(seed))


def looked_at(adapter) -> list:
    """What the mapper is given in the calls to come: (face, hidden states)."""
    seen = []
    adapter.mapper.register_forward_pre_hook(lambda module, inputs: seen.append([each.clone() for each in inputs]))
    return seen


def test_with_the_text_out_no_caption_is_read(base, portraits):
    other = replace(portraits, captions=[*portraits.captions[1:], portraits.captions[0]])
    out, told = (
        [loss_of(base, fresh(base), each, text_off=text_off).item() for each in (portraits, other)]
        for text_off in (True, False)
    )
    assert out[0] == out[1] and told[0] != told[1] and told[0] != out[0]


def test_everything_of_the_adapter_learns_and_nothing_of_the_base(base, portraits):
    adapter = fresh(base)
    loss_of(base, adapter, portraits, drop=0.0).backward()
    assert all(each.grad.abs().max() > 0 for each in adapter.parameters())
    assert all(each.grad is None for each in base.model.diffusion_model.parameters())


def test_an_error_inside_the_face_counts_as_often_as_it_is_told(base, portraits):
    """From the losses of the whole picture and of nearly nothing but the face, which fills a quarter of it."""
    adapter, faces = fresh(base), torch.zeros_like(portraits.faces)
    faces[:, : faces.shape[1] // 2, : faces.shape[2] // 2] = 1
    quarter = replace(portraits, faces=faces)
    whole, inside, focused = (loss_of(base, adapter, quarter, focus=times).item() for times in (1.0, 1e6, 5.0))
    outside = (whole - inside / 4) / 0.75
    assert focused == pytest.approx((5 * inside / 4 + 0.75 * outside) / (5 / 4 + 0.75), rel=1e-4)
    assert focused != pytest.approx(whole, rel=1e-3)


def test_what_is_shown_is_another_photo_of_the_same_person(base, portraits):
    adapter = fresh(base)
    seen = looked_at(adapter)
    loss_of(base, adapter, portraits, seed=3, batch=24, drop=0.0)
    drawn = torch.randint(len(portraits), (24,), generator=torch.Generator().manual_seed(3))
    faces, states = seen[0]
    clip = portraits.features["clip"].float()
    shown = torch.tensor([int((clip == each).flatten(1).all(dim=1).nonzero()) for each in states])
    assert torch.equal(portraits.people[shown], portraits.people[drawn])
    several = portraits.shelves.counts[portraits.shelves.person[drawn]] > 1
    assert several.any() and torch.equal(shown != drawn, several)
    assert torch.allclose(faces, normalize(portraits.features["arcface"][shown, 0].float(), dim=1))


def test_a_dropped_face_is_what_the_unconditional_branch_sees(base, portraits):
    adapter = fresh(base)
    seen = looked_at(adapter)
    loss_of(base, adapter, portraits, drop=1.0)
    faces, states = seen[0]
    assert faces.eq(0).all() and torch.equal(states, nothing().expand(2, -1, -1))


@pytest.fixture(scope="module")
def loaded(base):
    adapter = fresh(base)
    weights = {name: each.clone() for name, each in adapter.state().items()}
    return adapter, IpAdapter(weights, "tiny.safetensors", metadata=INFINITE_ID_METADATA)


def test_a_file_has_the_sizes_that_were_trained(loaded):
    adapter, read = loaded
    assert read.format.name == "infinite-id" and read.base == "SD1.5" and read.token_dim == adapter.width
    assert sorted(set(read.widths.values())) == [32, 64] and read.clip_width == CLIP[1]


def test_an_adapter_in_use_is_the_one_in_training(base, portraits, loaded):
    """A cond and an uncond row in one call, the text being on: the uncond row sees no face."""
    adapter, read = loaded
    clip, face = (portraits.features[name][:1].float() for name in ("clip", "arcface"))
    face = normalize(face[:, 0], dim=1)
    batch = sample_noise(base, portraits.latents[:2], torch.Generator().manual_seed(3))
    context = base.context(base.embeddings(base.tokens(portraits.captions[:2])))
    with torch.inference_mode():
        tokens = adapter.mapper(torch.cat((face, 0 * face)), torch.cat((clip, nothing()[None])))
        options = attention_patches(base, adapter, tokens, text_off=False)
        trained = base.denoise(batch.z_t, batch.sigma, context, options)
        plain = base.denoise(batch.z_t, batch.sigma, context, {})
        identity = FaceId("arcface", "tiny", "0" * 64, face[:, None] * 3, face, torch.zeros(1, 8, 8, 3), False)
        own = read.tokens(identity, ClipFeatures("last", clip, nothing()[None]))
        assert torch.allclose(own, tokens, atol=1e-5)
        used = in_use(read, own, batch, context)
    assert (trained - plain).norm() > 0.05 * plain.norm() and torch.allclose(used, trained, atol=1e-4)


def in_use(adapter, tokens, batch, context):
    patched = apply_ip_adapter(tiny_frozen.host()[0], adapter, tokens, strength=1.0)
    options = patched.model_options["transformer_options"] | {"cond_or_uncond": [0, 1]}
    return patched.model.apply_model(batch.z_t, batch.sigma, c_crossattn=context, transformer_options=options)


def test_a_training_goes_on_as_if_never_stopped(base, portraits, tmp_path):
    """With pictures of two shapes."""
    shapes = [(4, 4), (2, 8), (4, 4), (2, 8), (2, 8), (4, 4)]
    several = [stack([tensor[row].reshape(-1, *shape).squeeze(0) for row, shape in enumerate(shapes)])
               for tensor in (portraits.latents, portraits.faces)]  # fmt: skip
    portraits = replace(portraits, latents=several[0], faces=several[1])
    settings = InfiniteIdSettings(**TINY, lr=1e-2)
    whole, progress = tiny_frozen.train(infinite_id, base, (portraits, nothing()), settings)
    for until in (replace(settings, steps=1), settings):
        resumed, again = tiny_frozen.train(infinite_id, base, (portraits, nothing()), until, tmp_path / "adapter.pt")
    assert again.resumed_at == 1 and again.losses == progress.losses
    assert all(torch.equal(each, whole.state()[name]) for name, each in resumed.state().items())


@pytest.fixture(scope="module")
def sdxl():
    return freeze(tiny_ip.sdxl(), None, "float32")


SHAPES = [(8, 8), (4, 12), (8, 8), (4, 12), (4, 12), (8, 8)]


@pytest.fixture(scope="module")
def large():
    """Portraits as SDXL has them: four channels, of two shapes, cut from photos of several sizes."""
    few = tiny_frozen.portraits(clip=CLIP, arcface=(1, 512))
    draw = torch.Generator().manual_seed(5)
    sizes = [(40, 40, 0, 0), (70, 210, 0, 0), (300, 310, 0, 1), (90, 200, 5, 0), (60, 200, 0, 3), (900, 901, 0, 0)]
    latents = stack([torch.randn(4, *shape, generator=draw).half() for shape in SHAPES])
    faces = stack([torch.ones(shape).half() for shape in SHAPES])
    return replace(few, latents=latents, faces=faces, sizes=torch.tensor(sizes))


SDXL = TINY | {"batch": 1, "drop": 0.0}


@pytest.mark.parametrize("clip_mapper", CLIP_MAPPERS)
def test_on_sdxl_the_mappers_and_70_attentions_learn_and_nothing_else(sdxl, large, clip_mapper):
    settings = InfiniteIdSettings(**SDXL, clip_mapper=clip_mapper)
    adapter = make(sdxl, large, settings)
    assert len(adapter.attentions) == 70 == len(BLOCKS["SDXL"]) and sdxl.kind == "SDXL"
    make_loss(sdxl, adapter, large, nothing(), settings)(make_stream(2), 0).backward()
    assert all(each.grad.abs().max() > 0 for each in adapter.parameters())
    assert all(each.grad is None for each in sdxl.model.diffusion_model.parameters())


def test_on_sdxl_the_loss_is_that_of_the_noise_with_images_in_the_place_of_text(sdxl, large):
    """By the host's own model and the attention written out, from the same samples, which are wide."""
    settings = InfiniteIdSettings(**SDXL)
    adapter = make(sdxl, large, settings)
    loss = make_loss(sdxl, adapter, large, nothing(), settings)(make_stream(3), 0).item()

    generator = make_stream(3)
    first = int(torch.randint(len(large), (1,), generator=generator))
    alike = [row for row, shape in enumerate(SHAPES) if shape == SHAPES[first]]
    index = torch.tensor(alike)[torch.randint(len(alike), (1,), generator=generator)]
    height, width = SHAPES[first]
    other = others(large, index, generator)
    torch.rand(1, generator=generator)
    clip, face = large.features["clip"][other].float(), large.features["arcface"][other, 0].float()
    t = torch.randint(1000, (1,), generator=generator)
    eps = torch.randn(1, 4, height, width, generator=generator)
    z_0, sigma = large.latents[index].float(), sdxl.model.model_sampling.sigmas[t]
    numbers = torch.cat((large.sizes[index][0], torch.tensor([8 * height, 8 * width]))).float()
    y = torch.cat((torch.zeros(1, tiny_ip.POOLED), sdxl.model.embedder(numbers).flatten()[None]), dim=1)

    def at(block):
        part = adapter.attentions["-".join(map(str, block))]

        def replaced(q, k, v, options):
            heads = options["n_heads"]
            q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, part.to_k(tokens), part.to_v(tokens)))
            weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
            return (weights @ v).transpose(1, 2).flatten(2)

        return replaced

    with torch.no_grad():
        tokens = torch.cat(
            (adapter.mapper.clip_mapper(clip), adapter.mapper.face_mapper(normalize(face, dim=1))), dim=1
        )
        options = {"patches_replace": {"attn2": {block: at(block) for block in BLOCKS["SDXL"]}}}
        x, context = z_0 + sigma * eps, torch.zeros(1, 1, tiny_ip.DIM)
        scaled = x / (sigma**2 + 1) ** 0.5
        predicted = sdxl.model.diffusion_model(scaled, t.float(), context=context, y=y, transformer_options=options)
    assert loss == pytest.approx((predicted - eps).square().mean().item(), rel=1e-4)


def test_on_sdxl_the_size_of_the_photo_counts(sdxl, large):
    settings = InfiniteIdSettings(**SDXL)
    adapter = make(sdxl, large, settings)
    losses = [
        make_loss(sdxl, adapter, each, nothing(), settings)(make_stream(2), 0).item()
        for each in (large, replace(large, sizes=large.sizes + 500), replace(large, sizes=None))
    ]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("clip_mapper", CLIP_MAPPERS)
def test_a_file_for_sdxl_is_used_as_it_was_trained(sdxl, large, clip_mapper):
    """Through Apply Image Adapter's own way, a row with a face and one without."""
    settings = InfiniteIdSettings(**SDXL, clip_mapper=clip_mapper)
    adapter = make(sdxl, large, settings)
    read = IpAdapter({name: each.clone() for name, each in adapter.state().items()}, "x", metadata=INFINITE_ID_METADATA)
    assert read.base == "SDXL" and read.clip_width == CLIP[1] and read.token_dim == tiny_ip.DIM
    clip, face = large.features["clip"][:1].float(), normalize(large.features["arcface"][:1, 0].float(), dim=1)
    batch = sample_noise(sdxl, large.latents[torch.tensor([1, 4])], make_stream(3))
    context, y = torch.randn(2, 7, tiny_ip.DIM, generator=make_stream(4)), sdxl.size_condition(large.sizes[:2], 32, 96)
    with torch.inference_mode():
        tokens = adapter.mapper(torch.cat((face, 0 * face)), torch.cat((clip, nothing()[None])))
        trained = sdxl.denoise(
            batch.z_t, batch.sigma, context, attention_patches(sdxl, adapter, tokens, text_off=False), y
        )
        identity = FaceId("arcface", "tiny", "0" * 64, face[:, None] * 3, face, torch.zeros(1, 8, 8, 3), False)
        patched = apply_ip_adapter(
            tiny_ip.sdxl(), read, read.tokens(identity, ClipFeatures("last", clip, nothing()[None]))
        )
        options = patched.model_options["transformer_options"] | {"cond_or_uncond": [0, 1]}
        used = patched.model.apply_model(batch.z_t, batch.sigma, c_crossattn=context, y=y, transformer_options=options)
    assert torch.allclose(used, trained, atol=1e-3 * trained.abs().max())


def test_sdxl_with_its_text_is_refused(sdxl, large):
    with pytest.raises(ValueError, match="text_off = false, an ablation, is there for SD1.x only"):
        make(sdxl, large, InfiniteIdSettings(**SDXL, text_off=False))
