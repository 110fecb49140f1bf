"""`veil attack`: what it makes of recorded transcripts of a tiny checkpoint, and of bad input."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
from rich.console import Console

import tiny_checkpoint
from veil import attacking, service
from veil.attacking import Case, Row, slug
from veil.commands import run
from veil.importer import import_model
from veil.text import Text
from veil_conformance.attacks.registry import ATTACKS
from veil_optimized import integrity, plaintext
from veil_optimized.launching import start_worker
from veil_optimized.model import load
from veil_spec.architecture import INTEGER_FILE

PROMPT = "the quick brown fox jumps over the lazy dog, twice"
LOOK_UP = "annihilator-look-up"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A model directory with a transcript and its plaintext for each profile."""

    model: Path
    folder: Path

    def case(self, profile: str, record: bool = True) -> Case:
        given = self.folder / f"{profile}.plain"
        return Case(self.folder / profile, self.model, given if record else None)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Return one run under `pad` and one under `rank`, with their plaintext."""
    base = tmp_path_factory.mktemp("attack")
    import_model(tiny_checkpoint.write(base / "checkpoint"), base / "model")
    with start_worker(base / "model" / INTEGER_FILE) as address:
        for profile, ratio in (("pad", None), ("rank", Fraction(1, 2))):
            about = (base / "model", "masked", profile, ratio, base / profile)
            settings = service.Settings(*about, plaintext=base / f"{profile}.plain")
            with service.start_enclave(settings, address) as enclave:
                list(enclave.ask(service.Request(PROMPT, 3, raw=True)))
    return Recorded(base / "model", base)


def row(case: Case, name: str) -> Row:
    return next(attacking.rows(case, [name], lambda line: None))


def test_rank_is_read_and_pad_is_not(recorded: Recorded) -> None:
    read, hidden = recorded.case("rank"), recorded.case("pad")
    prompt = Text(recorded.model).tokens(PROMPT, raw=True)
    assert read.truth is not None and read.truth[: len(prompt)] == prompt
    assert len(read.truth) == len(prompt) + 2
    found = row(read, LOOK_UP)
    assert list(found.guesses) == read.truth
    assert found.right and all(found.right) and found.comparison is not None
    assert found.comparison.p_value < 1e-9
    blind = row(hidden, "nearest-neighbour")
    assert sum(blind.right) < len(blind.right) / 4 and blind.comparison is not None
    assert blind.comparison.p_value > 1e-6
    assert row(hidden, LOOK_UP).missing.startswith("a public basis")


def test_the_record_shows_that_no_mask_was_used_twice(recorded: Recorded) -> None:
    for profile in ("pad", "rank"):
        found = recorded.case(profile).reuse
        assert found is not None and found.holds and found.rows > 0


def test_every_attack_has_a_row_and_those_that_did_not_run_say_why(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacking, "MOST_PASSES", 1)
    arguments = [str(recorded.folder / "rank"), "--model", str(recorded.model), "--all"]
    assert run(["attack", *arguments, "--plaintext", str(recorded.folder / "rank.plain")]) == 0
    said = capsys.readouterr().out
    flat = " ".join(said.replace("│", " ").split())
    assert all(attack.name.split(",")[0].split()[0] in flat for attack in ATTACKS)
    assert f"truth: {PROMPT}" in said and f"annihilator look-up: {PROMPT}" in said
    assert said.count("not applicable") >= 3 and "no mask was used twice" in said


def test_without_a_record_only_the_recovered_text_is_shown(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    found = row(recorded.case("rank", record=False), LOOK_UP)
    assert not found.right and found.comparison is None and found.guesses
    attacking.shown(recorded.case("rank", record=False), [found], Console(width=160))
    said = capsys.readouterr().out
    assert PROMPT in said and "truth" not in said and "mask reuse" not in said


def test_a_run_on_record_says_not_private(recorded: Recorded) -> None:
    assert not service.Settings(recorded.model, "masked", "pad", None, None, plaintext=Path("p")).private
    assert service.Settings(recorded.model, "masked", "pad", None, None).private
    assert (recorded.folder / "pad.plain").stat().st_mode & 0o077 == 0


def test_a_costly_attack_runs_only_if_it_is_named(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacking, "MOST_PASSES", 1)
    case = recorded.case("rank")
    costly = [attack for attack in ATTACKS if attack.needs_model]
    assert all("forward passes" in case.missing(attack, named=False) for attack in costly)
    assert not any(case.missing(attack, named=True) for attack in costly)


def test_bad_input_is_one_line_and_status_2(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noise").write_bytes(bytes(100))
    import_model(tiny_checkpoint.write(tmp_path / "checkpoint", seed=2), tmp_path / "second")
    seen, model = str(recorded.folder / "rank"), ["--model", str(recorded.model)]
    with plaintext.Writer(recorded.folder / "short.plain") as record:
        record.tokens([1, 2])
    capsys.readouterr()
    for arguments in (
        [seen, *model],
        [seen, *model, "--all", "--attack", LOOK_UP],
        [seen, *model, "--attack", "no such"],
        [str(tmp_path / "missing"), *model, "--all"],
        [str(tmp_path / "noise"), *model, "--all"],
        [seen, "--model", str(tmp_path), "--all"],
        [seen, "--model", str(tmp_path / "second"), "--all"],
        [seen, *model, "--all", "--plaintext", str(tmp_path / "noise")],
        [seen, *model, "--all", "--plaintext", str(recorded.folder / "short.plain")],
    ):
        with pytest.raises(SystemExit) as ended:
            run(["attack", *arguments])
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.strip().splitlines()) == 1, arguments
        assert said.err.startswith("veil: ")


def test_names_are_short_and_different() -> None:
    assert len({slug(attack.name) for attack in ATTACKS}) == len(ATTACKS)
    assert LOOK_UP in {slug(attack.name) for attack in ATTACKS}


def test_import_prints_the_commitment_and_a_record_says_not_private(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, options = tmp_path / "made", ["--new-tokens", "1", "--raw"]
    assert run(["import", str(recorded.folder / "checkpoint"), "--out", str(made)]) == 0
    root = integrity.commitment(load(made / INTEGER_FILE).groups).hex()
    assert capsys.readouterr().out.splitlines()[-1].endswith(root)
    written = tmp_path / "plain"
    assert run(["generate", "ab", "--model", str(made), "--plaintext", str(written), *options]) == 0
    assert "not_private" in capsys.readouterr().err
    assert plaintext.read(written).tokens == Text(made).tokens("ab", raw=True)
    with pytest.raises(SystemExit) as ended:
        run(["generate", "ab", "--model", str(made), "--plaintext", str(written), *options])
    assert ended.value.code == 2 and "exists already" in capsys.readouterr().err
