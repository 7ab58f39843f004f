"""Every file of the manifest leads somewhere: put where it belongs, a node's menu offers it, or a command reads it."""

from pathlib import Path

import folder_paths
import pytest
from likeness.weights import folders, manifest, paths

import nodes


def strings(value) -> set[str]:
    """All strings in a node's INPUT_TYPES."""
    if isinstance(value, str):
        return {value}
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return {text for part in values for text in strings(part)}


def offered() -> set[str]:
    """What the menus of all nodes offer, the host's own among them."""
    return {text for node in nodes.NODE_CLASS_MAPPINGS.values() for text in strings(node.INPUT_TYPES())}


@pytest.fixture
def models(executor, tmp_path, monkeypatch):
    """The host with another models folder, empty."""
    folder = tmp_path / "models"
    known = {}
    for kind, (places, extensions) in folder_paths.folder_names_and_paths.items():
        moved = [str(folder / Path(place).name) for place in places if Path(place).parent.name == "models"]
        known[kind] = (moved or places, extensions)
    monkeypatch.setattr(folder_paths, "models_dir", str(folder))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folders, "_SHIPPED", {})
    return folder


def put(models: Path, entry) -> str:
    """Write an empty file where the entry's is to lie; returns its path below the models folder."""
    name = paths.relative_path(entry)
    if paths.is_rewritten(entry):
        name = paths.safetensors_name(name)
    (models / name).parent.mkdir(parents=True, exist_ok=True)
    (models / name).touch()
    return name


def test_every_file_is_offered_by_a_node(models):
    """What is part of another file's folder, or comes in a pack whose recogniser is offered, goes with it."""
    listed = [entry for entry in manifest.entries() if entry.file]
    with_others = {part for entry in listed for part in entry.parts}
    leaders = [entry for entry in listed if entry.name not in with_others and not paths.is_archive(entry)]
    positions = {entry.name: put(models, entry) for entry in leaders}
    menu = {text.replace("\\", "/") for text in offered()}
    packs = {text.removeprefix("insightface: ") for text in menu if text.startswith("insightface: ")}
    unread = []
    for name, position in positions.items():
        below_kind = position.split("/", 1)[1]
        # The editor's menu holds a file's path in its kind's folder, which for some kinds lies a folder deeper.
        tails = {below_kind, below_kind.split("/", 1)[-1]}
        if not tails & menu and not any(position.startswith(f"insightface/models/{pack}/") for pack in packs):
            unread.append(name)
    assert unread == [], "nothing reads these: give them a reader, or take them out of weights_manifest.json"


def test_files_that_only_have_a_page_are_checkpoints():
    """Of these any file of the kind will do, so no name is asked for."""
    assert {entry.folder for entry in manifest.entries() if not entry.file} == {"checkpoints"}
