"""The trainers of the drawn world's own networks: what they minimise, and that they go on where they stopped."""

import math
from dataclasses import replace

import comfy.clip_vision
import numpy as np
import pytest
import torch
from likeness.faces.align import align_faces, template, warp
from likeness.faces.geometry import similarity
from likeness.faces.headmask import head_masks, mask_background
from likeness.metrics.scores import text_embedding
from likeness.miniature.models import base_model as miniature
from likeness.miniature.models.autoencoder import Autoencoder, AutoencoderSizes
from likeness.miniature.models.language import Captions, Vocabulary
from likeness.miniature.models.recogniser import Recogniser
from likeness.miniature.training import autoencoder, clip_pair, crops, recogniser, text_to_image
from likeness.miniature.world import dataset
from likeness.miniature.world.people import VECTOR_NAMES
from likeness.training import msid
from likeness.training.frozen import mean_in_mask
from torch.nn.functional import normalize

CPU = torch.device("cpu")
RECIPE = dataset.SetRecipe(split="train", first=0, people=3, images=2, size=96)
SIZES = AutoencoderSizes(4, (8, 16), (16, 8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    dataset.write(folder, RECIPE)
    return dataset.read(folder)


@pytest.fixture(scope="module")
def vocabulary(pictures):
    return Vocabulary([*pictures.captions, "a person"])


def random(*shape, seed=1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ignored(progress) -> None:
    pass


def goes_on(make, run, settings, folder) -> set[str]:
    """Assert that three steps and one step and two more give the same; the names of what was trained."""
    settings = replace(settings, steps=3)
    whole = make()
    progress = run(whole, settings, None)
    for until in (replace(settings, steps=1), settings):
        resumed = make()
        again = run(resumed, until, folder / "checkpoint.pt")
    assert progress.step == 3 and again.resumed_at == 1 and again.losses == progress.losses
    assert all(math.isfinite(loss) for loss in progress.losses)
    trained = dict(resumed.named_parameters())
    assert all(torch.equal(each, trained[name]) for name, each in whole.named_parameters())
    before = dict(make().named_parameters())
    return {name for name, each in trained.items() if not torch.equal(each, before[name])}


def test_the_picture_loss_by_hand():
    pictures, made = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    made[0, 0] = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    value = (1 + 2 + 4 + 8) / 12
    down, right = (3 + 6) / 6, (1 + 4) / 6
    assert float(autoencoder.image_loss(made, pictures, 0.5)) == pytest.approx(value + 0.5 * (down + right))
    assert autoencoder.image_loss(made + 3, made + 3, 0.5) == 0


def test_the_divergence_is_nothing_for_the_standard_normal():
    assert autoencoder.divergence(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    mean, log_variance = torch.tensor([2.0, 0.0]), torch.tensor([0.0, math.log(4)])
    by_hand = (0.5 * 4 + 0.5 * (4 - 1 - math.log(4))) / 2
    assert float(autoencoder.divergence(mean, log_variance)) == pytest.approx(by_hand)


def tiny_autoencoder() -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(SIZES)


@torch.no_grad()
def test_unit_variance_changes_no_picture():
    network, pictures = tiny_autoencoder(), random(4, 3, 48, 48)
    network.encoder.exit.weight[1] *= 1e-3  # a channel that holds next to nothing
    network.encoder.exit.bias[1] *= 1e-3
    before, (_, log_variance) = network.decode(network.encode(pictures)), network.moments(pictures)
    deviation = network.encode(pictures).std(dim=(0, 2, 3))
    autoencoder.unit_variance(network, pictures)
    assert torch.allclose(network.decode(network.encode(pictures)), before, atol=1e-5)
    after = network.encode(pictures).std(dim=(0, 2, 3))
    expected = (deviation / (0.25 * deviation.max())).clamp(max=1)
    assert torch.allclose(after, expected, rtol=1e-3) and after[1] < 0.1
    scale = deviation / after
    expected = (log_variance - 2 * scale.log()[:, None, None]).clamp(max=4)  # as the network does
    assert torch.allclose(network.moments(pictures)[1], expected, atol=1e-4)


@pytest.mark.parametrize("decoder_only", [False, True])
def test_an_autoencoder_trains_and_goes_on(pictures, tmp_path, decoder_only):
    settings = autoencoder.AutoencoderSettings(batch=2, decoder_only=decoder_only, precision="float32")

    def run(network, settings, checkpoint):
        return autoencoder.train(network, pictures, settings, CPU, checkpoint, ignored)

    changed = goes_on(tiny_autoencoder, run, settings, tmp_path)
    parts = {name.split(".")[0] for name in changed}
    assert parts == ({"decoder"} if decoder_only else {"encoder", "decoder"})


def test_the_likeness_loss_is_the_angle_between_whom_is_seen(pictures):
    """By hand with crops of bytes, as encoders learn from; and nothing for the pictures themselves."""
    eyes, faces = tiny_recogniser().eval(), crops.read_faces(pictures, [0, 5])
    eyes.requires_grad_(False)
    original = faces.images.movedim(-1, 1) * 2 - 1
    assert float(autoencoder.likeness_loss(eyes, original, faces)) == pytest.approx(0, abs=1e-5)
    made = original.flip(0).requires_grad_()
    loss = autoencoder.likeness_loss(eyes, made, faces)
    loss.backward()
    assert made.grad.abs().sum(dim=(1, 2, 3)).min() > 0  # both pictures' faces are told to be other
    shown = replace(faces, images=faces.images.flip(0))
    real, seen = (eyes(align_faces(each, 112).movedim(-1, 1) * 2 - 1) for each in (faces, shown))
    cosines = (normalize(real, dim=1) * normalize(seen, dim=1)).sum(dim=1)
    assert loss.item() == pytest.approx(1 - cosines.mean().item(), abs=1e-5) and loss > 0.01


@pytest.mark.slow
def test_a_decoder_learns_by_a_recognisers_eyes(pictures):
    """It makes faces more alike than without them, and neither the eyes nor the encoder change."""
    torch.manual_seed(2)
    eyes = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(3 * 49, 16, bias=False))
    faces = crops.read_faces(pictures, range(len(pictures)))

    def unlike(likeness: float) -> float:
        settings = autoencoder.AutoencoderSettings(
            batch=6, lr=5e-3, steps=20, decoder_only=True, likeness=likeness, noise=0.0, precision="float32"
        )
        network = tiny_autoencoder()
        frozen = {**eyes.state_dict(prefix="eyes."), **network.encoder.state_dict()}
        before = {name: each.clone() for name, each in frozen.items()}
        autoencoder.train(network, pictures, settings, CPU, None, ignored, eyes)
        assert all(torch.equal(each, before[name]) for name, each in frozen.items())
        with torch.no_grad():
            made = network.decode(network.encode(faces.images.movedim(-1, 1) * 2 - 1))
            return autoencoder.likeness_loss(eyes, made, faces).item()

    with_eyes, without = unlike(1e3), unlike(0.0)
    assert with_eyes < 0.8 * without


def test_arcface_by_hand():
    cosines, labels = torch.tensor([[0.5, 0.2], [0.1, -0.3]]), torch.tensor([0, 1])

    def by_hand(margin):
        losses = []
        for row, own in zip(cosines.tolist(), labels.tolist()):
            mine = math.exp(4 * math.cos(math.acos(row[own]) + margin))
            losses.append(-math.log(mine / (mine + math.exp(4 * row[1 - own]))))
        return sum(losses) / 2

    for margin in (0.0, 0.3):
        assert float(msid.arcface_loss(cosines, labels, 4.0, margin)) == pytest.approx(by_hand(margin), rel=1e-5)


def test_arcface_has_a_gradient_where_embedding_and_direction_agree():
    cosines = torch.tensor([[1.0, -1.0]], requires_grad=True)
    msid.arcface_loss(cosines, torch.tensor([0]), 16.0, 0.25).backward()
    assert cosines.grad.isfinite().all()


def tiny_recogniser() -> Recogniser:
    torch.manual_seed(1)
    return Recogniser((4, 8, 8, 8), 16)


def test_a_recogniser_is_what_its_weights_say():
    network = tiny_recogniser()
    network.train()(random(4, 3, 112, 112))  # running statistics that are not those of the start
    again = Recogniser.of({name: each.clone() for name, each in network.state_dict().items()})
    pixels = random(2, 3, 112, 112, seed=2)
    with torch.no_grad():
        assert not again.training and torch.equal(again(pixels), network.eval()(pixels))


def test_a_recogniser_trains_and_goes_on(pictures, tmp_path):
    seen = crops.cut_crops(pictures, range(len(pictures)), masked=False).numpy()
    labels, traits = torch.arange(3).repeat_interleave(2), random(3, 5)
    settings = recogniser.RecogniserSettings(batch=4, flip=True, late=0.5, precision="float32")

    def run(network, settings, checkpoint):
        return recogniser.train(network, network, seen, labels, traits, settings, CPU, checkpoint, ignored)

    assert len(goes_on(tiny_recogniser, run, settings, tmp_path)) == len(list(tiny_recogniser().named_parameters()))


@pytest.mark.parametrize("masked", [False, True])
def test_crops_are_those_of_the_nodes(pictures, tmp_path, masked):
    """Warped from the drawn points to ArcFace's, a masked one with black around the head beforehand."""
    order = [4, 0, 3]
    seen = crops.cut_crops(pictures, order, masked)
    images = pictures.images(order).float() / 255
    faces = crops.read_faces(pictures, order)
    if masked:
        images = mask_background(images, head_masks(faces))
    for own, image, points in zip(seen, images, pictures.points(order).numpy()):
        expected = warp(image, similarity(points, template(112)), 112)
        assert (own.float() / 255 - expected).abs().max() < 1 / 254
    assert torch.equal(align_faces(faces, 112, head_masks(faces) if masked else None).mul(255).round().byte(), seen)
    kept = crops.cache_crops(tmp_path / "crops.npy", pictures, masked)
    assert np.array_equal(kept[order], seen.numpy()) and len(kept) == len(pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["crops.npy"]


def test_pixels_of_crops_are_in_the_encoders_range():
    pixels = crops.as_pixels(np.array([[[[0, 255, 51]]]], np.uint8))
    assert torch.allclose(pixels.flatten(), torch.tensor([-1.0, 1.0, -0.6])) and pixels.shape == (1, 3, 1, 1)


def test_the_contrastive_loss_by_hand():
    pictures, texts = (normalize(random(3, 4, seed=seed), dim=1) for seed in (1, 2))
    logits = (math.exp(0.7) * pictures @ texts.T).double()
    rows, columns = (-sum(float(each[i].softmax(0)[i].log()) for i in range(3)) / 3 for each in (logits, logits.T))
    loss = clip_pair.contrastive_loss(pictures, texts, torch.tensor(0.7))
    assert float(loss) == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_a_text_ends_at_the_first_of_its_padding(vocabulary):
    tokens = vocabulary.rows(["", "a", "a photo of a man"])
    assert clip_pair.ends(tokens).tolist() == [1, 2, 6]
    assert clip_pair.ends(tokens[:, :32]).tolist() == [1, 2, 6]


def tiny_pair(vocabulary):
    torch.manual_seed(1)
    return clip_pair.ClipPair(vocabulary)


def test_a_pair_in_the_hosts_hands_sees_and_reads_the_same(pictures, vocabulary):
    pair = tiny_pair(vocabulary)
    images = pictures.images([0, 3]).float() / 255
    texts = [pictures.captions[0], "a person"]
    pixels = (images.movedim(-1, 1) - clip_pair._MEAN) / clip_pair._STD
    tokens = vocabulary.rows(texts)
    vision = comfy.clip_vision.ClipVisionModel(miniature.VISION)
    vision.load_sd(pair.vision.state_dict())
    clip = miniature.clip(
        pair.text.weights() | {"text_projection.weight": pair.text_projection.weight}, vocabulary.tokens
    )
    with torch.no_grad():
        seen, read = pair(pixels, tokens, clip_pair.ends(tokens))
        embeds = vision.encode_image(images)["image_embeds"]
        written = torch.cat([text_embedding(clip, text) for text in texts])
    assert torch.allclose(normalize(embeds, dim=1), seen, atol=5e-3)
    assert torch.allclose(normalize(written, dim=1), read, atol=5e-3)


def test_a_pair_trains_and_goes_on(pictures, vocabulary, tmp_path):
    captions = Captions(pictures.captions, vocabulary)

    def run(pair, settings, checkpoint):
        return clip_pair.train(pair, pictures, captions, settings, CPU, checkpoint, ignored)

    settings = clip_pair.ClipPairSettings(batch=2, precision="float32")
    changed = goes_on(lambda: tiny_pair(vocabulary), run, settings, tmp_path)
    assert {name.split(".")[0] for name in changed} == {"vision", "text", "text_projection", "temperature"}


def test_noise_and_velocity_are_a_turn():
    """z_0 and eps come back from z_t and v: z_0 = sqrt(a) z_t - sqrt(1 - a) v, eps = sqrt(1 - a) z_t + sqrt(a) v."""
    z_0, eps, alphas_bar = random(3, 2, 4, 4), random(3, 2, 4, 4, seed=2), torch.tensor([0.01, 0.5, 0.99])
    z_t, v = text_to_image.add_noise(z_0, eps, alphas_bar), text_to_image.velocity(z_0, eps, alphas_bar)
    a = alphas_bar[:, None, None, None]
    assert torch.allclose(a.sqrt() * z_t - (1 - a).sqrt() * v, z_0, atol=1e-6)
    assert torch.allclose((1 - a).sqrt() * z_t + a.sqrt() * v, eps, atol=1e-6)


def test_a_cell_counts_as_its_weight_says():
    made, wanted = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=2)
    square = (made - wanted).square()
    assert torch.allclose(mean_in_mask(square, torch.full((2, 4, 4), 5.0)), square.mean())
    weights = torch.ones(2, 4, 4)
    weights[:, 0] = 4
    expected = (4 * square[:, :, 0].sum() + square[:, :, 1:].sum()) / (3 * 2 * (4 * 4 + 12))
    assert torch.allclose(mean_in_mask(square, weights), expected)


def test_what_is_in_focus_counts_more_in_the_loss_of_a_base(pictures, vocabulary):
    faces = torch.zeros(6, 4, 4)
    faces[:, :, :2] = 1
    lessons = text_to_image.Lessons(random(6, miniature.CHANNELS, 4, 4), random(6, len(VECTOR_NAMES)),
                           Captions(pictures.captions, vocabulary), focus=faces)  # fmt: skip
    first = {}
    for focus in (1.0, 3.0):
        torch.manual_seed(1)
        settings = text_to_image.BaseSettings(steps=1, batch=4, long=0.0, precision="float32", focus=focus)
        alphas_bar = torch.linspace(0.999, 0.01, 100)
        network = text_to_image.BaseNetwork(vocabulary, 32)
        first[focus] = text_to_image.train(network, lessons, alphas_bar, settings, CPU, None, ignored).losses[0]
    assert abs(first[3.0] - first[1.0]) > 1e-4


@pytest.mark.parametrize(("power", "loss"), [(50.0, 1.0), (0.02, 9.0)])
def test_a_time_power_chooses_between_little_noise_and_much(pictures, vocabulary, power, loss):
    """A base that knows nothing says v = 0, which is wrong by eps^2 where there is no noise, else by z_0^2."""
    latents = torch.full((6, miniature.CHANNELS, 4, 4), 3.0)
    lessons = text_to_image.Lessons(latents, random(6, len(VECTOR_NAMES)), Captions(pictures.captions, vocabulary))
    settings = text_to_image.BaseSettings(steps=1, batch=4, long=0.0, precision="float32", time_power=power)
    network = text_to_image.BaseNetwork(vocabulary, 32)
    progress = text_to_image.train(network, lessons, torch.tensor([1.0, 0.0]), settings, CPU, None, ignored)
    assert progress.losses[0] == pytest.approx(loss, rel=0.1)


@pytest.mark.slow
def test_a_base_trains_and_goes_on(pictures, vocabulary, tmp_path):
    lessons = text_to_image.Lessons(
        random(6, miniature.CHANNELS, 4, 4), random(6, len(VECTOR_NAMES)), Captions(pictures.captions, vocabulary)
    )
    alphas_bar = torch.linspace(0.999, 0.01, 100)

    def make():
        torch.manual_seed(1)
        return text_to_image.BaseNetwork(vocabulary, 32)

    def run(network, settings, checkpoint):
        return text_to_image.train(network, lessons, alphas_bar, settings, CPU, checkpoint, ignored)

    settings = text_to_image.BaseSettings(batch=4, named=1.0, drop=0.0, person=0.0, long=0.0, precision="float32")
    changed = goes_on(make, run, settings, tmp_path)
    assert "text.names.weight" in changed and any(name.startswith("unet.") for name in changed)
