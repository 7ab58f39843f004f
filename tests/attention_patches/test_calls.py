"""The description of a UNet call: roles, rows, images, areas and the schedule, each against the host's own order."""

import types
from uuid import uuid4

import comfy.model_sampling
import pytest
import torch
from likeness.attention_patches.calls import (
    ALWAYS,
    CALL,
    Guidance,
    Rows,
    Schedule,
    UNetCall,
    is_positive,
    list_packs,
    name_pack,
    read_rows,
)
from likeness.attention_patches.infinite_id import STREAMS, Streams

P, M, N, O = (uuid4() for _ in range(4))  # noqa: E741
SIGMAS = torch.ones(2)


def entries(*uuids) -> list[dict]:
    return [{"uuid": uuid} for uuid in uuids]


def guidance() -> Guidance:
    return Guidance({P: "positive", M: "middle", N: "negative"})


def options(chunks, whole, images=2, **more) -> dict:
    """What the host tells a block of a call of `whole` rows."""
    return {"cond_or_uncond": chunks, "sigmas": torch.ones(images), "original_shape": [whole, 4, 16, 16]} | more


@pytest.mark.parametrize("role, positive", [
    ("positive", True), ("middle", True), ("negative", False), ("empty_negative_prompt", False), ("other", False),
])  # fmt: skip
def test_which_of_the_hosts_roles_are_people(role, positive):
    assert is_positive(role) is positive


@pytest.mark.parametrize("conditions, roles", [
    ([entries(P), entries(N)], ("positive", "negative")),
    ([entries(N), entries(M), entries(P)], ("negative", "middle", "positive")),  # DualCFGGuider
    ([entries(P), None], ("positive", "other")),
    ([entries(N)], ("negative",)),  # SelfAttentionGuidance
    ([entries(O)], ("other",)),  # PerpNeg: made when the node ran
    ([entries(N, P), entries(P)], ("negative", "positive")),  # with a copy of the positive's area
    ([entries(O), entries(uuid4())], ("positive", "other")),  # a pack's guider that makes them in every call
])  # fmt: skip
def test_roles_are_those_of_the_guiders_conditions(conditions, roles):
    assert guidance().name_roles(conditions) == roles


def test_a_window_that_shows_a_copy_alone_keeps_the_roles():
    told = guidance()
    assert told.name_roles([entries(N, P), entries(P)]) == ("negative", "positive")
    assert told.name_roles([entries(P), entries(P)]) == ("negative", "positive")


ROLES = ("positive", "negative", "middle")


def roles_of(rows: int, extra_options: dict) -> str:
    """The roles of the runs, by their first letters."""
    call = UNetCall(guidance(), ROLES)
    return "".join(role[0] for role in read_rows(extra_options | {CALL: call}, rows).roles)


@pytest.mark.parametrize("rows, chunks, whole, expected", [
    (4, [1, 0], 4, "np"),
    (2, [0], 2, "p"),
    (6, [1, 0, 0], 6, "npp"),  # two prompts
    (6, [2, 0, 1], 6, "mpn"),
    (12, [1, 0], 12, "npnpnp"),  # three tiles
    (6, [1, 0], 4, "npp"),  # two regions
    (8, [1, 0], 4, "nppp"),
    (10, [0, 1, 0], 6, "ppnpp"),
    (2, [1, 0], 4, "n"),  # the rows of index 1 alone
])  # fmt: skip
def test_whose_rows_are_whose(rows, chunks, whole, expected):
    assert roles_of(rows, options(chunks, whole)) == expected


def test_a_couple_that_tells_its_kinds_is_believed():
    told = {"cond_or_uncond_couple": [1, 1, 0, 0]}
    assert roles_of(8, options([1, 0], 4, **told)) == "nnpp"
    assert roles_of(6, options([1, 0], 4, cond_or_uncond_couple=[1, 0, 0])) == "npp"


@pytest.mark.parametrize("rows, chunks, whole", [(1, [1, 0], 1), (5, [1, 0], 4), (12, [1, 0], 8), (3, [0, 1], 4)])
def test_rows_that_are_nobodys_are_refused_in_words(rows, chunks, whole):
    """One row for two prompts; half a run; regions in tiles, which nobody tells apart."""
    with pytest.raises(RuntimeError, match=f"{rows} rows in a block, {whole} in the UNet, for 2 images and 2 prompts"):
        roles_of(rows, options(chunks, whole))


def test_what_a_pack_leaves_out_has_a_default():
    call = UNetCall(guidance(), ("negative", "positive"), {N: 0, P: 1})
    rows = read_rows({CALL: call, "sigmas": SIGMAS, "uuids": [P, N]}, 4)
    assert rows.roles == ("positive", "negative") and rows.images == (0, 1)
    assert read_rows({"cond_or_uncond": [1, 0]}, 6) == Rows(("other", "positive"), (None, None), (0, 1, 2))
    assert read_rows({}, 2).roles == ("positive",)


