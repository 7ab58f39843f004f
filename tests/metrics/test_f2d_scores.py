"""Scores of pictures: the numbers, the order made of them, and the table drawn of them."""

from dataclasses import replace

import comfy.clip_vision
import comfy.sd
import numpy as np
import pytest
import torch
from likeness.adapters.face_prompt import make_face_prompt
from likeness.adapters.token_picture import draw_tokens
from likeness.encoders.loading import load_encoder
from likeness.faces.align import align_faces
from likeness.faces.headmask import head_masks
from likeness.faces.types import Face, Faces
from likeness.metrics.crops import fit_shorter_side, from_bytes, to_bytes
from likeness.metrics.ranking import rank
from likeness.metrics.scores import harmonic_mean, identity_scores, text_embedding, text_scores
from likeness.metrics.table import draw_scores
from likeness.tests.support import tiny_clip
from likeness.tests.support.checkpoints import drawn, msid_shapes
from likeness.tests.support.golden_recipe import draw

NAN = float("nan")
POINTS = np.array([[60.0, 70.0], [100.0, 68.0], [81.0, 95.0], [64.0, 115.0], [98.0, 113.0]])
IMAGES = torch.rand(3, 180, 160, 3, generator=torch.Generator().manual_seed(6))


def face(shift=0.0):
    return Face(POINTS + shift, (40, 40, 120, 140), 0.9)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "msid.pt"
    torch.save(drawn(msid_shapes(dim=64, depth=2, taps=(0, 1)), seed=3), path)
    return load_encoder(str(path))


def identity(encoder, faces, masked=False):
    return encoder.encode(align_faces(faces, 112, head_masks(faces) if masked else None), masked)


@pytest.mark.parametrize("masked", [False, True])
def test_identity_score_is_the_cosine_of_crops_made_alike(encoder, masked):
    person = identity(encoder, Faces(IMAGES[:2], ((face(),), (face(),))), masked)
    scores = identity_scores(encoder, Faces(IMAGES, ((face(),), (), (face(), face(5.0)))), person)
    vectors = identity(encoder, Faces(IMAGES[[0, 2, 2]], ((face(),), (face(),), (face(5.0),))), masked).embedding
    cosines = (vectors @ person.embedding.T).mean(dim=1)
    assert scores[1].isnan(), "no face"
    torch.testing.assert_close(scores[[0, 2]], torch.stack((cosines[0], cosines[1:].max())), atol=1e-6, rtol=0)
    alone = identity_scores(
        encoder, Faces(IMAGES[:1], ((face(),),)), identity(encoder, Faces(IMAGES[:1], ((face(),),)))
    )
    torch.testing.assert_close(alone, torch.ones(1), atol=1e-5, rtol=0)
    assert identity_scores(encoder, Faces(IMAGES, ((), (), ())), person).isnan().all()


def test_identities_of_another_encoder_are_not_compared(encoder):
    person = identity(encoder, Faces(IMAGES[:1], ((face(),),)))
    other = replace(encoder, kind="transface", sha256="0", name="other.pt")
    with pytest.raises(ValueError, match=r"encoded by msid.pt \(msid\), but other.pt \(transface\) is connected"):
        identity_scores(other, Faces(IMAGES, ((face(),), (), ())), person)


@torch.inference_mode()
def test_text_embedding_is_the_projected_last_token():
    clip = tiny_clip.tiny()
    model = clip.cond_stage_model.clip_l
    projection = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    model.transformer.text_projection.weight.copy_(projection)
    text = "photo of a woman in a (red:1.4) coat"
    end = [token for token, _ in clip.tokenize(text)["l"][0]].index(49407)
    hidden = clip.encode_from_tokens(clip.tokenize("photo of a woman in a red coat"))
    torch.testing.assert_close(text_embedding(clip, text), hidden[:, end] @ projection.T, atol=1e-5, rtol=0)
    clip.clip_layer(-2)
    torch.testing.assert_close(text_embedding(clip, text), hidden[:, end] @ projection.T, atol=1e-5, rtol=0)


