"""Sets of portraits: another picture of the same person, files, and what does not fit together."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from likeness.training.portraits import Portraits, draw, load, others, save, stack

PEOPLE = [7, 3, 7, 9, 3, 7, 7]


def portraits(people=PEOPLE) -> Portraits:
    n = len(people)
    draw = torch.Generator().manual_seed(1)
    return Portraits(
        latents=torch.randn(n, 4, 6, 5, generator=draw).half(),
        people=torch.tensor(people),
        captions=[f"a person at the café, {i}" for i in range(n)],
        faces=torch.rand(n, 6, 5, generator=draw).half(),
        features={
            "msid": torch.randn(n, 1, 8, generator=draw).half(),
            "clip": torch.randn(n, 3, 2, generator=draw).half(),
        },
    )


SHAPES = [(6, 5), (5, 6), (6, 5), (6, 5), (5, 6), (6, 5), (2, 3)]


def of_several_shapes() -> Portraits:
    rows = range(len(PEOPLE))
    latents = stack([torch.full((4, *SHAPES[row]), float(row)).half() for row in rows])
    faces = stack([torch.full(SHAPES[row], row / 8).half() for row in rows])
    sizes = torch.tensor([(100 + row, 200, row, 0) for row in rows])
    return replace(portraits(), latents=latents, faces=faces, sizes=sizes)


def read_rows(read: Portraits) -> list[tuple]:
    """Latents, share of the face and size of every row."""
    rows = torch.arange(len(read)).split(1)
    return [(read.latents[row][0], read.faces[row][0], read.sizes[row].tolist()) for row in rows]


@pytest.mark.parametrize("chosen", [range(7), [6, 0, 4], [1, 4]])
def test_rows_of_several_shapes_are_chosen_and_saved_as_they_are(chosen, tmp_path):
    some = of_several_shapes().select(torch.tensor(chosen))
    save(tmp_path / "set.safetensors", some)
    for read in (some, load(tmp_path / "set.safetensors")):
        for row, (latent, face, size) in zip(chosen, read_rows(read), strict=True):
            assert latent.eq(row).all() and face.eq(row / 8).all() and size == [[100 + row, 200, row, 0]]
            assert latent.shape == (4, *SHAPES[row]) and face.shape == SHAPES[row]
    with pytest.raises(ValueError, match="unpack"):
        of_several_shapes().latents[torch.tensor([0, 1])]


def test_a_batch_is_of_one_shape_and_every_picture_as_likely_as_before():
    several, generator, counts, firsts = of_several_shapes(), torch.Generator().manual_seed(4), torch.zeros(7), set()
    for _ in range(1000):
        rows = draw(several, 4, generator)
        assert several.latents[rows].shape == (4, 4, *several.measure(rows))
        counts += torch.bincount(rows, minlength=7)
        firsts.add(SHAPES[rows[0]])
    assert counts / 1000 == pytest.approx(torch.full((7,), 4 / 7), rel=0.15) and firsts == set(SHAPES)
    square, seed = portraits(), torch.Generator()
    expected = torch.randint(7, (4,), generator=seed.manual_seed(5))
    assert torch.equal(draw(square, 4, seed.manual_seed(5)), expected), "the draws of before there were buckets"


def test_groups_of_one_shape_keep_their_order():
    groups = of_several_shapes().split(torch.tensor([5, 1, 6, 0, 4]))
    assert [group.tolist() for group in groups] == [[5, 0], [1, 4], [6]]
    assert [group.tolist() for group in portraits().split(torch.tensor([5, 1]))] == [[5, 1]]


def test_a_file_of_before_there_were_buckets_tells_the_sides_of_squares(tmp_path):
    save(tmp_path / "set.safetensors", portraits())
    with safetensors.safe_open(tmp_path / "set.safetensors", framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["sides"] = torch.arange(7)
    safetensors.torch.save_file(tensors, tmp_path / "old.safetensors", metadata)
    assert load(tmp_path / "old.safetensors").sizes.tolist() == [[side, side, 0, 0] for side in range(7)]


def test_another_picture_is_of_the_same_person_and_every_one_of_them_as_likely():
    indices = torch.arange(len(PEOPLE)).repeat(3000)
    drawn = others(portraits(), indices, torch.Generator().manual_seed(2))
    people = torch.tensor(PEOPLE)
    assert torch.equal(people[drawn], people[indices])
    for index, person in enumerate(PEOPLE):
        partners = [i for i, other in enumerate(PEOPLE) if other == person and i != index] or [index]
        counts = torch.bincount(drawn[indices == index], minlength=len(PEOPLE))
        assert counts.nonzero()[:, 0].tolist() == partners
        assert counts[partners].float() == pytest.approx(3000 / len(partners), rel=0.12)


def test_a_seed_means_the_same_draws():
    indices = torch.tensor([0, 5, 1, 3, 2, 0, 0, 6] * 4)
    first, again, other = (others(portraits(), indices, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_file_holds_everything_bit_for_bit(tmp_path):
    original = portraits()
    save(tmp_path / "set.safetensors", replace(original, faces=original.faces.transpose(1, 2).transpose(1, 2)))
    read = load(tmp_path / "set.safetensors")
    assert len(read) == len(PEOPLE) and read.captions == original.captions and list(read.features) == ["clip", "msid"]
    pairs = [(getattr(read, name), getattr(original, name)) for name in ("latents", "people", "faces")]
    for back, there in [*pairs, *((read.features[name], original.features[name]) for name in read.features)]:
        assert torch.equal(back, there) and back.dtype == there.dtype
    assert [file.name for file in tmp_path.iterdir()] == ["set.safetensors"]


def test_what_does_not_fit_together_is_said():
    whole = portraits()
    with pytest.raises(ValueError, match="as there are pictures, not 7 latents, 7 people, 6 captions, 7 faces, 7 msid"):
        replace(whole, captions=whole.captions[1:])
    with pytest.raises(ValueError, match="7 faces, 2 arcface features."):
        replace(whole, features={"arcface": torch.zeros(2, 1, 512)})
    with pytest.raises(ValueError, match=r"faces of the size of their latents, \[6, 5\], not \[5, 6\]"):
        replace(whole, faces=whole.faces.transpose(1, 2))


@pytest.mark.parametrize(
    "metadata, without, message",
    [
        ({"format": "likeness-facea"}, None, "it holds other tensors"),
        ({"version": "2"}, None, "its format has version 2, and only 1 can be read"),
        ({"captions": "[]"}, None, "7 people, 0 captions"),
        ({"captions": "[,"}, None, "Expecting value"),
        ({}, "faces", "'faces' is missing"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, metadata, without, message):
    save(tmp_path / "good", portraits())
    with safetensors.safe_open(tmp_path / "good", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != without}  # noqa: SIM118
        metadata = file.metadata() | metadata
    safetensors.torch.save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(
        ValueError, match=r"bad.safetensors' cannot be loaded as portraits: .*Encode the photos"
    ) as error:
        load(tmp_path / "bad.safetensors")
    assert message in str(error.value)


def test_a_file_cut_short_is_refused(tmp_path):
    save(tmp_path / "set.safetensors", portraits())
    data = (tmp_path / "set.safetensors").read_bytes()
    (tmp_path / "set.safetensors").write_bytes(data[:-100])
    with pytest.raises(ValueError, match="set.safetensors' cannot be loaded as portraits"):
        load(tmp_path / "set.safetensors")
