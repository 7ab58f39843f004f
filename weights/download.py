"""One file over HTTP into a partial file: resumed, retried, bounded in size and time. It never writes a final name.

huggingface_hub is asked for addresses and for the user's log-in only (`address`): its own download begins anew after a
crash, and with four other kinds of publisher the bytes need this way anyway.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import requests
import urllib3
from huggingface_hub.utils import build_hf_headers
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from . import manifest
from .errors import FetchError, NotReachedError, disk_errors, refuse_full_disk

_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
_CHUNK = 1 << 20
_REDIRECTS = 10
_PAGE = 1 << 16  # bytes of an answered page that are looked at
_TRY_LATER = (429, 500, 502, 503, 504)
_CUT_OFF = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server; seconds.

    connect, silence: for an answer and between two packets. window, least: fewer than `least` bytes in `window` seconds
    is too slow. tries: vain attempts in a row. back_off: before the second attempt, doubled for each after it.
    longest_wait: at most this long where the server itself asks to wait.
    """

    connect: float = 10
    silence: float = 30
    window: float = 60
    least: int = 60_000
    tries: int = 5
    back_off: float = 1
    longest_wait: float = 60


@dataclass(frozen=True)
class Wanted:
    """A file to download: `bytes` and `sha256` where they are known, `at_most` bytes where they are not.

    `if_changed`: what to do where the server has another file by now.
    """

    url: str
    headers: dict[str, str]
    bytes: int | None
    sha256: str | None
    at_most: int
    if_changed: str


def open_session(patience: Patience) -> requests.Session:
    """A session that tries again by itself, as long as no byte of the file has come."""

    class Capped(urllib3.Retry):
        def get_retry_after(self, response) -> float | None:
            asked = super().get_retry_after(response)
            return None if asked is None else min(asked, patience.longest_wait)

    retry = Capped(
        total=patience.tries,
        connect=min(2, patience.tries),
        backoff_factor=patience.back_off,
        status_forcelist=_TRY_LATER,
        raise_on_status=False,
    )
    session = requests.Session()
    session.max_redirects = _REDIRECTS
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def download(session: requests.Session, patience: Patience, wanted: Wanted, part: Path) -> None:
    """Make `part` the whole file, from where an earlier attempt left it. Whether it is the right file is not checked.

    Raises FetchError that says what is wrong, NotReachedError where no connection came about. What has come stays in
    `part` for the next time, unless the server sends another file than the wanted one.
    """
    in_vain = 0
    while True:
        before = _size(part)
        try:
            return _attempt(session, patience, wanted, part)
        except _CUT_OFF as error:
            in_vain = 0 if _size(part) > before else in_vain + 1
            if in_vain >= patience.tries:
                raise FetchError(
                    f"the connection to {wanted.url} broke off {in_vain} times in a row without progress "
                    f"({_size(part)} bytes are here). Run this again later: it goes on from there."
                ) from error
        time.sleep(patience.back_off * 2 ** max(in_vain - 1, 0))


def forget(part: Path) -> None:
    """Remove a partial file and what was remembered of it."""
    part.unlink(missing_ok=True)
    _memory(part).unlink(missing_ok=True)


def _attempt(session: requests.Session, patience: Patience, wanted: Wanted, part: Path) -> None:
    validator = _remembered(part, wanted.url)
    have = _size(part) if validator else 0
    ranged = {"Range": f"bytes={have}-", "If-Range": validator} if have else {}
    with _open(session, patience, wanted, ranged) as response:
        if have and response.status_code == 416:
            # Nothing beyond what is here: it was whole when the last run ended, or is another file by now.
            if not response.headers.get("Content-Range", "").endswith(f"*/{have}"):
                forget(part)
                return _attempt(session, patience, wanted, part)
            return None
        _refuse_answer(response, wanted)
        start = _start(response, have)
        total = _announced(response, start)
        _refuse_size(total, wanted, part)
        refuse_full_disk(part.parent, (total or wanted.bytes or 0) - start)
        if start == 0:
            forget(part)
            _remember(part, wanted.url, response)
        _receive(response, patience, wanted, part, start, total)


def _open(session: requests.Session, patience: Patience, wanted: Wanted, ranged: dict[str, str]) -> requests.Response:
    # Packed on the way, the bytes could be neither counted nor resumed.
    headers = {"Accept-Encoding": "identity", **wanted.headers, **ranged}
    try:
        response = session.get(wanted.url, headers=headers, stream=True, timeout=(patience.connect, patience.silence))
    except requests.TooManyRedirects as error:
        raise FetchError(f"{wanted.url} leads from one address to the next without end.") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise NotReachedError(f"{wanted.url} could not be reached ({_cause(error)}).") from error
    except requests.RequestException as error:
        raise FetchError(f"{wanted.url} could not be asked for ({error}).") from error
    if wanted.url.startswith("https:") and not response.url.startswith("https:"):
        raise FetchError(f"{wanted.url} leads to {response.url}, which is not encrypted: anyone could change the file.")
    return response


def _cause(error: Exception) -> str:
    """The last link of what requests tells, without the objects and addresses it shows."""
    reason = getattr(error.args[0], "reason", error) if error.args else error
    text = re.sub(r"<[^>]*>:? ?|\w+\(host=[^)]*\):? ?|\(Caused by .*", "", str(reason))
    return text.strip(" ,:") or type(error).__name__


