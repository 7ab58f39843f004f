"""Face2Diffusion's training: class-guided denoising by its oracles, and two words as the host reads them."""

from dataclasses import replace

import pytest
import torch
from likeness.adapters import face_prompt
from likeness.adapters.face2diffusion import Face2DiffusionAdapter
from likeness.encoders.identity import FaceId
from likeness.tests.support import tiny_frozen
from likeness.training import face2diffusion
from likeness.training.face2diffusion import (
    Face2DiffusionSettings,
    cgdr_target,
    dropped,
    insert_words,
    make_mapping,
    step_loss,
)
from likeness.training.frozen import Frozen

TINY = {"steps": 3, "batch": 2, "hidden": (16, 12), "dropout": 0.0, "precision": "float32"}
WORD = 128


@pytest.fixture(scope="module")
def base():
    return tiny_frozen.frozen_base()


@pytest.fixture(scope="module")
def portraits():
    return tiny_frozen.portraits(msid=(1, 12), expression=(6,))


def fresh(portraits, seed=1):
    torch.manual_seed(seed)
    return make_mapping(portraits, WORD, Face2DiffusionSettings(**TINY))


def prompts_of(base):
    return base.tokens(["a photo of f l", "a photo of a person"])


def loss_of(base, portraits, network, seed=2, prompts=None, **settings):
    prompts = prompts_of(base) if prompts is None else prompts
    generator = torch.Generator().manual_seed(seed)
    return step_loss(base, network, portraits, prompts, Face2DiffusionSettings(**TINY | settings), generator)


def masked_everywhere(portraits, share: float):
    return replace(portraits, faces=torch.full_like(portraits.faces, share))


def test_the_target_is_the_picture_inside_and_the_class_outside():
    z_0, of_class = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(cgdr_target(z_0, of_class, torch.ones(2, 4, 5)), z_0)
    assert torch.equal(cgdr_target(z_0, of_class, torch.zeros(2, 4, 5)), of_class)
    mask = torch.zeros(2, 4, 5)
    mask[0, :, :2] = 1
    target = cgdr_target(z_0, of_class, mask)
    assert torch.equal(target[0, :, :, :2], z_0[0, :, :, :2]) and torch.equal(
        target[0, :, :, 2:], of_class[0, :, :, 2:]
    )
    assert torch.equal(target[1], of_class[1])


def test_where_all_is_face_it_is_plain_reconstruction(base, portraits):
    network, whole = fresh(portraits), masked_everywhere(portraits, 1.0)
    losses = [loss_of(base, whole, network, mode=mode) for mode in ("cgdr", "reconstruction", "masked")]
    assert torch.allclose(losses[0], losses[1], rtol=1e-5) and torch.allclose(losses[2], losses[1], rtol=1e-5)
    half = [loss_of(base, portraits, network, mode=mode).item() for mode in ("cgdr", "reconstruction", "masked")]
    assert len({round(loss, 4) for loss in half}) == 3


