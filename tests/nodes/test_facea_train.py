"""FaceA identities trained, transferred, saved and loaded by the host's executor, on the built-in checkpoint."""

import shutil

import comfy.model_management
import pytest
import torch
from likeness.adapters.facea import REGIONS
from likeness.tests.support.executor import GraphError
from likeness.tests.support.facea_graph import graph, node
from likeness.tests.support.graphs import BUILT_IN

pytestmark = pytest.mark.slow
FOLDER = "likeness_test"


@pytest.fixture(autouse=True)
def folders(base):
    """The folders these tests write to, empty."""
    paths = [base / "output" / "facea_training", base / "output" / "facea"]
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    yield paths
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def forget(executor) -> None:
    """Run something else, so that nothing of the graph before comes from the cache."""
    executor.run({"shown": node("PreviewAny", source=["number", 0]), "number": node("PrimitiveInt", value=1)})


def tensors(identity) -> dict:
    return identity.lora | identity.features


def same(first, second) -> bool:
    return all(torch.equal(tensor, tensors(second)[name]) for name, tensor in tensors(first).items())


def test_train_save_load(executor, folders):
    wanted = graph(preview_every=2)
    wanted |= {
        "save": node("LikenessSaveFaceAIdentity", facea_identity=["train", 0], filename_prefix=f"{FOLDER}/ada"),
        "stock": node("LoraModelLoader", model=["base", 0], lora=["train", 3], strength_model=1.0, bypass=False),
        "any": node("PreviewAny", source=["stock", 0]),
    }
    outputs = executor.run(wanted)
    identity, curve, previews, lora, report = outputs["train"]
    assert set(identity.features) == set(REGIONS) and identity.features["nose"].shape == (3, 768)
    assert any(up.abs().sum() > 0 for name, up in lora.items() if name.endswith("lora_up.weight"))
    assert identity.base_name == "likeness_builtin_sd15_inpaint.ckpt" and identity.settings["steps"] == "3"
    assert curve.shape[0] == 1 and curve.shape[-1] == 3 and curve.std() > 0.05
    assert previews.shape == (1, 64, 64, 3) and torch.isfinite(previews).all()
    assert "3 steps on 2 photos: loss" in report and "s a step" in report and "went on" not in report
    assert not list(folders[0].glob("*")), "a finished training leaves no checkpoint"
    assert len(outputs["stock"][0].patches) == len(lora) // 3
    loading = {
        "load": node("LikenessLoadFaceAIdentity", identity_name=f"{FOLDER}/ada_00001_.safetensors"),
        "any": node("PreviewAny", source=["load", 1]),
    }
    loaded, info = executor.run(loading)["load"]
    assert same(identity, loaded) and loaded.base == identity.base
    assert "a man face" in info and "seed: 7" in info


def test_the_same_seed_gives_the_same_file(executor, folders):
    files = []
    for number, seed in enumerate((7, 7, 8)):
        one = graph(2, seed=seed)
        one["save"] = node("LikenessSaveFaceAIdentity", facea_identity=["train", 0], filename_prefix="x")
        executor.run(one)
        forget(executor)
        files.append((folders[1] / f"x_{number + 1:05}_.safetensors").read_bytes())
    assert files[0] == files[1] and files[0] != files[2]


def test_an_interruption_keeps_what_was_learned_and_the_same_graph_goes_on(executor, folders, monkeypatch):
    (whole, *_), sent = executor.run(graph(4))["train"], executor._server.send_progress_text
    forget(executor)

    def send(text, *rest):
        comfy.model_management.interrupt_current_processing("step 1 of 4" in text)
        return sent(text, *rest)

    monkeypatch.setattr(executor._server, "send_progress_text", send)
    executor.run(graph(4))
    assert any(event == "execution_interrupted" for event, _ in executor.events)
    monkeypatch.undo()
    (file,) = (folders[1] / "stopped").iterdir()
    (checkpoint,) = folders[0].iterdir()
    assert file.name == f"{checkpoint.stem}_step_1.safetensors"
    again = graph(4)
    again["load"] = node("LikenessLoadFaceAIdentity", identity_name=f"stopped/{file.name}")
    again["info"] = node("PreviewAny", source=["load", 1])
    outputs = executor.run(again)
    identity, *_, report = outputs["train"]
    assert "went on after step 1, where it had been stopped" in report and same(identity, whole)
    assert "steps: 1" in outputs["load"][1] and not same(outputs["load"][0], whole)
    assert not list(folders[0].iterdir())


def test_fewer_steps_than_are_done_end_it_at_once(executor, folders, monkeypatch):
    sent = executor._server.send_progress_text

    def send(text, *rest):
        comfy.model_management.interrupt_current_processing("step 1 of 9" in text)
        return sent(text, *rest)

    monkeypatch.setattr(executor._server, "send_progress_text", send)
    executor.run(graph(9))
    monkeypatch.undo()
    identity, *_, report = executor.run(graph(1))["train"]
    assert identity.settings["steps"] == "1" and "went on after step 1" in report and "a step" not in report