def vision(projection):
    """The host's own vision network, tiny, with a projection to so many numbers."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    image = {
        "num_channels": 3,
        "patch_size": 14,
        "image_size": 28,
        "hidden_act": "quick_gelu",
        "model_type": "clip_vision_model",
    }
    network = comfy.clip_vision.ClipVisionModel({**sizes, **image, "projection_dim": projection})
    network.load_sd({name: draw(name, tuple(t.shape), 5) for name, t in network.get_sd().items()})
    return network


def cut_squares(images):
    return torch.stack([from_bytes(fit_shorter_side(to_bytes(image), 28, 28)) for image in images])


@torch.inference_mode()
def test_text_score_is_the_cosine_of_the_embeddings():
    clip, clip_vision = tiny_clip.tiny(), vision(64)
    scores = text_scores(clip, clip_vision, IMAGES, "a cat")
    words, expected_vectors = (
        text_embedding(clip, "a cat")[0].double(),
        clip_vision.encode_image(cut_squares(IMAGES)).image_embeds.double(),
    )
    expected = (expected_vectors @ words) / (expected_vectors.norm(dim=1) * words.norm())
    torch.testing.assert_close(scores.double(), expected, atol=1e-6, rtol=0)
    assert len(set(scores.tolist())) == 3
    with pytest.raises(ValueError, match="into 64 numbers and the vision network into 48: .* two halves of one CLIP"):
        text_scores(clip, vision(48), IMAGES, "a cat")


@torch.inference_mode()
@pytest.mark.parametrize("fill", [0.0, float("nan")])
def test_a_clip_without_projection_is_refused(fill):
    clip = tiny_clip.tiny()
    clip.cond_stage_model.clip_l.transformer.text_projection.weight.fill_(fill)
    with pytest.raises(ValueError, match="SD1ClipModel.* cannot score pictures: it has no projection"):
        text_embedding(clip, "a cat")


def test_a_checkpoints_text_encoder_is_refused_whatever_lies_in_its_memory():
    clip = tiny_clip.tiny()
    assert text_embedding(clip, "a cat").isfinite().all()
    clip.patcher.cached_patcher_init = (comfy.sd.load_checkpoint_clip_patcher, ())
    with pytest.raises(ValueError, match="which checkpoints of SD 1.x leave out"):
        text_embedding(clip, "a cat")


def test_harmonic_mean():
    first, second = torch.tensor([0.5, 0.2, 0.0, -0.3, 1.0]), torch.tensor([0.5, 0.6, 0.9, 0.4, 1.0])
    torch.testing.assert_close(harmonic_mean(first, second), torch.tensor([0.5, 0.3, 0.0, 0.0, 1.0]))
    assert torch.equal(harmonic_mean(first, second), harmonic_mean(second, first))


def order(identity, text=None):
    return rank({"identity": torch.tensor(identity)}, {} if text is None else {"text": torch.tensor(text)})


def test_order_by_both_scores_or_by_identity_alone():
    identity, text = [0.9, 0.5, 0.5, 0.1], [0.1, 0.3, 0.3, 0.4]
    both = order(identity, text)
    assert both.order == [1, 2, 0, 3] and list(both.scores) == ["identity x text", "identity", "text"]
    assert order([0.0, 0.0, -0.1], [0.1, 0.3, 0.2]).order == [1, 2, 0], "no face: by text"
    assert order([NAN, -0.055, NAN]).order == [1, 0, 2], "a brick wall is worse than any face"
    without = order([NAN, -0.2, NAN, 0.1], [0.3, 0.1, 0.4, 0.2])
    assert without.order == [3, 1, 2, 0] and without.scores["identity x text"][[0, 1, 2]].tolist() == [0, 0, 0]
    alone = order(identity)
    assert alone.order == [0, 1, 2, 3] and list(alone.scores) == ["identity"]


def test_the_table_shows_images_best_first_on_gold():
    images = torch.stack([torch.full((20, 30, 3), level) for level in (0.0, 0.5)])
    table = draw_scores(images, [1, 0], {"identity": torch.tensor([0.1, 0.9])}, "identity by msid.pt")
    assert table.shape[0] == 1 and table.shape[3] == 3 and table.min() >= 0 and table.max() <= 1
    cells = table[0, :, :180], table[0, :, 180:]
    first, second = (cell[92, 84] for cell in cells)
    assert (first - 0.5).abs().max() < 0.01 and second.max() == 0
    gold = (table[0] - torch.tensor([255, 232, 160]) / 255).abs().amax(dim=2) < 0.01
    assert gold[:, :181].float().mean() > 0.2 and gold[:, 181:].sum() == 0
    blue = (table[0] - torch.tensor([111, 168, 220]) / 255).abs().amax(dim=2) < 0.01
    assert blue[:, :180].sum() > 2 * blue[:, 180:].sum() > 0, "longer bar, better score"


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (9, 3), (25, 5), (30, 5)])
def test_the_table_is_a_grid_that_stays_readable_on_a_node(count, columns):
    """A node is about 440 pixels wide; what is wider is shrunk, and letters with it."""
    table = draw_scores(torch.rand(count, 96, 96, 3), list(range(count)), {"identity": torch.rand(count)}, "by msid.pt")
    assert table.shape[2] <= 5 * 176 + 8 and table.shape[1] > (count / columns) * 200


def test_the_table_says_where_there_is_no_face():
    images = torch.rand(2, 20, 20, 3)
    with_face, without = (draw_scores(images, [0, 1], {"identity": torch.tensor([0.4, v])}, "") for v in (0.0, NAN))
    assert torch.equal(with_face[:, :, :181], without[:, :, :181]) and not torch.equal(with_face, without)


@torch.inference_mode()
def test_the_token_image_grows_with_the_prompt():
    clip = tiny_clip.tiny()
    words = [torch.zeros(2, 64)]
    short, long = (draw_tokens(clip, make_face_prompt(clip, "{face} " + rest, words)) for rest in ("", "tree " * 90))
    assert short.shape[0] == 1 and short.shape[2] == long.shape[2] == 640 and long.shape[1] > 4 * short.shape[1]
    gold = ((short - torch.tensor([255, 205, 70]) / 255).abs().amax(dim=3) < 0.01).sum()
    assert gold == ((long - torch.tensor([255, 205, 70]) / 255).abs().amax(dim=3) < 0.01).sum() > 2000