def test_an_error_inside_the_face_counts_as_often_as_it_is_told(base, portraits):
    """From the losses of the whole picture and of the face, which fills a quarter of it."""
    network, faces = fresh(portraits), torch.zeros_like(portraits.faces)
    faces[:, : faces.shape[1] // 2, : faces.shape[2] // 2] = 1
    quarter = replace(portraits, faces=faces)
    whole, inside, focused = (
        loss_of(base, quarter, network, **settings).item()
        for settings in ({"mode": "reconstruction"}, {"mode": "masked"}, {"mode": "reconstruction", "focus": 5.0})
    )
    outside = (whole - inside / 4) / 0.75
    assert focused == pytest.approx((5 * inside / 4 + 0.75 * outside) / (5 / 4 + 0.75), rel=1e-4)
    assert focused != pytest.approx(whole, rel=1e-3)


def test_without_a_face_it_is_distillation_towards_the_class(base, portraits):
    """A prompt that is the class's own leaves nothing to learn."""
    network, bare = fresh(portraits), masked_everywhere(portraits, 0.0)
    _, of_class = prompts_of(base)
    assert loss_of(base, bare, network, prompts=torch.stack((of_class, of_class))) == 0
    loss = loss_of(base, bare, network)
    loss.backward()
    assert loss > 0 and all(each.grad.abs().max() > 0 for each in network.i2t_first.parameters())


def test_no_gradient_goes_through_the_class_prediction(base, portraits, monkeypatch):
    made, denoised = [], Frozen.denoise

    def kept(self, *inputs):
        made.append(denoised(self, *inputs))
        return made[-1]

    monkeypatch.setattr(Frozen, "denoise", kept)
    loss_of(base, portraits, fresh(portraits))
    assert [each.requires_grad for each in made] == [True, False] and made[0].shape == made[1].shape


def test_exactly_two_words_take_the_place_of_the_name(base):
    tokens = base.tokens(["a photo of f l smiling", "f l", "a photo of a man"])
    words = torch.randn(3, 2, WORD, generator=torch.Generator().manual_seed(1))
    plain = base.embeddings(tokens)
    named = insert_words(plain, tokens, words)
    assert torch.equal(named[0, 4:6], words[0]) and torch.equal(named[1, 1:3], words[1])
    changed = (named != plain).any(dim=2).nonzero().tolist()
    assert changed == [[0, 4], [0, 5], [1, 1], [1, 2]]


@pytest.mark.parametrize("prompt", ["a photo of f l", "a drawing of f l smiling, wearing a red cap, at the beach"])
def test_the_rows_are_those_of_the_nodes_prompt(base, prompt):
    words = torch.randn(1, 2, WORD, generator=torch.Generator().manual_seed(2))
    tokens = base.tokens([prompt])
    rows = base.context(insert_words(base.embeddings(tokens), tokens, words))
    nodes = face_prompt.encode(base.clip, face_prompt.make_face_prompt(base.clip, prompt, [words[0]]))
    plain = base.context(base.embeddings(tokens))
    assert torch.allclose(rows, nodes[0][0], atol=1e-5) and not torch.allclose(rows, plain, atol=1e-2)


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_the_unconditional_expression_learns_only_where_none_is_told(base, portraits, keep):
    network = fresh(portraits)
    assert network.null_exp.eq(0).all()
    loss_of(base, portraits, network, keep_expression=keep).backward()
    assert (network.null_exp.grad.abs().max() > 0) == (keep == 0)


def test_a_mapping_in_use_is_the_one_in_training(portraits):
    network = fresh(portraits)
    identity, expression = (portraits.features[name][:1].float() for name in ("msid", "expression"))
    weights = {name: each.clone() for name, each in network.state_dict().items()}
    face = FaceId("msid", "tiny", "0" * 64, identity, identity[:, 0], torch.zeros(1, 8, 8, 3), False)
    with torch.inference_mode():
        words = Face2DiffusionAdapter(weights, "tiny.safetensors").words(face, expression)
        assert torch.allclose(words, network(identity.flatten(1), expression)[0], atol=1e-6)


def test_an_unknown_mode_is_refused(base, portraits):
    with pytest.raises(ValueError, match="'dsc' is no mode of .*; choose one of cgdr, reconstruction, masked"):
        tiny_frozen.train(face2diffusion, base, (portraits,), Face2DiffusionSettings(**TINY, mode="dsc"))


def test_a_training_goes_on_as_if_never_stopped(base, portraits, tmp_path):
    settings, steps = Face2DiffusionSettings(**TINY, lr=1e-2), []
    whole, progress = tiny_frozen.train(
        face2diffusion, base, (portraits,), settings, None, lambda progress: steps.append(progress.step)
    )
    for until in (replace(settings, steps=1), settings):
        resumed, again = tiny_frozen.train(face2diffusion, base, (portraits,), until, tmp_path / "mapping.pt")
    assert steps == [1, 2, 3] and again.resumed_at == 1 and again.losses == progress.losses
    for name, each in resumed.state_dict().items():
        assert torch.equal(each, whole.state_dict()[name]) and not torch.equal(
            each, fresh(portraits).state_dict()[name]
        )


def test_dropout_leaves_numbers_out_in_training_only(base, portraits):
    network = fresh(portraits)
    inputs = torch.randn(3, 12), torch.randn(3, 6)
    hidden = []
    network.i2t_last.layers[1].register_forward_pre_hook(lambda layer, given: hidden.append(given[0]))
    with dropped(network, 0.5, torch.Generator().manual_seed(1)):
        network(*inputs)
    plain = network(*inputs)
    assert 5 < (hidden[0] == 0).sum() < 43 and (hidden[1] != 0).all(), "of 3 x 16"
    left = hidden[0] != 0
    assert torch.allclose(hidden[0][left], 2 * hidden[1][left], atol=1e-6)
    with dropped(network.eval(), 0.5, torch.Generator().manual_seed(1)):
        assert torch.equal(network(*inputs), plain)


def test_dropout_goes_on_as_if_never_stopped(base, portraits, tmp_path):
    settings = Face2DiffusionSettings(**TINY | {"dropout": 0.3}, lr=1e-2)
    whole, progress = tiny_frozen.train(face2diffusion, base, (portraits,), settings)
    for until in (replace(settings, steps=1), settings):
        _, again = tiny_frozen.train(face2diffusion, base, (portraits,), until, tmp_path / "a.pt")
    assert again.resumed_at == 1 and again.losses == progress.losses
