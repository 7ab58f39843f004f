"""Infinite-ID beside what other nodes do to a model: nothing may change that `guests` says may not."""

import comfy.controlnet
import pytest
import torch
from comfy.cldm.cldm import ControlNet
from likeness.attention_patches.fact import apply_fact
from likeness.attention_patches.identity_control import apply_identity_control, make_identity_control
from likeness.attention_patches.infinite_id import apply_infinite_id
from likeness.attention_patches.ip_adapter import apply_ip_adapter
from likeness.attention_patches.people import PlacedPerson, apply_people, make_masks
from likeness.faces.places import PARTS
from likeness.tests.support import guests, tiny, tiny_ip
from likeness.tests.support.golden_cases import Case

pytestmark = pytest.mark.slow

ROUNDING = 2e-5
SMALL = {"height": 64, "width": 64}
TRAJECTORIES = ["own", "same latent"]
GUESTS = {
    "couple of three": lambda model: guests.couple(model, regions=3),
    "couple of two without marker": lambda model: guests.couple(model, marker=False),
    "turned": guests.turned,
    "two calls": guests.two_calls,
    "bypass": guests.bypass,
    "a face of no weight": lambda model: guests.attn2_guest(model, weight=0),
    "reference": guests.reference,
    "uneven rows": guests.uneven_rows,
    "asked again": guests.asked_again,
}
WINDOWS = {
    "windows": guests.windows,
    "dealt": lambda model: guests.windows(model, length=3, stride=2),
    "host's": guests.host_windows,
    "host's overlapping": lambda model: guests.host_windows(model, overlap=2),
    "host's anchored": lambda model: guests.host_windows(model, anchored=True),
}


class Bench:
    """A base model, faces of two methods for it, and samplings of it."""

    def __init__(self):
        self.model = tiny.model()
        self.adapter = tiny_ip.adapter("faceid", "SD1.5")
        with torch.inference_mode():
            self.tokens = self.adapter.tokens(face=tiny_ip.face())

    @torch.inference_mode()
    def image(self, model, **settings):
        return apply_ip_adapter(model, self.adapter, self.tokens, **settings)

    @torch.inference_mode()
    def fact(self, model):
        return apply_fact(model, tiny.adapter(), tiny.face_id(), strength=1.0)

    @torch.inference_mode()
    def people(self, model):
        """Two people, each in a half."""
        people = [PlacedPerson(tiny_ip.face(), box=PARTS[part]) for part in ("left half", "right half")]
        return apply_people(model, self.adapter, people, make_masks(people, (64, 64), 8.0))

    def orders(self, guest, trajectory, face=None, **settings):
        """Ours with another node behind, and with the same node before."""

        def ours(model):
            return apply_infinite_id((face or self.image)(model), trajectory=trajectory, **settings)

        return guest(ours(self.model)), ours(guest(self.model))


@pytest.fixture(scope="module")
def bench():
    return Bench()


def assert_same(model, expected, **options):
    assert guests.rel(tiny.sample(model, **options), expected) < ROUNDING


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_changes_nothing_in_either_order(bench, name, trajectory):
    ours = apply_infinite_id(bench.image(bench.model), trajectory=trajectory, style="AdaIN-mean")
    expected = tiny.sample(ours, batch=2, **SMALL)
    for model in bench.orders(GUESTS[name], trajectory, style="AdaIN-mean"):
        assert_same(model, expected, batch=2, **SMALL)


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_how_many_tiles_are_in_a_call_changes_nothing(bench, trajectory):
    def sample(per_call):
        graphs = bench.orders(lambda model: guests.tiles(model, per_call=per_call), trajectory)
        return [tiny.sample(model, batch=2) for model in graphs]

    one, four = sample(1), sample(4)
    assert all(guests.rel(a, b) < ROUNDING for a, b in zip(four, one, strict=True))


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_over_the_images_change_nothing(bench, name, trajectory):
    expected = tiny.sample(apply_infinite_id(bench.image(bench.model), trajectory=trajectory), batch=6, **SMALL)
    for model in bench.orders(WINDOWS[name], trajectory):
        assert_same(model, expected, batch=6, **SMALL)


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_a_mask_for_each_image_follows_it_into_its_window(bench, trajectory):
    masks = torch.zeros(6, 16, 16)
    masks[::2] = 1

    def masked(model):
        return bench.image(model, mask=masks)

    expected = tiny.sample(apply_infinite_id(masked(bench.model), trajectory=trajectory), batch=6, **SMALL)
    for model in bench.orders(WINDOWS["dealt"], trajectory, face=masked):
        assert_same(model, expected, batch=6, **SMALL)