def test_an_attribute_is_transferred_and_the_rest_stays(executor):
    wanted = graph(2)
    options = {
        key: value
        for key, value in wanted["train"]["inputs"].items()
        if key not in ("word", "preset", "rank", "features", "level", "photos.faces_2")
    }
    wanted["transfer"] = node(
        "LikenessTransferFaceAAttribute", **options, facea_identity=["train", 0], attribute="mouth"
    )
    wanted["any"] = node("PreviewAny", source=["transfer", 4])
    outputs = executor.run(wanted)
    before, after = outputs["train"][0], outputs["transfer"][0]
    changed = {region for region in REGIONS if not torch.equal(before.features[region], after.features[region])}
    assert changed == {"mouth"} and not same(before, after)
    assert any(not torch.equal(before.lora[name], after.lora[name]) for name in before.lora)
    assert after.settings["transferred"] == "mouth" and after.settings["before: steps"] == "2"
    assert "2 steps on 1 photo:" in outputs["transfer"][4]


def test_words_that_the_text_encoder_reads_learn_too(executor):
    outputs = executor.run(graph(2, level="input", gradient_checkpointing=True))
    identity = outputs["train"][0]
    first = executor.run(graph(1, level="input"))["train"][0]
    assert identity.level == "input" and not torch.equal(identity.features["face"], first.features["face"])


def fail(executor, graph) -> str:
    with pytest.raises(GraphError) as error:
        executor.run(graph)
    return str(error.value)


def test_what_cannot_be_learned_from_is_named(executor, folders):
    wrong = graph()
    wrong["base"]["inputs"]["ckpt_name"] = BUILT_IN["ckpt_name"]
    assert "UNet has 9 input channels; the connected SD15 has 4. Load an inpainting" in fail(executor, wrong)
    wrong = graph()
    wrong["photo2"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    assert "Photo 2 of 2 has no face, but one is needed: leave this photo out" in fail(executor, wrong)
    wrong = graph(nose_mask=["empty", 0])
    del wrong["train"]["inputs"]["photos.faces_2"]
    wrong["empty"] = node("SolidMask", value=0.0, width=448, height=512)
    assert "The mask for the nose in photo 1 of 1 is empty. Leave this photo out" in fail(executor, wrong)
    wrong["empty"]["inputs"]["width"] = 40
    assert "are 1 of 40 x 512 pixels, but there are 1 photos of 448 x 512" in fail(executor, wrong)
    assert not any(folder.exists() and any(folder.iterdir()) for folder in folders)


def test_one_photo_with_a_mask_of_the_users_own(executor):
    given = graph(1, face_mask=["mask", 0])
    del given["train"]["inputs"]["photos.faces_2"]
    given["mask"] = node("SolidMask", value=1.0, width=448, height=512)
    identity, *_, report = executor.run(given)["train"]
    assert "1 step on 1 photo:" in report and "Only one photo" in report
    del given["train"]["inputs"]["face_mask"]
    assert not same(executor.run(given)["train"][0], identity), "the mask was used"


def test_photos_of_different_people_are_pointed_out(executor):
    given = graph(1, face_id=["id", 0])
    given["encoder"] = node("LikenessLoadFaceEncoder", encoder_name=BUILT_IN["encoder_name"])
    sockets = {"face_encoder": ["encoder", 0], "mask_background": True}
    given["id1"] = node("LikenessEncodeIdentity", faces=["faces1", 0], **sockets)
    given["id"] = node("LikenessEncodeIdentity", faces=["faces2", 0], face_id=["id1", 0], **sockets)
    *_, report = executor.run(given)["train"]
    cosine = torch.prod(executor.run(given)["id"][0].embedding, dim=0).sum()
    assert ("photos agree with the others by less than 0.3" in report) == bool(cosine < 0.3)


def test_out_of_memory_is_said_and_what_was_learned_is_kept(executor, folders, monkeypatch):
    sent = executor._server.send_progress_text

    def send(text, *rest):
        if "step 1 of" in text:
            raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory")
        return sent(text, *rest)

    monkeypatch.setattr(executor._server, "send_progress_text", send)
    said = fail(executor, graph())
    assert "FaceA training stopped: the device ran out of memory: lower batch_size (now 1), switch gradient" in said
    (file,) = (folders[1] / "stopped").iterdir()
    assert str(file) in said and file.name.endswith("_step_1.safetensors")
    monkeypatch.undo()
    assert "went on after step 1" in executor.run(graph())["train"][4], "the host is well"


def test_a_loss_that_is_no_number_is_said(executor, folders):
    said = fail(executor, graph(60, learning_rate=1.0, features_learning_rate=1.0, batch_size=1))
    assert "the loss is no number any more in step" in said and "Lower the learning rates" in said
