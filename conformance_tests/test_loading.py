"""Models by directory, file or name: what the cache keeps, when it is made anew, and what it never leaves."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import family_models
from conftest import checkpoint_tensors, write_checkpoint
from veil import checkpoint, importer, loading
from veil.loading import SUMS, resolve
from veil_spec.architecture import INTEGER_FILE, Precision
from veil_spec.refusals import Refusal, Refused

FORK = get_context("fork")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the cache of this test is in."""
    monkeypatch.setenv("VEIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a checkpoint of this test's own."""
    return write_checkpoint(tmp_path / "tiny", checkpoint_tensors())


def entries(cache: Path) -> set[Path]:
    """Return what a cache holds, but for its locks."""
    return {path for path in cache.iterdir() if path.suffix != ".lock"} if cache.exists() else set()


def refused(source: str | Path, precision: Precision | None = None) -> Refused:
    """Return how a source is refused, in one line."""
    with pytest.raises(Refused) as caught:
        resolve(source, precision)
    assert caught.value.detail
    assert "\n" not in caught.value.detail
    return caught.value


@pytest.mark.requirement("MDL-P2")
def test_a_checkpoint_is_imported_once_and_then_taken_from_the_cache(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve(source)
    assert {"tokenizer.json", "config.json", INTEGER_FILE, SUMS} <= {path.name for path in folder.iterdir()}
    assert (folder / INTEGER_FILE).read_bytes() == importer.import_model(
        source, source.parent / "directly" / source.name
    ).read_bytes()
    monkeypatch.setattr(loading, "fill", None)
    assert resolve(str(source)) == folder
    assert entries(cache) == {folder}


def _rewrite_config(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-6}))


def _change_weight(source: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, source / "model.safetensors")


def _change_tokenizer(source: Path) -> None:
    text = (source / "tokenizer.json").read_text()
    (source / "tokenizer.json").write_text(text + "\n")


@pytest.mark.requirement("MDL-P2")
@pytest.mark.parametrize("change", [_rewrite_config, _change_weight, _change_tokenizer])
def test_a_change_of_any_file_that_is_read_makes_another_entry(
    cache: Path, source: Path, change: Callable[[Path], None]
) -> None:
    first = resolve(source)
    change(source)
    second = resolve(source)
    assert entries(cache) == {first, second}
    assert first != second


