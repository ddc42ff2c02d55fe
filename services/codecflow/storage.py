"""File storage: a folder, or any backend that fsspec supports (s3://bucket/path, memory://...).

Names are relative, with /. Writes are atomic: a file is complete or does not exist.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from codecflow.errors import CodecFlowError, ConfigError
from codecflow.text import one_line

_OWN = ".codecflow-"
_OLD_PARTIAL_S = 3600.0
_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"})


class StorageError(CodecFlowError):
    """A file could not be written, read or listed; a retry may succeed. Names the place without secrets. `reason`: the
    cause."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(f"{message}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StoredFile:
    name: str
    nbytes: int


class Storage(ABC):
    """A place for files. Methods raise StorageError."""

    place: str
    """For display."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None: ...

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """None if there is no such file."""

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def files(self, below: str = "") -> Iterator[StoredFile]:
        """All files in a folder, recursively."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes a file. No error if it does not exist."""

    @abstractmethod
    def put(self, name: str, local: Path) -> None:
        """Moves a local file to the storage."""

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local folder for files that are to be `put`."""
        with tempfile.TemporaryDirectory(prefix="codecflow-") as folder:
            yield Path(folder)

    def tidy(self) -> None:  # noqa: B027  # object stores have no partial files
        """Removes partial files of a process that was killed."""


def open_storage(place: str, *, write: bool = True) -> Storage:
    """Opens a folder's path or an address. Raises ConfigError when nothing can be written there; without `write`, this is
    not checked."""
    scheme = urlsplit(place).scheme if "://" in place else ""
    storage: Storage
    if scheme in ("", "file", "local"):
        storage = Folder(Path(place.partition("://")[2] if scheme else place).expanduser())
    else:
        storage = Remote(place)
    if not write:
        return storage
    try:
        probe = f"{_OWN}{os.getpid()}"
        storage.write(probe, b"")
        storage.remove(probe)
    except StorageError as error:
        raise ConfigError(f"{storage.place}: nothing can be written there: {error.reason}") from error
    return storage


class Folder(Storage):
    """A local folder, created if needed."""

    def __init__(self, root: Path) -> None:
        self._root, self.place = root, str(root)

    def write(self, name: str, data: bytes) -> None:
        path = self._root / name
        with self._partial(path) as partial, partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def put(self, name: str, local: Path) -> None:
        path = self._root / name
        with self._partial(path) as partial:
            shutil.move(local, partial)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(self._root / name, "read", error) from error

    def exists(self, name: str) -> bool:
        return (self._root / name).is_file()

    def files(self, below: str = "") -> Iterator[StoredFile]:
        for folder, _, names in os.walk(self._root / below):  # does not follow links
            for name in names:
                path = Path(folder, name)
                try:
                    if not path.is_symlink():
                        yield StoredFile(path.relative_to(self._root).as_posix(), path.stat().st_size)
                except OSError:
                    continue  # removed in the meantime

    def remove(self, name: str) -> None:
        path = self._root / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(path, "removed", error) from error
        for folder in path.relative_to(self._root).parents[:-1]:
            try:
                (self._root / folder).rmdir()
            except OSError:
                return  # not empty

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        # On the same file system, so that files are moved, not copied.
        try:
            folder = tempfile.TemporaryDirectory(prefix=_OWN, suffix=".part", dir=self._root)
        except OSError as error:
            raise self._failed(self._root, "written", error) from error
        with folder as path:
            yield Path(path)

    def tidy(self) -> None:
        old = time.time() - _OLD_PARTIAL_S
        for partial in list(self._root.rglob(f"{_OWN}*.part")):
            try:
                if partial.lstat().st_mtime > old:
                    continue
                if partial.is_dir() and not partial.is_symlink():
                    shutil.rmtree(partial, ignore_errors=True)
                else:
                    partial.unlink(missing_ok=True)
            except OSError:
                continue  # removed in the meantime

    @contextmanager
    def _partial(self, path: Path) -> Iterator[Path]:
        """A temporary path, renamed to `path` at the end."""
        partial = path.with_name(f"{_OWN}{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise self._failed(path, "written", error) from error

    @staticmethod
    def _failed(path: Path, what: str, error: OSError) -> StorageError:
        return StorageError(f"{path}: cannot be {what}", error.strerror or type(error).__name__)


class Remote(Storage):
    """A backend of fsspec. Object stores show a file only once it is complete."""

    def __init__(self, address: str) -> None:
        self.place = _shown(address)
        try:
            self._fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except ImportError as error:
            package = re.search(r"[Ii]nstall (\w+)", str(error))
            raise ConfigError(
                f"{self.place}: this kind of storage needs a package that is not installed"
                + (f": pip install {package[1]}" if package else "")
            ) from error
        except (ValueError, OSError) as error:
            raise ConfigError(f"{self.place}: cannot be used: {self._reason(error)}") from error
        self._root = root.rstrip("/")
        self._address = address

    def write(self, name: str, data: bytes) -> None:
        with self._trying("written", name):
            self._make_folder(name)
            self._fs.pipe_file(f"{self._root}/{name}", data)

    def put(self, name: str, local: Path) -> None:
        with self._trying("written", name):
            self._make_folder(name)
            self._fs.put_file(str(local), f"{self._root}/{name}")

    def read(self, name: str) -> bytes | None:
        try:
            with self._trying("read", name):
                data: bytes = self._fs.cat_file(f"{self._root}/{name}")
                return data
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        with self._trying("read", name):
            return bool(self._fs.isfile(f"{self._root}/{name}"))

    def files(self, below: str = "") -> Iterator[StoredFile]:
        base = f"{self._root}/{below}".rstrip("/")
        with self._trying("listed", below):
            self._fs.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._fs.find(base, detail=True)
        prefix = self._fs._strip_protocol(self._root).rstrip("/") + "/"
        for path, about in found.items():
            if path.startswith(prefix):
                yield StoredFile(path.removeprefix(prefix), int(about.get("size") or 0))

    def remove(self, name: str) -> None:
        try:
            with self._trying("removed", name):
                self._fs.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return

    def _make_folder(self, name: str) -> None:
        protocol = self._fs.protocol
        if not _WITHOUT_FOLDERS & set((protocol,) if isinstance(protocol, str) else protocol):
            self._fs.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _trying(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if what in ("read", "removed"):
                raise
            raise StorageError(f"{self.place}/{name}: cannot be {what}", "there is no such place") from None
        except Exception as error:  # implementations raise their libraries' errors
            raise StorageError(f"{self.place}/{name}: cannot be {what}", self._reason(error)) from error

    def _reason(self, error: BaseException) -> str:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        userinfo = urlsplit(self._address).netloc.rpartition("@")[0] if hasattr(self, "_address") else ""
        for secret in filter(None, (userinfo, *userinfo.split(":"))):
            text = text.replace(secret, "***")
        return one_line(text, 200)


def _shown(address: str) -> str:
    """An address without user, password and options."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