def test_noise_that_windows_reorder_is_the_same_for_both_streams(bench):
    """The host's FreeNoise fills later windows with the noise of the first."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    def windows(model):
        schedule, fuse = ("standard_static", "flat")
        return ContextWindowsManualNode.execute(model, 4, 1, schedule, 1, False, fuse, 0, True, "", False).args[0]

    stock = tiny.sample(windows(bench.model), batch=6, **SMALL)
    assert guests.rel(stock, tiny.sample(bench.model, batch=6, **SMALL)) > 1e-3
    for model in bench.orders(windows, "own", face=lambda model: model):
        assert_same(model, stock, batch=6, **SMALL)


@pytest.mark.parametrize(
    "faces", [["fact"], ["image", "fact"], ["guest"], ["image", "guest"], ["fact", "image", "guest"], ["people"]]
)
@pytest.mark.parametrize("last", ["mixing", "faces"])
def test_whatever_brings_a_face_in_leaves_the_text_stream_stock(bench, faces, last):
    ways = {"fact": bench.fact, "image": bench.image, "guest": guests.attn2_guest, "people": bench.people}

    def with_faces(model):
        for face in faces:
            model = ways[face](model)
        return model

    mixed = (
        apply_infinite_id(with_faces(bench.model)) if last == "mixing" else with_faces(apply_infinite_id(bench.model))
    )
    mixed, predictions = tiny.record(mixed)
    stock, expected = tiny.record(bench.model)
    tiny.sample(mixed, batch=2, **SMALL)
    tiny.sample(stock, batch=2, **SMALL)
    for both, plain in zip(predictions, expected, strict=True):
        identity, text = both.split(2)
        assert guests.rel(text, plain) < ROUNDING and guests.rel(identity, plain) > 1e-2


@torch.inference_mode()
def test_instantids_controlnet_leaves_the_text_stream_stock(bench, monkeypatch):
    case = Case("fact_unet")
    unet = {k: v for k, v in case.json("unet_config").items() if k not in ("out_channels", "transformer_depth_output")}
    network = ControlNet(**unet, hint_channels=3, dtype=torch.float32)
    case.fill(network)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    prompts, (stock, expected) = [tiny.conditioning(seed) for seed in (3, 4)], tiny.record(bench.model)
    tiny.sample(stock, batch=2, **SMALL)
    points = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    identity = make_identity_control(control, torch.cat([prompt[0][0][:, :4] for prompt in prompts]), None)
    prompts = dict(zip((3, 4), apply_identity_control(prompts, identity, points, 0.3, (0.0, 1.0)), strict=True))
    monkeypatch.setattr(tiny, "conditioning", prompts.get)
    mixed, predictions = tiny.record(apply_infinite_id(bench.image(bench.model)))
    tiny.sample(mixed, batch=2, **SMALL)
    with_control, changed = tiny.record(bench.model)
    tiny.sample(with_control, batch=2, **SMALL)
    for both, plain, other in zip(predictions, expected, changed, strict=True):
        assert guests.rel(both[2:], plain) < ROUNDING and guests.rel(other, plain) > 1e-2


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
@pytest.mark.parametrize("pieces", [2, 4])
def test_queries_in_tiles_keep_equal_streams_equal(bench, pieces, trajectory):
    def guest(model):
        return guests.query_tiles(model, pieces)

    stock = tiny.sample(guest(bench.model), batch=2, **SMALL)
    for model in bench.orders(guest, trajectory, face=lambda model: model):
        assert_same(model, stock, batch=2, **SMALL)


@pytest.mark.parametrize("swap_size", [1, 3])
def test_the_hosts_hypertile_keeps_equal_streams_equal(bench, swap_size):
    """It cuts from 32 latent pixels on, by chance from a swap size of 3 on."""
    from comfy_extras.nodes_hypertile import HyperTile

    def guest(model):
        return HyperTile.execute(model, 32, swap_size, 1, False)[0]

    def sample(model):
        torch.manual_seed(0)
        return tiny.sample(model, 512, 512, steps=1)

    stock = sample(guest(bench.model))
    for model in bench.orders(guest, "own", face=lambda model: model):
        assert guests.rel(sample(model), stock) < ROUNDING


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_the_hosts_self_attention_guidance_keeps_equal_streams_equal(bench, trajectory):
    """It keeps the attention that it saw last, and goes by it after the call."""
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    def guest(model):
        return SelfAttentionGuidance.execute(model, 0.5, 2.0).args[0]

    stock = tiny.sample(guest(bench.model), batch=2)
    for model in bench.orders(guest, trajectory, face=lambda model: model):
        assert_same(model, stock, batch=2)


@pytest.mark.parametrize("kind", ["shifted", "edm"])
@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_percents_are_those_of_the_model_that_is_sampled(bench, trajectory, kind):
    settings = {"start_percent": 0.2, "end_percent": 0.6}
    after, before = bench.orders(lambda model: guests.later_sampling(model, kind), trajectory, **settings)
    expected = tiny.sample(before, steps=10, **SMALL)
    assert_same(after, expected, steps=10, **SMALL)
    whole = tiny.sample(
        bench.orders(lambda model: guests.later_sampling(model, kind), trajectory)[1], steps=10, **SMALL
    )
    assert guests.rel(whole, expected) > 1e-3


@pytest.mark.parametrize("cache", ["steps", "blocks"])
@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_what_a_cache_remembers_is_taken(bench, trajectory, cache):
    replay = guests.Replay()

    def guest(model):
        return (guests.step_cache if cache == "steps" else guests.block_cache)(model, replay)

    model, _ = bench.orders(guest, trajectory)
    first = tiny.sample(model, steps=4, **SMALL)
    replay.rewind()
    assert torch.equal(tiny.sample(model, steps=4, **SMALL), first) and replay.skips


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_the_hosts_caches_at_their_defaults(bench, node):
    """Twenty steps, of which they skip some; equal streams stay the stock picture with the cache."""
    from comfy_extras import nodes_easycache

    schema = getattr(nodes_easycache, node).define_schema()
    defaults = {entry.id: entry.default for entry in schema.inputs if entry.id != "model"}

    def guest(model):
        return getattr(nodes_easycache, node).execute(model, **defaults).args[0]

    options = {"steps": 20, **SMALL}
    stock = tiny.sample(guest(bench.model), **options)
    assert guests.rel(stock, tiny.sample(bench.model, **options)) > 1e-3
    for model in bench.orders(guest, "own", face=lambda model: model):
        assert_same(model, stock, **options)
    for model in bench.orders(guest, "own"):
        assert torch.isfinite(tiny.sample(model, **options)).all()


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_rows_that_are_no_two_streams_are_refused_in_words(bench, trajectory):
    """A reference picture of one row passes through a UNet that is told of more."""
    for model in bench.orders(lambda model: guests.reference(model, one_row=True), trajectory):
        with pytest.raises(RuntimeError, match="1 rows, which cannot be told apart.*patches of .*guests"):
            tiny.sample(model, batch=2)


def test_the_host_makes_room_for_both_streams(bench, monkeypatch):
    import comfy.sampler_helpers

    shapes = []
    estimate = comfy.sampler_helpers.estimate_memory
    monkeypatch.setattr(
        comfy.sampler_helpers, "estimate_memory", lambda *call: (shapes.append(tuple(call[1])), estimate(*call))[1]
    )
    for model in bench.orders(guests.host_windows, "own"):
        tiny.sample(model, batch=6, **SMALL, steps=1)
    assert shapes == [(8, 4, 8, 8)] * 2, "windows of four images"
