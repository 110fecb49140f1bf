"""Models as users name them: made into integers once, and kept in a cache under the hash of what was read."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from veil.checkpoint import Progress, files_of, first_line, locate, malformed
from veil.importer import INTEGER_FILE, fill, writing
from veil_spec import __version__
from veil_spec.architecture import Precision

SUMS: Final = "sha256sums"
"""Lists the SHA-256 of every file of a cached model, as `sha256sum --check` reads it."""
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
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(entry.with_suffix(".lock")):
            if entry.exists() and not _intact(entry, progress):
                progress(f"the cached model {entry} is not what was written: it is made anew")
                shutil.rmtree(entry)
            if not entry.exists():
                _make(entry, fresh)
    return entry


def _check_precision(file: Path, precision: Precision | None) -> None:
    """Refuse an integer file of another precision than was asked for."""
    if precision is None:
        return
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found = json.loads(header["__metadata__"]["veil"])["precision"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise malformed(f"{file} is not an integer model file: {first_line(error)}") from error
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
    scratch.mkdir()
    try:
        fill_folder(scratch)
        lines = [f"{digest(file)}  {file.name}\n" for file in sorted(scratch.iterdir())]
        (scratch / SUMS).write_text("".join(lines))
        scratch.rename(entry)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _intact(entry: Path, progress: Progress) -> bool:
    """Return whether an entry holds the files that were noted, with their hashes, and no others."""
    try:
        lines = (entry / SUMS).read_text().splitlines()
        noted = {name: noted for noted, _, name in (line.partition("  ") for line in lines)}
        found = {file.name for file in entry.iterdir()} - {SUMS}
    except (OSError, ValueError):
        return False
    return set(noted) == found and all(digest(entry / name, progress) == noted[name] for name in noted)
