"""Projectors, image cross-attention and SFAGS against their equations written out in float64, and nothing of ours.

docs/papers.md has the equations: 2.3 the resampler, 2.4 SFAGS, 4.1 image cross-attention, 4.2 what each format reads.
"""

import math

import pytest
import torch
from likeness.adapters.ip_adapter import IpAdapter
from likeness.adapters.unet_blocks import number_attentions
from likeness.attention_patches.fact import FactPatch, apply_fact
from likeness.attention_patches.ip_adapter import AttentionReplacement, apply_ip_adapter
from likeness.tests.support import tiny, tiny_ip
from likeness.tests.support.golden_recipe import state_dict

import nodes

KINDS = ("full-face", "faceid-portrait", "faceid-portrait-unnorm")
EXACT = 2e-6  # relative L2 of float32 arithmetic in another order
ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # about one of the last digit
STRENGTH = 0.8
HEAD = 64  # of every resampler


def rel(a, b) -> float:
    """Distance of two tensors, relative to the second."""
    return float(torch.linalg.vector_norm(a.double() - b.double()) / torch.linalg.vector_norm(b.double()))


def linear(w, name, x):
    y = torch.einsum("...i,oi->...o", x, w[f"{name}.weight"])
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(w, name, x):
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attend(q, k, v, heads):
    """Softmax attention, head by head."""
    parts = []
    for queries, keys, values in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        weights = torch.exp(torch.einsum("bnd,bmd->bnm", queries, keys) / math.sqrt(queries.shape[-1]))
        parts.append(torch.einsum("bnm,bmd->bnd", weights / weights.sum(-1, keepdim=True), values))
    return torch.cat(parts, -1)


