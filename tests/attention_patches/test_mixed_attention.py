"""Mixed attention and AdaIN-mean: the algebra's oracles."""

import pytest
import torch
from likeness.attention_patches.calls import ALWAYS
from likeness.attention_patches.infinite_id import STREAMS, MixedSelfAttention, Streams, TwoStreams
from likeness.attention_patches.mixed_attention import adain, adain_mean, mixed_keys_values


def rows(tokens, seed, batch=2, dim=12):
    return torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(seed)) * (seed + 1) + seed


def test_adain_mean_takes_the_mean_and_keeps_the_variance():
    x, target = rows(9, 1), rows(5, 2)
    result = adain_mean(x, target)
    torch.testing.assert_close(result.mean(dim=1), target.mean(dim=1))
    torch.testing.assert_close(result.var(dim=1), x.var(dim=1))
    torch.testing.assert_close(adain_mean(result, target), result)
    heads = [adain_mean(a, b) for a, b in zip(x.split(4, dim=2), target.split(4, dim=2))]
    torch.testing.assert_close(torch.cat(heads, dim=2), result)


def test_full_adain_takes_mean_and_deviation():
    result = adain(rows(9, 1), rows(5, 2))
    torch.testing.assert_close(result.mean(dim=1), rows(5, 2).mean(dim=1))
    torch.testing.assert_close(result.std(dim=1, correction=0), rows(5, 2).std(dim=1, correction=0))


def test_doubled_keys_and_values_leave_attention_as_it_is():
    q, k, v = rows(7, 0), rows(5, 1), rows(5, 2)
    attend = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(attend(q, *mixed_keys_values(k, v, k, v)), attend(q, k, v))


@pytest.mark.parametrize("images", [1, 3])
def test_both_streams_side_by_side_are_the_papers_keys(images):
    """What batch 1 has for free must be K^ = [K_id; K_t] for every batch and number of chunks."""
    x = torch.randn(2 * 2 * images, 5, 4, generator=torch.Generator().manual_seed(0))
    streams = Streams("mixed", "none", 1.0, images=images)
    k_id, k_t = streams.split(x)
    expected, _ = mixed_keys_values(k_id, k_id, k_t, k_t)
    found = streams.side_by_side(x)
    assert torch.equal(found, expected)
    assert (found.data_ptr() == x.data_ptr()) == (images == 1), "no copy for one image"


@pytest.mark.parametrize("style", ["none", "AdaIN-mean"])
@pytest.mark.parametrize("mixing", ["mixed", "mutual"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_every_row_attends_to_what_the_paper_says(mixing, style, pieces):
    """Two chunks of two images in both streams; pieces: the queries of an image in two runs of tokens."""
    attend = torch.nn.functional.scaled_dot_product_attention
    q, k, v = (torch.randn(8, 6, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    queries = q.reshape(8 * pieces, 6 // pieces, 4)
    streams = Streams(mixing, style, 1.0, images=2)
    options = {"block": ("middle", 0), "block_index": 0, "n_heads": 1, STREAMS: streams}
    found = MixedSelfAttention({}, {("middle", 0, 0): 1})(queries, k, v, options).reshape(8, 6, 4)
    for row in range(8):
        for piece in range(pieces):
            run = slice(piece * 6 // pieces, (piece + 1) * 6 // pieces)
            text = row + 2 if row % 4 < 2 else row
            keys, values, k_t, v_t = (x[n : n + 1, run] for n in (row, text) for x in (k, v))
            if row != text and mixing == "mutual":
                keys, values = k_t, v_t
            elif row != text:
                if style != "none":
                    keys, values = adain_mean(keys, k_t), adain_mean(values, v_t)
                keys, values = mixed_keys_values(keys, values, k_t, v_t)
            torch.testing.assert_close(found[row : row + 1, run], attend(q[row : row + 1, run], keys, values))


def test_half_of_a_call_is_described_as_a_call_of_its_own():
    streams = Streams("mixed", "none", 1.0, images=2)
    options = {
        "original_shape": [8, 4, 16, 16], "activations_shape": [8, 32, 8, 8], "sigmas": torch.ones(4), "n_heads": 2,
        STREAMS: streams,
    }  # fmt: skip
    half, again = streams.describe_half(options), streams.describe_half(options)
    assert half["original_shape"] == [4, 4, 16, 16] and half["activations_shape"] == [4, 32, 8, 8]
    assert len(half["sigmas"]) == 2 and half["n_heads"] == 2 and STREAMS not in half
    assert all(half[name] is again[name] for name in ("original_shape", "sigmas")), "read once for each call"
    later = streams.describe_half(options | {"sigmas": torch.zeros(4)})
    assert later["sigmas"].tolist() == [0, 0]


def test_a_style_of_a_share_lies_between():
    x, target = rows(4, 1), rows(9, 2)
    part, whole = (Streams("mixed", "AdaIN-mean", share).restyle(x, target, ("middle", 0, 0)) for share in (0.3, 1.0))
    torch.testing.assert_close(part, 0.7 * x + 0.3 * whole)


def test_the_sampler_gets_both_streams_and_the_user_the_identitys():
    """Of two images with noise, picture and mask each: the sampler knows four, and is told nothing of two of them."""
    noise, picture, mask = (torch.arange(2.0).reshape(2, 1, 1, 1) + start for start in (10, 20, 30))
    shown, given = [], []

    def sample(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask):
        given.extend(part.flatten().tolist() for part in (noise, latent_image, denoise_mask))
        callback(0, torch.arange(4.0), torch.arange(4.0, 8.0), 1)
        return torch.arange(4.0)

    def show(step, x0, x, steps):
        shown.append((step, x0.tolist(), x.tolist(), steps))

    two = TwoStreams(Streams("mixed", "none", 1.0), ALWAYS, (), {})
    options = {"model_options": {"transformer_options": {}}}
    result = two.around_sampler(sample, None, None, options, show, noise, picture, mask)
    assert given == [[10, 11, 10, 11], [20, 21, 20, 21], [30, 31, 30, 31]]
    assert shown == [(0, [0, 1], [4, 5], 1)] and result.tolist() == [0, 1]