@pytest.mark.parametrize("told, images", [
    ({}, (0, 1)),
    ({"ad_params": {"sub_idxs": [4, 6]}}, (4, 6)),
    ({"ad_params": {"sub_idxs": None}}, (0, 1)),
    ({"ad_params": {"sub_idxs": [4, 6, 7]}}, (0, 1)),  # of another window
    ({"context_window": types.SimpleNamespace(dim=0, index_list=[2, 3])}, (2, 3)),
    ({"context_window": types.SimpleNamespace(dim=0, index_list=[3], causal_anchor_index=1)}, (1, 3)),
    ({"context_window": types.SimpleNamespace(dim=2, index_list=[2, 3])}, (0, 1)),  # of a film's frames
])  # fmt: skip
def test_which_images_a_run_shows(told, images):
    assert read_rows(options([1, 0], 4, **told), 4).images == images


def test_two_streams_halve_the_images_and_come_apart_and_together():
    streams = Streams("mixed", "none", 0.0, images=2)
    rows = read_rows(streams.describe_half(options([1, 0], 8, images=4, **{STREAMS: streams})), 4)
    assert rows.images == (0, 1) and rows.roles == ("other", "positive")
    x = torch.arange(8.0).reshape(8, 1, 1)
    identity, text = streams.split(x)
    assert identity.flatten().tolist() == [0, 1, 4, 5] and text.flatten().tolist() == [2, 3, 6, 7]
    assert torch.equal(streams.join(identity, text), x)


def test_every_row_gets_its_own_of_a_pair():
    pair = torch.tensor([1.0, 0.0]).reshape(2, 1, 1)
    rows = Rows(("negative", "middle", "positive"), (None,) * 3, (0, 1))
    assert rows.expand(pair).flatten().tolist() == [0, 0, 1, 1, 1, 1]
    assert Rows(("positive", "negative"), (None,) * 2, (0,)).expand(pair) is pair


def test_a_mask_is_averaged_over_the_area_of_a_token():
    """Stripes one pixel wide are grey to a token of 8 x 8; a nearest pixel would be black or white."""
    stripes = torch.zeros(1, 16, 16)
    stripes[..., ::2] = 1
    rows = Rows(("positive",), (None,), (0,))
    assert torch.equal(rows.place(stripes, (2, 2), None), torch.full((1, 4, 1), 0.5))
    corner = torch.zeros(1, 16, 16)
    corner[..., :2, :4] = 1
    assert rows.place(corner, (2, 2), None).flatten().tolist() == [0.125, 0, 0, 0]


def test_a_mask_is_cut_to_the_area_of_every_run():
    left = torch.zeros(1, 16, 16)
    left[..., :8] = 1
    halves = Rows(("positive", "negative"), ((2, 1, 0, 0), (2, 1, 0, 1)), (0, 1))
    placed = halves.place(left, (2, 1), (2, 2))
    assert placed.flatten(1).tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    same = Rows(("positive", "negative"), ((1, 2, 1, 0),) * 2, (0,))
    assert same.place(left, (1, 2), (2, 2)).flatten().tolist() == [1, 0]  # one for all rows


def test_masks_belong_to_the_images_of_a_window():
    masks = torch.arange(3.0).reshape(3, 1, 1).expand(3, 8, 8)
    rows = Rows(("negative", "positive"), (None, None), (4, 2))
    assert rows.place(masks, (1, 1), None).flatten().tolist() == [1, 2, 1, 2]  # repeated: image 4 has mask 1


def test_a_schedule_is_that_of_the_model_which_is_sampled():
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    half = float(sampling.percent_to_sigma(0.5))
    call = UNetCall(guidance(), sampling=sampling)

    def is_on(schedule, sigma):
        return schedule.is_on({CALL: call, "sigmas": torch.tensor([sigma])})

    assert is_on(Schedule(0.0, 0.5), half) and is_on(Schedule(0.5, 1.0), half)
    assert is_on(Schedule(0.0, 0.5), 1e9) and not is_on(Schedule(0.5, 1.0), half * 1.01)
    assert not is_on(Schedule(0.0, 0.5), half * 0.99) and is_on(Schedule(0.5, 1.0), 0.0)


def test_a_noise_level_is_read_once_for_a_call_and_never_without_a_schedule():
    reads = []

    class Sigmas:
        def __getitem__(self, index):
            reads.append(index)
            return 1.0

    sigmas, sampling = Sigmas(), comfy.model_sampling.ModelSamplingDiscrete()
    extra_options = {CALL: UNetCall(guidance(), sampling=sampling), "sigmas": sigmas}
    assert all(ALWAYS.is_on(extra_options) for _ in range(3)) and reads == []
    for _ in range(3):
        Schedule(0.1, 0.9).is_on(extra_options)
    assert reads == [0]


def test_a_sampler_that_does_not_tell_the_noise_level_is_refused():
    with pytest.raises(
        RuntimeError, match="start_percent 0.2 and end_percent 1.0 need a sampler .* Set them to 0 and 1"
    ):
        Schedule(0.2, 1.0).is_on({"sigmas": SIGMAS})


def test_a_pack_is_named_by_its_folder():
    def patch():
        pass

    patch.__module__ = "/home/a/ComfyUI/custom_nodes/ComfyUI-Couple_x_v2.src.patches"
    assert name_pack(patch) == "ComfyUI-Couple.v2"
    patch.__module__ = r"C:\ComfyUI\custom_nodes\tiles"
    assert name_pack(patch) == "tiles"
    assert name_pack(types.SimpleNamespace()) == "types"
    assert list_packs({"model_function_wrapper": patch, "transformer_options": {"patches": {"a": [patch]}}}) == [
        "tiles"
    ]
