"""Load Miniature, and the miniature's files in the menus, with drawn weights."""

import folder_paths
import pytest
import torch
from likeness.adapters.unet_blocks import transformer_blocks
from likeness.inpaint.paint import EVERY_FACE, FacePerson, SamplerSettings, paint
from likeness.inpaint.refine import CropStyle, refine_crops
from likeness.metrics.scores import text_scores
from likeness.miniature import registration
from likeness.miniature.models import base_model
from likeness.miniature.nodes import LoadMiniature
from likeness.nodes import facea, fact, identity
from likeness.nodes.face2diffusion import EXPRESSION_FILES
from likeness.nodes.inputs import weight_file
from likeness.tests.support import tiny, tiny_miniature
from likeness.training import inpainting
from likeness.weights import folders

import nodes

TASKS = ("text to image", "inpainting")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_miniature.write(tmp_path_factory.mktemp("pack") / "weights")


@pytest.fixture
def loaded(weights, monkeypatch):
    """What the node gives for a task."""
    monkeypatch.setattr(base_model, "WEIGHTS", weights)
    return lambda task: LoadMiniature.execute(task).result


@pytest.fixture
def shipped(weights, monkeypatch, tmp_path):
    """The host's folders, empty but for what comes with the pack; gives the models folder."""
    monkeypatch.setattr(folders, "_SHIPPED", {})
    monkeypatch.setattr(base_model, "WEIGHTS", weights)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    folders.register()
    registration.register()
    return tmp_path / "models"


@torch.inference_mode()
def sampled(model, clip, positive="a man", size=96):
    conditionings = [nodes.CLIPTextEncode().encode(clip, text)[0] for text in (positive, "")]
    latent = nodes.EmptyLatentImage().generate(size, size)[0]
    return nodes.common_ksampler(model, 1, 2, 3.0, "ddim", "ddim_uniform", *conditionings, latent)[0]["samples"]


def test_half_precision_files_draw_in_float32(loaded):
    model, clip, vae, *_ = loaded("text to image")
    assert {weight.dtype for weight in model.model.diffusion_model.parameters()} == {torch.float32}
    latents = sampled(model, clip)
    assert latents.shape == (1, 16, 8, 8) and latents.dtype == torch.float32 and latents.isfinite().all()
    with torch.inference_mode():
        assert vae.decode(latents).shape == (1, 96, 96, 3)
        (rows, _), *_ = clip.encode_from_tokens_scheduled(clip.tokenize("a man"))
    assert rows.dtype == torch.float32 and rows.shape == (1, 77, 128)


def test_inpainting_takes_from_the_base_what_its_file_lacks(loaded):
    (plain, *_), (inpaints, *_) = map(loaded, TASKS)
    stock, own = (model.model.diffusion_model.state_dict() for model in (plain, inpaints))
    changed = {
        name for name in stock if stock[name].shape != own[name].shape or not torch.equal(stock[name], own[name])
    }
    assert changed == {"input_blocks.0.0.weight"} and own["input_blocks.0.0.weight"].shape[1] == 33
    assert len(transformer_blocks(inpaints.model.diffusion_model)) == 16 and inpaints.model.concat_keys


@torch.inference_mode()
def test_text_is_scored_by_the_pair_and_not_by_the_base(loaded):
    _, clip, _, clip_vision, score_clip = loaded("text to image")
    pictures = torch.rand(2, 96, 96, 3, generator=torch.Generator().manual_seed(1))
    man, nobody = (text_scores(score_clip, clip_vision, pictures, text) for text in ("a man", "a"))
    assert man.shape == (2,) and man.isfinite().all() and (man != nobody).all()
    seen = clip_vision.encode_image(pictures)
    assert seen.last_hidden_state.shape == (2, 65, 128) and seen.last_hidden_state.dtype == torch.float32
    with pytest.raises(ValueError, match="has no projection to the space of pictures"):
        text_scores(clip, clip_vision, pictures, "a man")


@pytest.mark.parametrize("missing", [base_model.BASE, base_model.INPAINTING, base_model.PAIR])
def test_a_missing_file_is_told_before_anything_runs(missing, monkeypatch, tmp_path):
    monkeypatch.setattr(base_model, "WEIGHTS", tmp_path)
    for name in {base_model.BASE, base_model.INPAINTING, base_model.PAIR} - {missing}:
        (tmp_path / name).touch()
    told = [LoadMiniature.validate_inputs(task) for task in TASKS]
    sentence = f"'{missing}' is missing: looked in {tmp_path}. It comes with ComfyUI-Likeness"
    assert sentence in told[1] and (told[0] is True if missing == base_model.INPAINTING else sentence in told[0])


