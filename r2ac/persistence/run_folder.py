"""The folder of a run: owned by one attempt at a time, on this machine or behind a URL.

with RunFolder.open("runs/NAME") as folder:      or s3://bucket/NAME: a copy of it is fetched
    ... folder.path ...                          always a local folder
    folder.check()                               before a checkpoint is written
    folder.publish()                             after it was written
"""

import hashlib
import re
from pathlib import Path
from types import TracebackType

from conf.places import shown
from r2ac.persistence.lease import BEAT_S, EXPIRY_S, Lease, LeaseError
from r2ac.persistence.storage import Mirror, StorageError, open_storage

COPIES = Path("runs") / "remote"
"""Where the local copies of runs with a URL are."""


class RunFolderError(RuntimeError):
    """A run folder that cannot be used. One line for the user."""


class RunFolderAway(RunFolderError, OSError):
    """Storage that does not answer now: what was to be written may be written later."""


def copy_name(location: str) -> str:
    """Folder of a URL's copy: the URL as far as it may be shown, and what tells two apart that differ in the rest."""
    text = shown(location)
    name = re.sub(r"[^\w.-]+", "-", text).strip("-")
    return name if text == location else f"{name}-{hashlib.sha256(location.encode()).hexdigest()[:12]}"


class RunFolder:
    """See the module's docstring. Everything it raises is a ``RunFolderError``."""

    def __init__(self, path: Path, lease: Lease, mirror: Mirror | None) -> None:
        self.path = path
        self._lease = lease
        self._mirror = mirror

    @classmethod
    def open(cls, location: str, *, beat_s: float = BEAT_S, expiry_s: float = EXPIRY_S) -> "RunFolder":
        """Takes the folder, and fetches what is behind a URL. A lease that a dead process left is taken over, after at most
        ``expiry_s`` if the process ran on another machine.

        Raises:
            RunFolderError: if another attempt is using it, or the storage cannot be written.
        """
        remote = "://" in location
        path = COPIES / copy_name(location) if remote else Path(location)
        lease = None
        try:
            files, root = open_storage(location)
            lease = Lease(files, root, beat_s=beat_s, expiry_s=expiry_s)
            mirror = Mirror(files, root, path) if remote else None
            if mirror is not None:
                path.mkdir(parents=True, exist_ok=True)
                mirror.fetch()
        except OSError as error:
            if lease is not None:
                lease.__exit__(None, None, None)
            raise RunFolderError(f"run_dir={location} cannot be used: {error}; choose another run_dir") from None
        except (LeaseError, StorageError) as error:
            raise RunFolderError(str(error)) from None
        return cls(path, lease, mirror)

    @property
    def attempt(self) -> int:
        """1 for a new run, one more with each start."""
        return self._lease.number

    def check(self) -> None:
        """Called before anything is written.

        Raises:
            RunFolderError: if another attempt has taken the folder over: then nothing may be written any more.
            RunFolderAway: if that cannot be known now.
        """
        try:
            self._lease.check()
        except LeaseError as error:
            raise RunFolderError(str(error)) from None
        except OSError as error:
            raise RunFolderAway(f"the run folder does not answer ({error})") from None

    def publish(self) -> None:
        """Copies the newest checkpoint and the logs to the URL; nothing to do for a local folder.

        Raises ``RunFolderError`` if that fails. The local folder is whole all the same, so a run may go on and try again later.
        """
        if self._mirror is None:
            return
        try:
            self._mirror.publish()
        except OSError as error:
            raise RunFolderError(f"the run could not be copied to its storage: {error}") from None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._lease.__exit__(kind, error, trace)
        except OSError as failure:
            raise RunFolderError(f"the run folder could not be released: {failure}") from None
