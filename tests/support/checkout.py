"""Commands of `likeness.py` in a process of their own, on the tests' base directory and not on the checkout's."""

import sys
from pathlib import Path

from likeness.launcher.environment import find_host

ROOT = Path(__file__).resolve().parents[2]

_SCRIPT = """
import importlib.util, signal, sys
from pathlib import Path
root, base, comfy, module = sys.argv[1:5]
spec = importlib.util.spec_from_file_location("likeness", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["likeness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["likeness"])
from likeness import host_process
host_process.BASE = Path(base)
command = importlib.import_module("likeness.launcher." + module)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
try:
    sys.exit(command.main(sys.argv[5:], Path(comfy)))
except KeyboardInterrupt:
    sys.exit(130)
"""


def command(base: Path, module: str, *arguments) -> list[str]:
    """Return the command line that runs a module of the launcher."""
    return [sys.executable, "-P", "-c", _SCRIPT, *map(str, (ROOT, base, find_host(), module, *arguments))]
