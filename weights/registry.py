"""Files out of packages of Python's registry, had by pip with the user's own configuration. Standard library only."""

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .errors import FetchError, NotReachedError, RefusedError, disk_errors

_NO_CONNECTION = re.compile(r"connection broken by|ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError")
_HASH_FOUND = re.compile(r"Got\s+([0-9a-f]{64})")


@dataclass(frozen=True)
class Package:
    """A package in the registry and the sha256 of the one file of it that is meant.

    is_source: a source archive, of which pip runs the set-up to learn its name; of a wheel it runs nothing.
    """

    name: str
    version: str
    sha256: str
    is_source: bool = False

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def take(package: Package, members: dict[str, Path]) -> None:
    """Have a package, and write the files inside that `members` names to the paths it maps them to.

    Raises NotReachedError where the registry is out of reach, RefusedError where the package is another by now or is
    damaged, FetchError for everything else; then no path of `members` is written.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = _download(package, Path(folder))
        contents = _read(archive, list(members), package)
        for member, target in members.items():
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(contents[member])


def _download(package: Package, folder: Path) -> Path:
    """Return the verified file of a package in `folder`; pip asks the index, mirror or proxy it is configured for."""
    lock, files = folder / "package.lock", folder / "files"
    lock.write_text(f"{package} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    # What is wanted lies inside and is not installed: the Python that the package asks for does not matter.
    options = ["--no-deps", "--require-hashes", "--ignore-requires-python", "--disable-pip-version-check", "--no-input"]
    kind = ["--no-binary" if package.is_source else "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", *options, *kind, "-r", lock, "-d", files]
    run = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if run.returncode:
        raise _explain(package, run.stdout)
    return next(files.iterdir())


def _explain(package: Package, output: str) -> FetchError:
    """Return in one sentence why pip gave up."""
    if "No module named pip" in output:
        return FetchError(
            f"the Python package {package} is had by pip, which {sys.executable} lacks: run '{sys.executable} -m "
            "ensurepip', or this command with another Python."
        )
    if "DO NOT MATCH THE HASHES" in output:
        got = _HASH_FOUND.search(output)
        return RefusedError(
            f"the Python package {package} is another file by now: its sha256 is {got[1] if got else 'another'}, "
            f"{package.sha256} was expected. Nothing of it was kept. Is there a newer Likeness, which knows it?"
        )
    if _NO_CONNECTION.search(output):
        return NotReachedError(
            f"pip could not reach the package registry for {package}. Behind a proxy or with a mirror, tell pip of it "
            "('pip config set global.proxy ...' or 'global.index-url ...'), then run this again."
        )
    if "No matching distribution" in output:
        return FetchError(f"the package registry that pip is set to has no {package}: try another mirror.")
    complaint = next((line for line in reversed(output.splitlines()) if line.startswith("ERROR: ")), "ERROR: no reason")
    return FetchError(f"pip could not get {package} ({complaint.removeprefix('ERROR: ')}).")


def _read(archive: Path, members: list[str], package: Package) -> dict[str, bytes]:
    """Return the content of files in a wheel, or in a source archive within the folder that it begins with."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                return {member: file.read(member) for member in members}
        with tarfile.open(archive) as file:
            top = file.getnames()[0].split("/")[0]
            return {member: file.extractfile(f"{top}/{member}").read() for member in members}
    except (KeyError, AttributeError) as error:  # not there, or there and no file
        raise RefusedError(f"the Python package {package} does not hold {', '.join(members)}.") from error
