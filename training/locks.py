"""Files that keep what they stand for to one process; one that is killed lets go of it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def hold(file: Path, refusal: Exception) -> Iterator[None]:
    """Hold a lock file for a while; raise `refusal` where another process has it. Where nothing can be written, nothing
    is shared, and nothing is held.
    """
    lock = FileLock(file, timeout=0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise refusal from error
    except OSError:
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # Windows removes nothing that is open
                os.unlink(lock.lock_file)
            lock.release()