def resample(w, features):
    """The perceiver resampler of one layer, [n, m, e] -> [n, queries, D]."""
    latents, x = w["latents"].expand(len(features), -1, -1), linear(w, "proj_in", features)
    rows = norm(w, "layers.0.0.norm2", latents)
    k, v = linear(w, "layers.0.0.to_kv", torch.cat((norm(w, "layers.0.0.norm1", x), rows), 1)).chunk(2, -1)
    q = linear(w, "layers.0.0.to_q", rows)
    latents = latents + linear(w, "layers.0.0.to_out", attend(q, k, v, q.shape[-1] // HEAD))
    inner = gelu(linear(w, "layers.0.1.1", norm(w, "layers.0.1.0", latents)))
    return norm(w, "norm_out", linear(w, "proj_out", latents + linear(w, "layers.0.1.3", inner)))


def project(kind, w, features):
    """What a format makes of n photos, [n, tokens, D]."""
    w = {name.removeprefix("image_proj."): value.double() for name, value in w.items()}
    if kind == "full-face":
        return norm(w, "proj.3", linear(w, "proj.2", gelu(linear(w, "proj.0", features))))
    if kind == "faceid-portrait":
        tokens = linear(w, "proj.2", gelu(linear(w, "proj.0", features)))
        return norm(w, "norm", tokens.reshape(len(features), 16, tiny_ip.DIM))
    return resample(w, features)


def read(kind, photos):
    """The features that a format reads of photos and their negative, and what `tokens` is given of them."""
    if kind == "full-face":
        clip = tiny_ip.clip("penultimate", photos)
        return clip.features.double(), clip.negative.double(), {"clip": clip}
    face = tiny_ip.face(photos)
    raw = face.features.double()  # [n, 1, 512], 20 long
    features = raw[:, 0] / raw[:, 0].norm(dim=1, keepdim=True) if kind == "faceid-portrait" else raw
    return features, torch.zeros_like(features[:1]), {"face": face}


def write_tokens(kind, w, photos):
    """The tokens of both branches on paper, [2, photos * tokens, D], and what `tokens` is given."""
    features, negative, given = read(kind, photos)
    pair = [project(kind, w, part).expand(photos, -1, -1).flatten(0, 1) for part in (features, negative)]
    return torch.stack(pair), given


@torch.inference_mode()
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_projectors(kind, stored):
    """Also of files in half precision, which are computed in float32 all the same."""
    w = {name: value.to(stored) for name, value in state_dict(tiny_ip.shapes(kind), 1).items()}
    expected, given = write_tokens(kind, w, photos=2)
    tokens = IpAdapter(w, f"tiny_{kind.replace('-', '_')}.bin").tokens(**given)
    assert tokens.dtype == torch.float32 and rel(tokens, expected) < EXACT
    assert rel(expected[1], expected[0]) > 0.1


def average(mask, tokens, latent):
    """A mask [n, H, W] at `tokens` tokens of a latent (h, w): halves round up, each token sees its area."""
    h, w = latent
    while h * w > tokens:
        h, w = (h + 1) // 2, (w + 1) // 2
    rows = [(y * mask.shape[1] // h, -(-(y + 1) * mask.shape[1] // h)) for y in range(h)]
    columns = [(x * mask.shape[2] // w, -(-(x + 1) * mask.shape[2] // w)) for x in range(w)]
    areas = [mask[:, top:bottom, left:right].mean((1, 2)) for top, bottom in rows for left, right in columns]
    return torch.stack(areas, 1)[..., None]


def spy_on(monkeypatch, owner, name):
    """The calls of a method during a sampling, as (arguments without self, result)."""
    calls, method = [], getattr(owner, name)

    def spy(self, *args):
        given = [part.clone() if isinstance(part, torch.Tensor) else part for part in args]
        result = method(self, *args)
        calls.append((given, result.clone()))
        return result

    monkeypatch.setattr(owner, name, spy)
    return calls


def sample(model, latent):
    """One step of two images of a size."""
    pooled = {"pooled_output": torch.ones(1, tiny_ip.POOLED)}
    prompts = [[[tiny.conditioning(seed)[0][0], pooled]] for seed in (3, 4)]
    nodes.common_ksampler(model, 5, 1, 3.0, "euler", "normal", *prompts, {"samples": torch.zeros(2, 4, *latent)})


def draw_masks(latent):
    """A mask of its own for each of two images, in another size than the latent's."""
    return torch.rand(2, 7 * latent[0] + 3, 5 * latent[1], generator=torch.Generator().manual_seed(9))


CASES = [
    ("SD1.5", "full-face", (9, 13), torch.float32),
    ("SD1.5", "faceid-portrait", (24, 8), torch.float16),
    ("SD1.5", "faceid-portrait-unnorm", (9, 14), torch.bfloat16),
    pytest.param("SDXL", "faceid-portrait", (10, 13), torch.float32, marks=pytest.mark.slow),
    pytest.param("SDXL", "full-face", (12, 8), torch.float16, marks=pytest.mark.slow),
    pytest.param("SDXL", "faceid-portrait-unnorm", (9, 16), torch.bfloat16, marks=pytest.mark.slow),
]


@torch.inference_mode()
@pytest.mark.parametrize("base, kind, latent, dtype", CASES)
def test_image_cross_attention_of_two_images_with_masks(monkeypatch, base, kind, latent, dtype):
    """Every block of the host's UNet, from the photo's features to the output, in sizes that are no squares."""
    w, masks = state_dict(tiny_ip.shapes(kind, base), 1), draw_masks(latent)
    adapter = IpAdapter(w, f"tiny_{kind.replace('-', '_')}.bin")
    tokens, given = write_tokens(kind, w, photos=2)
    model = tiny.model(dtype) if base == "SD1.5" else tiny_ip.sdxl(dtype)
    model = apply_ip_adapter(model, adapter, adapter.tokens(**given), STRENGTH, mask=masks)
    calls = spy_on(monkeypatch, AttentionReplacement, "__call__")
    sample(model, latent)
    numbers = {block: number for number, block in number_attentions(base).items()}
    assert len(calls) == len(numbers)
    for (q, k, v, extra), out in calls:
        assert q.dtype == out.dtype == dtype
        number = numbers[*extra["block"], extra["block_index"]]
        keys, values = (
            torch.cat([tokens[[index] * 2] @ w[f"ip_adapter.{number}.to_{part}_ip.weight"].double().T
                       for index in extra["cond_or_uncond"]]) for part in "kv"
        )  # fmt: skip
        q, k, v = (part.double() for part in (q, k, v))
        region = average(masks.double(), q.shape[1], latent).repeat(2, 1, 1)
        heads = extra["n_heads"]
        expected = attend(q, k, v, heads) + STRENGTH * region * attend(q, keys, values, heads)
        assert rel(out, expected) < ROUNDING[dtype], extra["block"]


@torch.inference_mode()
@pytest.mark.parametrize("latent, dtype", [
    ((9, 13), torch.float32), ((24, 8), torch.float16), ((9, 14), torch.bfloat16),
])  # fmt: skip
def test_sfags_of_two_images_with_masks(monkeypatch, latent, dtype):
    adapter, masks, face = tiny.adapter(), draw_masks(latent), tiny.face_id(2)
    model = apply_fact(tiny.model(dtype), adapter, face, strength=STRENGTH, mask=masks)
    pair = [adapter.face_tokens(part)[0].double() for part in (face.features, torch.zeros_like(face.features))]
    calls = spy_on(monkeypatch, FactPatch, "add_face")
    sample(model, latent)
    blocks = dict(zip(adapter.widths, adapter.face_blocks().model))
    assert len(calls) == len(blocks)
    for (x, _, extra, _), out in calls:
        assert x.dtype == out.dtype == dtype
        w = {name: value.double() for name, value in blocks[extra["block"]].state_dict().items()}
        x, n, heads = x.double(), x.shape[1], extra["n_heads"]
        face_rows = torch.cat([pair[index][None].expand(2, -1, -1) for index in extra["cond_or_uncond"]])
        gates = STRENGTH * average(masks.double(), n, latent).repeat(2, 1, 1)
        rows = norm(w, "norm1", torch.cat((x, linear(w, "linear", face_rows)), 1))
        q, k, v = linear(w, "attn.to_qkv", rows).chunk(3, -1)
        seen = linear(w, "attn.to_out.0", attend(q, k, v, heads))[:, :n]
        expected = x + gates * torch.tanh(w["alpha_attn"]) * seen
        inner, gate = linear(w, "ff.net.0.proj", norm(w, "norm2", expected)).chunk(2, -1)
        expected = expected + gates * torch.tanh(w["alpha_dense"]) * linear(w, "ff.net.2", inner * gelu(gate))
        assert rel(out - x, expected - x) < 2 * ROUNDING[dtype], extra["block"]
