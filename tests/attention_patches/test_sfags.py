"""The algebra of SFAGS alone."""

import comfy.gligen
import torch
from likeness.adapters.fact import GatedSelfAttention, JoinedSelfAttention, join_projections
from likeness.attention_patches.sfags import gated_self_attention, project_face
from torch.nn.functional import scaled_dot_product_attention

DIM, TOKEN_DIM, HEADS = 32, 24, 4


def attention(q, k, v):
    q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def setup(alpha_attn=0.7, alpha_dense=-0.4):
    torch.manual_seed(0)
    site = GatedSelfAttention(DIM, TOKEN_DIM)
    with torch.no_grad():
        site.alpha_attn.fill_(alpha_attn)
        site.alpha_dense.fill_(alpha_dense)
    return site, torch.randn(2, 10, DIM), torch.randn(2, 3, TOKEN_DIM)


@torch.inference_mode()
def sfags(site, x, face, strength=1.0, mask=1.0):
    gates = (strength * torch.tanh(alpha) * mask for alpha in (site.alpha_attn, site.alpha_dense))
    return gated_self_attention(x, project_face(site, face), site, *gates, attention)


@torch.inference_mode()
def test_equals_the_hosts_gligen_block():
    """The same names and the same mathematics, there with the face rows as queries too."""
    site, x, face = setup()
    gligen = comfy.gligen.GatedSelfAttentionDense(DIM, TOKEN_DIM, HEADS, DIM // HEADS)
    gligen.load_state_dict(site.state_dict())
    for strength in (1.0, 0.5):
        gligen.scale = strength
        torch.testing.assert_close(sfags(site, x, face, strength), gligen(x, face), atol=2e-6, rtol=0)


@torch.inference_mode()
def test_one_product_for_three_projects_the_same():
    site, x, face = setup()
    joined = GatedSelfAttention(DIM, TOKEN_DIM, attention=JoinedSelfAttention)
    joined.load_state_dict(join_projections(site.state_dict()))
    torch.testing.assert_close(sfags(joined, x, face), sfags(site, x, face), atol=2e-6, rtol=0)


def test_closed_gates_and_zero_strength_are_the_identity():
    site, x, face = setup(alpha_attn=0.0, alpha_dense=0.0)
    assert torch.equal(sfags(site, x, face), x)
    site, x, face = setup()
    assert torch.equal(sfags(site, x, face, strength=0.0), x)
    assert not torch.equal(sfags(site, x, face), x)


def test_a_mask_gates_each_token():
    site, x, face = setup()
    mask = torch.zeros(1, 10, 1)
    mask[:, :4] = 1
    masked, whole = sfags(site, x, face, mask=mask), sfags(site, x, face)
    assert torch.equal(masked[:, 4:], x[:, 4:])
    torch.testing.assert_close(masked[:, :4], whole[:, :4], atol=1e-6, rtol=0)


def test_face_rows_have_no_order():
    site, x, face = setup()
    torch.testing.assert_close(sfags(site, x, face), sfags(site, x, face[:, [2, 0, 1]]), atol=1e-6, rtol=0)


def test_the_face_matters_to_every_token():
    site, x, face = setup()
    moved = (sfags(site, x, face) - sfags(site, x, -face)).abs().amax(2)
    assert (moved > 1e-4).all()
