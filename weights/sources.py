"""From what the manifest says of a publisher to the address the bytes come from."""

import huggingface_hub
from huggingface_hub.utils import build_hf_headers

from . import manifest

_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"


def address(entry: manifest.WeightFile) -> tuple[str, dict[str, str]]:
    """URL and headers to ask for a file (for a file inside an archive: for the archive).

    Hugging Face: with the user's log-in, from the mirror that HF_ENDPOINT names. Google Drive: past the page that says
    the file was not searched for viruses.
    """
    source = entry.source
    if source.kind == "huggingface":
        url = huggingface_hub.hf_hub_url(source.repo, source.path, revision=source.revision)
        return url, build_hf_headers()
    if source.kind == "google-drive":
        return _DRIVE.format(source.id), {}
    return manifest.url(entry), {}