def test_each_file_is_in_the_menu_it_belongs_to(shipped):
    mine = {kind: [name for name in folders.names(kind)] for kind in registration.KINDS}
    assert mine == {
        "facechain_fact": ["miniature_fact.safetensors", "miniature_transface.safetensors"],
        "face2diffusion": [f"miniature_{name}.safetensors" for name in ("expression", "face2diffusion", "msid")],
        "insightface": ["miniature_arcface.onnx"],
        "ipadapter": ["miniature_infinite_id.safetensors"],
        "facea": ["miniature_facea.safetensors"],
    }
    for files in (identity.ENCODER_FILES, fact.ADAPTER_FILES, EXPRESSION_FILES):
        options = weight_file("file", files, "").options
        assert options == ["no file yet", *(name for kind in files for name in mine.get(kind, []))]
    assert facea.LoadFaceAIdentity.define_schema().inputs[0].options == ["miniature_facea.safetensors"]
    assert not any("scorer" in name or "finder" in name for names in mine.values() for name in names)


def test_the_users_own_files_come_first(shipped):
    own = shipped / "face2diffusion" / "msid.pt"
    own.parent.mkdir(parents=True)
    own.touch()
    offered = folders.list_choices({"face2diffusion": ("mapping.pt",)})
    assert offered[0] == "msid.pt" and "mapping.pt" not in offered and len(offered) == 4
    assert folders.path("face2diffusion", "msid.pt") == str(own)


def test_every_file_loads_from_its_menu(shipped):
    encoders = [name for kind in identity.ENCODER_FILES for name in folders.names(kind)]
    kinds = {name: identity.LoadFaceEncoder.execute(name).result[0].kind for name in encoders if "_fact" not in name
             and "expression" not in name and "face2diffusion" not in name}  # fmt: skip
    assert sorted(kinds.values()) == ["arcface", "msid", "transface"]
    adapters = [f"miniature_{name}.safetensors" for name in ("fact", "face2diffusion", "infinite_id")]
    assert [fact.LoadFaceAdapter.execute(name).result[0].kind for name in adapters] == [
        "fact", "face2diffusion", "ip-adapter",
    ]  # fmt: skip


@pytest.mark.slow
def test_facea_learns_with_the_miniature_that_inpaints(loaded):
    for task in TASKS:
        model, _, vae, *_ = loaded(task)
        if task == "inpainting":
            inpainting.check_inpainting(model)
            crops, mask = torch.rand(2, 96, 96, 3), torch.zeros(2, 96, 96)
            mask[:, 24:72, 24:72] = 1
            with torch.inference_mode():
                data = inpainting.encode(model, vae, inpainting.Photos(crops, {"face": mask}))
            assert data.latents.shape == (2, 16, 8, 8) and data.conditions["face"].shape == (2, 17, 8, 8)
        else:
            with pytest.raises(ValueError, match="the connected Miniature has 16. .*set task to inpainting"):
                inpainting.check_inpainting(model)
    with pytest.raises(ValueError, match="the connected SD15 has 33"):
        inpainting.check_inpainting(tiny.model(in_channels=33))


def painted(size, model, clip, vae):
    picture = torch.rand(1, 96, 96, 3, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 96, 96)
    mask[:, 20:70, 25:75] = 1
    crop, _ = refine_crops(picture, None, mask, (EVERY_FACE,), CropStyle(0.7, size))
    positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a man", ""))
    person = FacePerson(model, positive, negative, EVERY_FACE)
    return paint(crop, [person], vae, SamplerSettings(1, 2, 3.0, "ddim", "normal", 1.0))


@torch.inference_mode()
def test_refine_faces_paints_at_a_multiple_of_twelve_pixels(loaded):
    model, clip, vae, *_ = loaded("inpainting")
    assert painted(96, model, clip, vae).shape == (1, 96, 96, 3)
    with pytest.raises(ValueError, match="100 x 100 pixels do not divide .* 12 x 12 of them: set size to 96 or 108"):
        painted(100, model, clip, vae)


def test_training_gets_a_copy_of_its_own(loaded):
    """What the host keeps of where model and text encoder came from is enough to load them again."""
    from likeness.training.lora import copy_patcher

    model, clip, *_ = loaded("inpainting")
    for patcher, what in ((model, "model"), (clip.patcher, "text encoder")):
        copied = copy_patcher(patcher, what)
        assert copied.model is not patcher.model
        pairs = zip(copied.model.parameters(), patcher.model.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