@pytest.mark.requirement("MDL-P2")
def test_precision_and_spec_version_make_other_entries(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {resolve(source), resolve(source, Precision.W16A16), resolve(source, Precision.W8A16)}
    assert len(found) == 2
    monkeypatch.setattr(loading, "__version__", "0.0.0")
    assert resolve(source) not in found


@pytest.mark.requirement("MDL-P2")
@pytest.mark.parametrize("name", [INTEGER_FILE, "tokenizer.json", SUMS])
@pytest.mark.parametrize("kind", ["flipped", "removed"])
def test_a_cached_file_that_is_not_what_was_written_is_made_anew_and_said(
    cache: Path, source: Path, name: str, kind: str
) -> None:
    folder = resolve(source)
    expected = (folder / name).read_bytes()
    if kind == "removed":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(expected[:-2] + bytes([expected[-2] ^ 1]) + expected[-1:])
    lines: list[str] = []
    assert resolve(source, progress=lines.append) == folder
    assert (folder / name).read_bytes() == expected
    assert sum("made anew" in line for line in lines) == 1


@pytest.mark.requirement("MDL-P2")
def test_a_file_that_was_added_to_the_cache_is_removed(cache: Path, source: Path) -> None:
    folder = resolve(source)
    (folder / "chat_template.jinja").write_text("{{ 1 }}")
    assert not (resolve(source) / "chat_template.jinja").exists()


def _name_templates(source: Path) -> None:
    config = json.loads((source / "tokenizer_config.json").read_text())
    templates = [{"name": name, "template": name} for name in ("default", "tool_use")]
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": templates}))


@pytest.mark.requirement("MDL-P2")
def test_files_in_a_folder_of_an_entry_are_noted_and_checked_too(cache: Path, source: Path) -> None:
    _name_templates(source)
    folder = resolve(source)
    template = folder / "additional_chat_templates" / "tool_use.jinja"
    assert template.read_text() == "tool_use"
    assert resolve(source, progress=_never_anew) == folder
    template.write_text("other")
    assert resolve(source) == folder
    assert template.read_text() == "tool_use"
    template.with_name("added.jinja").write_text("{{ 1 }}")
    resolve(source)
    assert not template.with_name("added.jinja").exists()


def _never_anew(line: str) -> None:
    assert "made anew" not in line


@pytest.mark.requirement("MDL-P2")
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_noted_but_is_no_file_is_made_anew(cache: Path, source: Path, kind: str) -> None:
    folder = resolve(source)
    if kind == "folder":
        (folder / "odd").mkdir()
    elif kind == "link":
        (folder / "odd").symlink_to(source)
    else:
        os.mkfifo(folder / "odd")
    (folder / SUMS).write_text((folder / SUMS).read_text() + f"{'0' * 64}  odd\n")
    assert resolve(source) == folder
    assert not (folder / "odd").exists()
    assert resolve(source, progress=_never_anew) == folder


@pytest.mark.requirement("MDL-P2")
def test_a_tokenizer_beside_a_gguf_file_is_part_of_what_was_read(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = source / "model.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.setattr(loading, "fill", lambda *arguments: None)
    first = resolve(model)
    assert resolve(model) == first
    _change_tokenizer(source)
    assert resolve(model) != first


@pytest.mark.requirement("MDL-A2")
def test_the_cache_is_the_users_alone(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        folder = resolve(source)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (cache, folder)] == [0o700, 0o700]
    for mode in (0o720, 0o702):
        cache.chmod(mode)
        assert "can be written by others: run `chmod 700" in refused(source).detail
    cache.chmod(0o755)
    assert resolve(source, progress=_never_anew) == folder
    folder.chmod(0o770)
    lines: list[str] = []
    resolve(source, progress=lines.append)
    assert sum("made anew" in line for line in lines) == 1
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert "belongs to somebody else" in refused(source).detail


@pytest.mark.requirement("MDL-P2")
def test_a_checkpoint_that_changes_while_it_is_read_is_refused(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: object) -> None:
        importer.fill(*arguments)  # type: ignore[arg-type]
        _change_weight(source)

    monkeypatch.setattr(loading, "fill", slow)
    assert "changed while it was read" in refused(source).detail
    assert entries(cache) == set()


@pytest.mark.requirement("MDL-P2")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
def test_an_import_that_ends_early_leaves_nothing(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def broken(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(importer, "_write_norm", broken)
    if isinstance(error, OSError):
        assert "cannot be written: No space left on device" in refused(source).detail
    else:
        with pytest.raises(KeyboardInterrupt):
            resolve(source)
    assert entries(cache) == set()
    with pytest.raises((Refused, KeyboardInterrupt)):
        importer.import_model(source, source.parent / "target")
    assert {path.name for path in source.parent.iterdir()} == {"tiny", "cache"}


def _killed(source: Path) -> None:
    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importer, "_write_norm", die)
        resolve(source)


@pytest.mark.requirement("MDL-P2")
def test_what_a_killed_process_left_is_never_used(cache: Path, source: Path) -> None:
    child = FORK.Process(target=_killed, args=(source,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    (left,) = entries(cache)
    assert left.suffix == ".partial"
    (left / "chat_template.jinja").write_text("{{ 1 }}")
    folder = resolve(source)
    assert entries(cache) == {folder}
    assert not (folder / "chat_template.jinja").exists()


def _resolved_slowly(source: Path, made: Path) -> None:
    def slow(*arguments: object) -> None:
        (made / str(os.getpid())).touch()
        importer.fill(*arguments)  # type: ignore[arg-type]
        time.sleep(0.2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "fill", slow)
        resolve(source)


@pytest.mark.requirement("MDL-P2")
def test_processes_that_load_at_once_make_one_entry_once(cache: Path, source: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    children = [FORK.Process(target=_resolved_slowly, args=(source, made)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(list(made.iterdir())) == 1
    assert entries(cache) == {resolve(source)}


@pytest.mark.requirement("MDL-P2")
def test_a_cache_that_cannot_be_written_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VEIL_CACHE", str(tmp_path / "file"))
    assert f"{tmp_path / 'file'} cannot be written" in refused(source).detail


def test_an_imported_directory_is_used_as_it_is_unless_another_precision_is_asked_for(
    cache: Path, imported: Path
) -> None:
    assert resolve(imported) == imported
    assert resolve(imported, Precision.W16A16) == imported
    assert "has precision w16a16, not w8a16" in refused(imported, Precision.W8A16).detail
    assert not cache.exists()


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEIL_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert loading.cache_folder() == Path("/one")
    monkeypatch.delenv("VEIL_CACHE")
    assert loading.cache_folder() == Path("/two/veil")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert loading.cache_folder() == Path.home() / ".cache" / "veil"


@pytest.mark.requirement("MDL-P1")
def test_a_name_of_the_hub_is_found_where_it_was_downloaded_and_else_says_what_to_do(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    write_checkpoint(repository / "snapshots" / ("0" * 40), checkpoint_tensors())
    folder = resolve("someone/tiny")
    assert b'\\"name\\": \\"tiny\\"' in (folder / INTEGER_FILE).read_bytes()[:2000]
    detail = refused("someone/other").detail
    assert detail.startswith("someone/other is neither a directory nor downloaded")
    assert "go online once" in detail


@pytest.mark.requirement("MDL-P1")
def test_a_missing_path_is_no_name_of_the_hub(tmp_path: Path) -> None:
    for name in ("./someone/other", str(tmp_path / "other"), "../x/y", "three/part/name"):
        assert "does not exist" in refused(name).detail
    assert refused("nothing").reason is Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-P1")
def test_a_path_is_never_a_name_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetched(name: str, progress: object) -> Path:
        asked.append(name)
        return Path("fetched")

    monkeypatch.setattr(checkpoint, "_fetched", fetched)
    for path in (Path("./someone/other"), Path("someone/other")):
        assert "someone/other does not exist" in refused(path).detail
    assert asked == []
    assert checkpoint.locate("someone/other") == (Path("fetched"), "other")
    assert asked == ["someone/other"]


@pytest.mark.requirement("MDL-P1")
def test_a_name_that_the_hub_does_not_allow_is_refused_in_one_line() -> None:
    assert "no name that the hub allows" in refused("someone/a..b").detail


def test_large_files_report_how_far_their_hash_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large").write_bytes(bytes(10))
    monkeypatch.setattr(loading, "PIECE", 4)
    monkeypatch.setattr(loading, "REPORTED", 10)
    lines: list[str] = []
    loading.digest(tmp_path / "large", lines.append)
    assert lines == [f"hashing large: {percent} %" for percent in (40, 80, 100)]
    shutil.rmtree(tmp_path)


def test_the_integer_file_is_aligned_for_every_type(tmp_path: Path) -> None:
    sample = family_models.write(tmp_path / "source", "bert", 0, hidden_size=15, num_attention_heads=3)
    path = importer.import_model(sample.folder, tmp_path / "target", precision=Precision.W8A16)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    placed = [entry for name, entry in header.items() if name != "__metadata__"]
    sizes = [(entry["dtype"], *entry["data_offsets"]) for entry in placed]
    assert length % 8 == 0
    assert sum(end - start for kind, start, end in sizes if kind == "I8") % 4
    assert all(start % 4 == 0 for kind, start, _ in sizes if kind == "I32")
    assert load_file(path)["layers.0.qkv.weights"].dtype == torch.int8
