"""Models as users name them: made into integers once, and kept in a cache under the hash of what was read.

The hashes find damage, not malice: they lie in the cache themselves. It is assumed that the user alone can
write to the cache and to the folders above it; a cache folder of which this is seen not to hold is refused.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IWGRP, S_IWOTH
from typing import Final

from veil.checkpoint import Progress, files_of, locate, malformed, reading
from veil.importer import fill, writing
from veil_spec import __version__
from veil_spec.architecture import INTEGER_FILE, Precision
from veil_spec.refusals import Refused

SUMS: Final = "sha256sums"
"""Lists the SHA-256 of every file of a cached model, as `sha256sum --check` reads it."""
PRIVATE: Final = 0o700
PIECE: Final = 2**22
"""Bytes that are hashed between two looks at the progress."""
REPORTED: Final = 2**28
"""Files from this size on report how far their hash is."""


def cache_folder() -> Path:
    """Return where integer models are kept: `VEIL_CACHE`, or `veil` in the user's cache."""
    given = os.environ.get("VEIL_CACHE")
    if given:
        return Path(given).expanduser()
    outer = os.environ.get("XDG_CACHE_HOME")
    return (Path(outer) if outer else Path.home() / ".cache") / "veil"


def resolve(
    source: str | Path, precision: Precision | None = None, progress: Progress = lambda line: None
) -> Path:
    """Return a directory that holds the source's integer file and tokenizer.

    A directory that `veil import` made is used as it is. Without a precision, a checkpoint gets `w16a16`.

    Implements: MDL-P2.
    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED, WEIGHT_NOT_FINITE.
    """
    path, name = locate(source, progress)
    if path.is_dir() and (path / INTEGER_FILE).exists():
        _check_precision(path / INTEGER_FILE, precision)
        return path
    chosen = precision or Precision.W16A16
    files, cache = files_of(path), cache_folder()
    before = _stamps(files)

    def fresh(folder: Path) -> None:
        fill(path, name, folder, progress, chosen)
        if _stamps(files) != before:
            raise malformed(f"{path} changed while it was read: load it again")

    entry = cache / _key(path, name, files, chosen, progress)
    with writing(cache):
        cache.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        if not _own(cache):
            remedy = f"run `chmod 700 {cache}` if it is yours, or set VEIL_CACHE to a folder of your own"
            raise malformed(f"{cache} belongs to somebody else or can be written by others: {remedy}")
        with _alone(entry.with_suffix(".lock")):
            if entry.exists() and not _intact(entry, progress):
                progress(f"the cached model {entry} is not what was written: it is made anew")
                shutil.rmtree(entry)
            if not entry.exists():
                _make(entry, fresh)
    return entry


def _own(folder: Path) -> bool:
    """Return whether a folder is this user's, and nobody else can write to it by its mode."""
    stat = folder.stat()
    return stat.st_uid == os.geteuid() and not stat.st_mode & (S_IWGRP | S_IWOTH)


def _check_precision(file: Path, precision: Precision | None) -> None:
    """Refuse an integer file of another precision than was asked for."""
    if precision is None:
        return
    with reading(file), file.open("rb") as stream:
        length = min(int.from_bytes(stream.read(8), "little"), file.stat().st_size)
        header = json.loads(stream.read(length))
        found = json.loads(header["__metadata__"]["veil"])["precision"]
    if found != precision:
        raise malformed(f"{file} has precision {found}, not {precision}: import its checkpoint again")


def _key(path: Path, name: str, files: list[Path], precision: Precision, progress: Progress) -> str:
    """Return the SHA-256 of all that decides the integer file."""
    folder = path.parent if path.is_file() else path
    read = {str(file.relative_to(folder)): digest(file, progress) for file in files}
    decided = {"spec_version": __version__, "precision": precision, "name": name, "files": read}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def digest(file: Path, progress: Progress = lambda line: None) -> str:
    """Return the SHA-256 of a file in hexadecimal; large ones report how far it is.

    Refuses: MODEL_MALFORMED.
    """
    state, done = hashlib.sha256(), 0
    try:
        size = file.stat().st_size
        with file.open("rb", buffering=0) as stream:
            while piece := stream.read(PIECE):
                state.update(piece)
                done += len(piece)
                if size >= REPORTED:
                    progress(f"hashing {file.name}: {100 * done // size} %")
    except OSError as error:
        raise malformed(f"{file} cannot be read: {error.strerror}") from error
    return state.hexdigest()


def _stamps(files: list[Path]) -> list[tuple[int, int, int]]:
    stats = (file.stat() for file in files)
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time work on an entry; the system frees the lock of one that died."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _make(entry: Path, fill_folder: Callable[[Path], None]) -> None:
    """Fill a directory and note its files' hashes, then give it its name: it appears whole or not at all."""
    scratch = entry.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=PRIVATE)
    try:
        fill_folder(scratch)
        lines = [f"{digest(scratch / name)}  {name}\n" for name in sorted(_names(scratch))]
        (scratch / SUMS).write_text("".join(lines))
        scratch.rename(entry)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _names(folder: Path) -> set[str]:
    """Return what a folder and those in it hold, but for folders, by names relative to it."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found}


def _intact(entry: Path, progress: Progress) -> bool:
    """Return whether an entry holds the files that were noted, with their hashes, and no others."""
    try:
        lines = (entry / SUMS).read_text().splitlines()
        noted = {name: noted for noted, _, name in (line.partition("  ") for line in lines)}
        return (
            _own(entry)
            and set(noted) == _names(entry) - {SUMS}
            and all((entry / name).is_file() for name in noted)
            and all(digest(entry / name, progress) == noted[name] for name in noted)
        )
    except (OSError, ValueError, Refused):
        return False
