"""What pictures say of how they were made."""

import copy
import hashlib
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from likeness.nodes import provenance, save_image
from likeness.tests.support.graphs import WORKFLOWS
from PIL import Image

from likeness import source_label


def read(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text())


def test_every_node_that_brings_a_person_into_a_picture_is_known(executor):
    import nodes

    missing = []
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        if not name.startswith("Likeness"):
            continue
        schema = node.GET_SCHEMA()
        takes = {entry.io_type for entry in schema.inputs}
        gives = {entry.io_type for entry in schema.outputs}
        if takes & {"FACE_ID", "PLACED_PEOPLE", "FACE_PEOPLE", "FACE_WORDS", "FACEA_IDENTITY"} and gives & {
            "MODEL", "CONDITIONING", "FACE_WORDS", "FACE_PEOPLE",
        }:  # fmt: skip
            missing += [] if name in provenance.METHODS else [name]
    assert not missing and provenance.METHODS.keys() <= nodes.NODE_CLASS_MAPPINGS.keys()


@pytest.mark.parametrize(
    "name, methods, source",
    [
        ("fact_text_to_image", ["FaceChain-FACT"], "trainedAlgorithmicMedia"),
        ("fact_inpaint", ["FaceChain-FACT"], "compositeWithTrainedAlgorithmicMedia"),
        ("fix_faces", ["FaceChain-FACT", "Refine Faces"], "compositeWithTrainedAlgorithmicMedia"),
        ("facea_refine", ["FaceA-Net", "Refine Faces"], "trainedAlgorithmicMedia"),
        ("infinite_id_photo", ["IP-Adapter family", "Infinite-ID"], "trainedAlgorithmicMedia"),
        ("f2d_two_people", ["Face2Diffusion"], "trainedAlgorithmicMedia"),
    ],
)
def test_methods_and_source(base, name, methods, source):
    description = provenance.describe(read(name))
    assert sorted(description["methods"]) == sorted(methods)
    assert description["digital_source_type"] == f"http://cv.iptc.org/newscodes/digitalsourcetype/{source}"
    assert description["statement"] == "made with a person's likeness"


def test_files_have_hashes_and_licences(base, root):
    description = provenance.describe(read("miniature_fact"))
    weights = {record["file"]: record for record in description["weights"]}
    file = root / "miniature" / "weights" / "facechain_fact" / "miniature_fact.safetensors"
    record = weights["miniature_fact.safetensors"]
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest() and "Apache" in record["licence"]
    missing = {record["file"]: record for record in provenance.describe(read("fact_text_to_image"))["weights"]}
    assert missing["ms1mv2_model_TransFace_S.pt"] == {
        "file": "ms1mv2_model_TransFace_S.pt",
        "sha256": None,
        "licence": "Apache-2.0 (repository); MS1M data NC",
        "commercial_use": "not allowed",
    }
    (identity,) = provenance.describe(read("miniature_facea"))["identities"]
    assert len(identity["sha256"]) == 64


def test_it_goes_with_the_request_unless_switched_off(base, monkeypatch):
    graph = read("miniature_fact")
    request = provenance.attach({"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": {}}}})
    assert request["extra_data"]["extra_pnginfo"].keys() == {"workflow", "likeness"}
    plain = {"1": {"class_type": "EmptyImage", "inputs": {}}}
    for other in (
        {"prompt": graph, "extra_data": {"likeness": False}},
        {"prompt": plain},
        {"prompt": {"1": {}}},
        {"prompt": []},
        {},
    ):
        extra = provenance.attach(other)["extra_data"]
        assert "extra_pnginfo" not in extra and "likeness" not in extra
    monkeypatch.setenv(provenance.SWITCH, "0")
    assert not provenance.attach({"prompt": graph})["extra_data"]


def test_the_source_type_stands_where_programs_look_for_it(base):
    image = Image.new("RGB", (8, 8), "red")
    plain, jpeg = io.BytesIO(), io.BytesIO()
    image.save(plain, "png")
    image.save(jpeg, "jpeg")
    description = provenance.describe(read("miniature_fact"))
    data = source_label.add(plain.getvalue(), description)
    Image.open(io.BytesIO(data)).verify()
    labelled = Image.open(io.BytesIO(data))
    packet = labelled.text["XML:com.adobe.xmp"]
    assert 'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trained' in packet
    assert labelled.tobytes() == image.tobytes()
    assert source_label.add(data, description) == data
    assert source_label.add(jpeg.getvalue(), description) == jpeg.getvalue()
    assert source_label.add(plain.getvalue(), None) == plain.getvalue()


def test_save_image_marks_pictures_of_a_person(executor, base):
    """As the server queues it: the person's picture is marked, the photo beside it is not; both name Save Image."""
    import folder_paths

    graph = read("miniature_fact")
    graph["11"]["inputs"] |= {"width": 64, "height": 64, "batch_size": 1}
    graph["4"]["inputs"]["size"], graph["12"]["inputs"]["steps"] = 96, 1
    graph["15"] = {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "likeness/photo"}}
    queued = save_image.exchange(provenance.attach({"prompt": copy.deepcopy(graph)}))
    executor.run(queued["prompt"], **queued["extra_data"])
    files = {
        data["node"]: Path(folder_paths.get_output_directory(), item["subfolder"], item["filename"])
        for event, data in executor.events if event == "executed"
        for item in data["output"].get("images", []) if item["type"] == "output"
    }  # fmt: skip
    picture, photo = (Image.open(files[key]) for key in ("14", "15"))
    assert files["14"].name.startswith("miniature_fact_0") and json.loads(picture.text["prompt"]) == graph
    packet = ElementTree.fromstring(picture.info["xmp"])  # where Pillow has it from an XMP chunk
    source = packet.find(".//{*}Description").get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert source.endswith("/trainedAlgorithmicMedia")
    assert json.loads(picture.text["likeness"])["methods"] == ["FaceChain-FACT"]
    assert "xmp" not in photo.info and json.loads(photo.text["prompt"]) == graph
    plain = {"prompt": {"15": graph["15"]}, "extra_data": {}}
    assert save_image.exchange(copy.deepcopy(plain)) == plain, "switched off, or nobody is in the graph"


def test_another_pack_s_save_image_stays(base, monkeypatch):
    import nodes

    class Other(nodes.SaveImage):
        pass

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "SaveImage", Other)
    request = provenance.attach({"prompt": read("miniature_fact")})
    assert save_image.exchange(copy.deepcopy(request)) == request
