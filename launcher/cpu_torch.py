"""Let the torchvision and torchaudio of the package index import beside a CPU-only torch.

On Linux those two are built for CUDA, so their compiled parts cannot be loaded without CUDA's libraries. The host
imports both but needs only what they have in Python. Run it with the environment's Python; where both import already,
it changes nothing.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

# torchvision registers Python counterparts for exactly these two operators at import, which fails where the compiled
# part has not declared them. Declared but not implemented, calling them still ends in torchvision's own error.
DECLARE = '''"""Declares the operators torchvision expects at import; its compiled part needs a CUDA build of torch."""

import importlib.abc
import sys


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Waits for the first import of torchvision, so that starting Python does not import torch."""

    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            DeclareOperators.library = torch.library.Library("torchvision", "DEF")
            self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, DeclareOperators())
'''


def imports(package: str) -> bool:
    """Return whether a fresh Python can import `package`."""
    return subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True).returncode == 0


def declare_torchvision_operators(packages: Path) -> None:
    """Install the import hook `DECLARE` into the environment's site-packages."""
    (packages / "torchvision_operators.py").write_text(DECLARE, encoding="utf-8")
    (packages / "torchvision_operators.pth").write_text("import torchvision_operators\n", encoding="utf-8")


def set_aside_torchaudio_extension(packages: Path) -> None:
    """Rename torchaudio's compiled parts: it works in plain Python when it finds none."""
    for compiled in (packages / "torchaudio" / "lib").glob("*.so"):
        compiled.rename(compiled.with_suffix(".so.needs-cuda"))


def main() -> int:
    packages = Path(sysconfig.get_paths()["platlib"])
    if not imports("torchvision"):
        declare_torchvision_operators(packages)
    if not imports("torchaudio"):
        set_aside_torchaudio_extension(packages)
    return subprocess.run([sys.executable, "-c", "import torch, torchvision, torchaudio"]).returncode


if __name__ == "__main__":
    sys.exit(main())
