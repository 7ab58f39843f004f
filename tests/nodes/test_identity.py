"""Save, load, combine and compare identities through the host's executor."""

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch
from likeness.encoders.identity_file import load_identity, save_identity
from likeness.tests.support import tiny
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import only, workflow

import nodes

FOLDER = "likeness_test"


@pytest.fixture(autouse=True)
def folder(base):
    """The folder these tests save to, empty."""
    folder = base / "output" / "face_id" / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def save(source, prefix="ada", thumbnails=True, note="agreed"):
    return node(
        "LikenessSaveIdentity",
        face_id=source,
        filename_prefix=f"{FOLDER}/{prefix}",
        thumbnails=thumbnails,
        note=note,
    )


def load(name):
    return node("LikenessLoadIdentity", identity_name=f"{FOLDER}/{name}")


def text(source):
    return node("PreviewAny", source=source)


def keep_encoding(name="fact_text_to_image"):
    """A workflow without its sampling: only what its identities need."""
    graph = workflow(name)
    wanted = [key for key, one in graph.items() if one["class_type"] == "LikenessEncodeIdentity"]
    for key in wanted:
        wanted += [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return {key: graph[key] for key in wanted}


def put(folder, name, identity, **options):
    folder.mkdir(parents=True, exist_ok=True)
    save_identity(str(folder / name), identity, **options)


@pytest.mark.slow
def test_a_saved_identity_draws_the_same_image_bit_for_bit(executor, folder):
    graph = workflow("fact_text_to_image", steps=1)
    encode, decode = only(graph, "LikenessEncodeIdentity"), only(graph, "VAEDecode")
    graph |= {"save": save([encode, 0]), "bare": save(["save", 0], "bare", thumbnails=False)}
    outputs = executor.run(graph)
    (expected,) = outputs[decode]
    assert outputs["save"][0] is outputs[encode][0]
    assert outputs["save"][1] == str(folder / "ada_00001_.safetensors")
    assert outputs["bare"][1] == str(folder / "bare_00001_.safetensors")
    again = {key: one for key, one in copy.deepcopy(graph).items() if key not in ("save", "bare", encode)}
    again |= {"load": load("bare_00001_.safetensors"), "ada": load("ada_00001_.safetensors")}
    again["look"] = node("PreviewImage", images=["ada", 1])
    again[only(again, "LikenessApplyFACT")]["inputs"]["face_id"] = ["load", 0]
    for one in again.values():
        if one["inputs"].get("images") == [encode, 1]:
            one["inputs"]["images"] = ["load", 1]
    outputs = executor.run(again)
    assert only(again, "KSampler") in executor.executed() and torch.equal(outputs[decode][0], expected)
    assert torch.equal(outputs["ada"][0].features, outputs["load"][0].features)
    assert outputs["load"][1].shape == outputs["ada"][1].shape == (1, 112, 112, 3)


def test_after_saving_the_list_has_the_file_and_the_next_gets_a_new_number(executor, folder):
    loader = nodes.NODE_CLASS_MAPPINGS["LikenessLoadIdentity"]
    before = loader.INPUT_TYPES()["required"]["identity_name"]
    graph = keep_encoding()
    encode = only(graph, "LikenessEncodeIdentity")
    for number in (1, 2):
        graph["save"] = save([encode, 0], note=f"note {number}")
        outputs = executor.run(graph)
        executor.run(graph)  # nothing changed, so nothing is saved again
        assert outputs["save"][1] == str(folder / f"ada_0000{number}_.safetensors")
        offered = loader.INPUT_TYPES()["required"]["identity_name"][1]["options"]
        assert os.path.join(FOLDER, f"ada_0000{number}_.safetensors") in offered
    assert f"{FOLDER}/ada_00001_.safetensors" not in str(before)


def test_load_shows_crops_and_tells_about_the_file(executor, folder):
    put(folder, "ada.safetensors", tiny.face_id(3), note="agreed on paper")
    graph = {"load": load("ada.safetensors"), "info": text(["load", 2])}
    graph["look"] = node("PreviewImage", images=["load", 1])
    _, crops, info = executor.run(graph)["load"]
    assert crops.shape == (3, 8, 8, 3)
    lines = info.splitlines()
    assert lines[0] == f"{FOLDER}/ada.safetensors" and lines[1:3] == [
        "photos: 3",
        "encoder: tiny_transface.pt (transface)",
    ]
    assert "thumbnails: kept" in lines and lines[-1] == "note: agreed on paper" and "agreement" in info


def test_a_replaced_file_is_loaded_anew_and_an_unchanged_one_is_not(executor, folder):
    put(folder, "ada.safetensors", tiny.face_id(2, seed=1))

    def load_one():
        return executor.run({"load": load("ada.safetensors"), "info": text(["load", 2])})["load"][0]

    first = load_one()
    load_one()
    assert executor.executed() == set()
    put(folder, "ada.safetensors", tiny.face_id(2, seed=7))
    second = load_one()
    assert torch.equal(second.features, tiny.face_id(2, seed=7).features)
    assert not torch.equal(first.features, second.features)


@pytest.mark.parametrize("name", ["gone.safetensors", "../../../../etc/passwd", ""])
def test_missing_identities_are_refused_before_anything_runs(executor, name):
    with pytest.raises(GraphError, match="There is no identity .*output/face_id.*press R"):
        executor.run({"load": load(name), "info": text(["load", 2])})


def test_a_damaged_file_is_one_sentence_and_the_next_graph_runs(executor, folder):
    put(folder, "ada.safetensors", tiny.face_id())
    whole = (folder / "ada.safetensors").read_bytes()
    (folder / "ada.safetensors").write_bytes(whole[:-10])
    graph = {"load": load("ada.safetensors"), "info": text(["load", 2])}
    with pytest.raises(GraphError, match="LikenessLoadIdentity: .*ada.safetensors' cannot be loaded .*cut short"):
        executor.run(graph)
    (folder / "ada.safetensors").write_bytes(whole)
    executor.run(graph)


def test_save_refuses_a_name_that_leaves_the_folder(executor, base):
    graph = keep_encoding()
    graph["save"] = save([only(graph, "LikenessEncodeIdentity"), 0])
    graph["save"]["inputs"]["filename_prefix"] = "../../ada"
    with pytest.raises(GraphError, match="LikenessSaveIdentity: Save Identity: '../../ada' is no name"):
        executor.run(graph)
    assert not list(base.glob("ada*")) and not list((base / "output").glob("ada*"))


def combine(folder, photos, method, slider=0.5, min_agreement=0.3, names=None):
    """A graph that combines tiny identities; names: of the sockets, for gaps."""
    graph, sockets = {}, {}
    for number, count in enumerate(photos, 1):
        put(folder, f"{number}.safetensors", tiny.face_id(count, seed=number))
        graph[f"load{number}"] = load(f"{number}.safetensors")
        sockets[f"identities.face_id_{names[number - 1] if names else number}"] = [f"load{number}", 0]
    values = {"method": method, "slider": slider, "min_agreement": min_agreement}
    graph["combine"] = node("LikenessCombineIdentities", **sockets, **values)
    return graph | {"report": text(["combine", 1])}


def test_combine_takes_any_number_of_identities_in_the_order_of_its_sockets(executor, folder):
    outputs = executor.run(combine(folder, (1, 2, 1), "concatenate", names=(1, 7, 20)))
    identity, report = outputs["combine"]
    features = [outputs[f"load{number}"][0].features for number in (1, 2, 3)]
    assert torch.equal(identity.features, torch.cat(features)) and report == "4 photos side by side, of 3 identities."
    assert executor.run(combine(folder, (2,), "mean"))["combine"][0].features.shape[0] == 1


def test_the_slider_moves_from_one_identity_to_the_other(executor, folder):
    ends = [executor.run(combine(folder, (1, 1), "interpolate", slider=slider)) for slider in (0.0, 1.0)]
    for outputs, source in zip(ends, ("load1", "load2")):
        assert torch.equal(outputs["combine"][0].features, outputs[source][0].features)


def test_combine_says_what_is_wrong(executor, folder):
    with pytest.raises(GraphError, match="LikenessCombineIdentities: Combine Identities: interpolate .*, not 3"):
        executor.run(combine(folder, (1, 1, 1), "interpolate"))
    graph = combine(folder, (1, 1), "mean")
    del graph["combine"]["inputs"]["identities.face_id_1"], graph["load1"]
    with pytest.raises(GraphError, match="face_id_1"):
        executor.run(graph)


def test_agreement_shows_a_table_on_the_node(executor, folder):
    put(folder, "ada.safetensors", tiny.face_id(4))
    graph = {"load": load("ada.safetensors")}
    graph["alone"] = node("LikenessIdentityAgreement", face_id=["load", 0], min_agreement=0.3)
    graph["two"] = node("LikenessIdentityAgreement", face_id=["load", 0], min_agreement=0.3, compare_with=["load", 0])
    outputs = executor.run(graph)
    (image, words), (_, two) = outputs["alone"], outputs["two"]
    assert image.shape[0] == 1 and len(words.splitlines()) == 7 and "The two identities agree: 1.00" in two
    shown = {data["node"]: data["output"] for event, data in executor.events if event == "executed"}
    assert {*shown} == {"load", "alone", "two"} and all(len(shown[key]["images"]) == 1 for key in ("alone", "two"))


def test_saving_and_loading_show_whose_face_it_is_and_where(executor, folder):
    put(folder, "ada.safetensors", tiny.face_id(2))
    outputs = executor.run({"load": load("ada.safetensors"), "save": save(["load", 0])})
    shown = {data["node"]: data["output"] for event, data in executor.events if event == "executed"}
    assert all(len(output["images"]) == 2 for output in shown.values())
    assert [*shown["load"]["text"]] == [outputs["load"][2]]
    ((saved,),), file = (shown["save"]["files"],), Path(outputs["save"][1])
    assert (saved["filename"], saved["type"]) == (file.name, "output") and saved["subfolder"].startswith("face_id")
    assert file.name in shown["save"]["text"][0]


@pytest.mark.slow
def test_several_photos_are_saved_with_their_agreement(executor, folder):
    graph = keep_encoding("fact_several_references")
    chained = {one["inputs"]["face_id"][0] for one in graph.values() if "face_id" in one["inputs"]}
    last = next(
        key for key, one in graph.items() if one["class_type"] == "LikenessEncodeIdentity" and key not in chained
    )
    outputs = executor.run(graph | {"save": save([last, 0])})
    identity, header = load_identity(str(Path(outputs["save"][1])))
    assert torch.equal(identity.features, outputs[last][0].features) and torch.equal(
        identity.embedding, outputs[last][0].embedding
    )
    assert header.photos == 3 == len(header.agreement) and header.masked and len(header.encoder_sha256) == 64
