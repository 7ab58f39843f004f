"""Files of our own formats: safetensors that name their format and its version in the metadata.

Standard library only, but for `read`: lists of such files are printed before anything is installed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import files


@dataclass(frozen=True)
class Format:
    """A format of our own.

    name, version: what stands in the metadata as `format` and `version`.
    label: what such a file is, for sentences: "an identity". choose: which file to choose instead of another.
    newer: the sentence for a higher version, {0}, than the known one, {1}. advice: a sentence that ends every refusal.
    """

    name: str
    version: int
    label: str
    choose: str = ""
    newer: str = "it has format version {0}, but this ComfyUI-Likeness reads up to version {1}; update it"
    advice: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """The entries by which the metadata of a file name the format."""
        return {"format": self.name, "version": str(self.version)}

    def check(self, metadata: object) -> None:
        """Raise ValueError, with what is wrong, unless `metadata` name this format in a version that is known."""
        if not isinstance(metadata, dict) or metadata.get("format") != self.name:
            raise ValueError(f"it holds other tensors{self.choose}")
        version = metadata.get("version")
        if not (isinstance(version, str) and re.fullmatch("[1-9][0-9]{0,8}", version)):
            raise ValueError("'version' of its metadata is missing or damaged")
        if int(version) > self.version:
            raise ValueError(self.newer.format(version, self.version))

    @contextmanager
    def name_faults(self, path: str | Path) -> Iterator[None]:
        """Turn a ValueError raised inside, which says what is wrong, into one that names the file `path` too."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"'{path}' cannot be loaded as {self.label}: {error}.{self.advice}") from error


def read(path: str | Path, form: Format) -> tuple[dict[str, str], dict]:
    """Return the metadata and the tensors by name, on the CPU, of a file of the format `form`.

    Raises ValueError, with what is wrong but without the file's name, for any other file; OSError where it cannot be
    read.
    """
    import safetensors

    with open(path, "rb") as file:
        if reason := files.not_weights(file.read(files.HEAD)):
            raise ValueError(f"it is {reason}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            form.check(metadata)
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error
