"""Pictures to try the nodes with."""

import shutil
from pathlib import Path

import folder_paths
from comfy_api.latest import io
from server import nodes as host_nodes

from .inputs import read_version

_ASSETS = Path(__file__).parents[1] / "workflows" / "assets"
_FOLDER = "examples"  # in the host's temporary folder, the only one of ours from which the editor can show a picture


class ExamplePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessExamplePicture",
            display_name="Example Picture",
            category="likeness/faces",
            description="A photograph, a drawn person or a pose that comes with the pack, so that a graph runs before "
            "you have chosen a picture of your own; and then that one: press its button.",
            search_aliases=["load image", "photo", "reference", "sample image", "astronaut", "test picture", "upload"],
            inputs=[
                io.Combo.Input(
                    "image",
                    options=[*list_examples(), *_list_inputs()],
                    upload=io.UploadType.image,
                    image_folder=io.FolderType.input,
                    tooltip="One of the pack's pictures (examples/...), or a picture of your own: the button below "
                    "uploads one, as does dropping it on the node.",
                ),
            ],
            outputs=[io.Image.Output("image_out", display_name="image", tooltip="The picture, for Detect Faces.")],
        )

    @classmethod
    def validate_inputs(cls, image):
        if _example(image) is None and not folder_paths.exists_annotated_filepath(image):
            return f"There is no picture '{image}': choose another, or upload one with the button of this node."
        return True

    @classmethod
    def fingerprint_inputs(cls, image):
        return read_version(_example(image) or folder_paths.get_annotated_filepath(image))

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        if _example(image):
            offer_examples()
        return io.NodeOutput(host_nodes.LoadImage().load_image(image)[0])


def list_examples() -> list[str]:
    """Return the names under which the pack's own pictures are offered."""
    return [f"{_FOLDER}/{file.name} [temp]" for file in sorted(_ASSETS.glob("*.png"))]


def offer_examples() -> None:
    """Copy the pack's pictures to the host's temporary folder, where they are missing: the editor shows them there."""
    folder = Path(folder_paths.get_temp_directory(), _FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    for file in _ASSETS.glob("*.png"):
        if not (folder / file.name).exists():
            shutil.copy(file, folder)


def _example(name: str) -> Path | None:
    return _ASSETS / Path(name.removesuffix(" [temp]")).name if name in list_examples() else None


def _list_inputs() -> list[str]:
    folder = Path(folder_paths.get_input_directory())
    names = [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    return sorted(folder_paths.filter_files_content_types(names, ["image"]))


NODES = [ExamplePicture]