def _refuse_answer(response: requests.Response, wanted: Wanted) -> None:
    """Everything that shows before the first byte of the file."""
    status = response.status_code
    if status in (401, 403):
        raise FetchError(
            f"{wanted.url} is not open to everybody ({status}): log in there with a browser and accept its terms; for "
            "Hugging Face then set HF_TOKEN to a token of yours. Or carry the file by hand."
        )
    if status in (404, 410):
        raise FetchError(f"{wanted.url} does not exist ({status}): the publisher has moved or removed the file.")
    if status == 429:
        wait = response.headers.get("Retry-After")
        raise FetchError(
            f"{wanted.url} has too many visitors (429): try again {f'in {wait} seconds' if wait else 'later'}."
        )
    if status not in (200, 206):
        raise FetchError(f"{wanted.url} answers with an error ({status} {response.reason}): try again later.")
    if "html" in response.headers.get("Content-Type", ""):
        raise FetchError(f"{wanted.url} answers with a web page instead of the file: {_page(response)}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(f"{wanted.url} sends the file packed, though it was asked for as it is.")
    now = _hub_sha256(response)
    if now and wanted.sha256 and now != wanted.sha256:
        raise FetchError(
            f"{wanted.url} is another file by now: its sha256 is {now}, {wanted.sha256} was expected. "
            f"{wanted.if_changed}"
        )


def _page(response: requests.Response) -> str:
    text = response.raw.read1(_PAGE, decode_content=True).decode(errors="replace").lower()
    if "quota" in text or "too many users" in text:
        return "the publisher's quota is used up. Try again in 24 hours, or carry the file by hand."
    if "accounts.google.com" in response.url or re.search(r"sign[ -]?in|log[ -]?in", text):
        return "it wants you to log in. Open it in a browser and carry the file by hand."
    return "the link has changed, or a proxy is in the way. Open it in a browser."


def _hub_sha256(response: requests.Response) -> str | None:
    """The sha256 that Hugging Face tells of a file before it sends one to the storage that has it."""
    for answer in (*response.history, response):
        etag = answer.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", etag):
            return etag
    return None


def _start(response: requests.Response, have: int) -> int:
    """Where in the file the answer begins: at 0 where the server cannot resume or the file is another by now."""
    if response.status_code == 200:
        return 0
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not sent or int(sent[1]) != have:
        raise FetchError(
            f"{response.url} was asked to go on at byte {have} and sends {sent[0] if sent else 'another'}."
        )
    return have


def _announced(response: requests.Response, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else None


def _refuse_size(total: int | None, wanted: Wanted, part: Path) -> None:
    """`total` is what was announced, or what has come so far, which can only be too much."""
    if total is None:
        return
    if total == 0:
        raise FetchError(f"{wanted.url} is an empty file (0 bytes).")
    if wanted.bytes is not None and total != wanted.bytes:
        forget(part)
        raise FetchError(
            f"{wanted.url} is of another size by now: {total} bytes, {wanted.bytes} were expected. {wanted.if_changed}"
        )
    if total > wanted.at_most:
        forget(part)
        raise FetchError(f"{wanted.url} is much too large: {total} bytes, {wanted.at_most} at most were expected.")


def _receive(
    response: requests.Response, patience: Patience, wanted: Wanted, part: Path, start: int, total: int | None
) -> None:
    at_most = total or wanted.bytes or wanted.at_most
    received = start
    bar = tqdm(
        total=total or wanted.bytes, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None, leave=False
    )
    with disk_errors(part):
        file = part.open("ab")
    with bar, file:
        for chunk in _chunks(response, patience):
            received += len(chunk)
            if received > at_most:
                break
            with disk_errors(part):
                file.write(chunk)
                file.flush()
            bar.update(len(chunk))
        with disk_errors(part):
            os.fsync(file.fileno())
    if received > at_most:
        forget(part)
        raise FetchError(f"{wanted.url} sends more than the {at_most} bytes that were expected; it was stopped.")
    if received < (total or wanted.bytes or 0):
        raise requests.ConnectionError("cut off")  # a server that does not say how long the file is just hangs up


def _chunks(response: requests.Response, patience: Patience) -> Iterator[bytes]:
    """The bytes as they come. A server that sends a byte now and then never is silent, so progress is asked for."""
    begin, come = time.monotonic(), 0
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        yield chunk
        come += len(chunk)
        if time.monotonic() - begin < patience.window:
            continue
        if come < patience.least:
            raise FetchError(
                f"{response.url} is too slow: {come} bytes came in {patience.window:g} seconds. Run this again later: "
                "it goes on where it stopped."
            )
        begin, come = time.monotonic(), 0


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _memory(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remember(part: Path, url: str, response: requests.Response) -> None:
    """Keep by what the server will know the same file again; a weak ETag does not vouch for the bytes."""
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    with disk_errors(part):
        _memory(part).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _remembered(part: Path, url: str) -> str | None:
    """The validator of a partial file that came from this address; None where it cannot be gone on with."""
    try:
        memory = json.loads(_memory(part).read_text(encoding="utf-8"))
        return memory["validator"] if memory["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):  # not there, or cut short by a crash
        return None


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
