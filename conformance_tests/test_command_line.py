"""The `veil` command: real processes on a small model, and one line with status 2 on bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import checkpoint_tensors, write_checkpoint

PROMPT = "w3 w1 w4"


def veil(*arguments: str, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """Return a finished `veil` command."""
    command = [sys.executable, "-m", "veil.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_generate_starts_two_processes_and_equals_plain(imported: Path, tmp_path: Path) -> None:
    options = ("--model", str(imported), "--new-tokens", "4")
    masked = veil("generate", PROMPT, *options, "--transcript", str(tmp_path / "seen"))
    plain = veil("generate", PROMPT, *options, "--mode", "plain")
    assert (masked.returncode, plain.returncode) == (0, 0), masked.stderr + plain.stderr
    assert masked.stdout == plain.stdout
    assert len(masked.stdout.split()) == 4
    assert "not_private" in plain.stderr
    assert "not_private" not in masked.stderr
    assert (tmp_path / "seen").read_bytes().startswith(b"VEILTAPE")


def test_import_writes_what_generate_reads(checkpoint: Path, imported: Path, tmp_path: Path) -> None:
    made = veil("import", str(checkpoint), "--out", str(tmp_path / "made"))
    assert made.returncode == 0, made.stderr
    name = "integer.safetensors"
    assert (tmp_path / "made" / name).read_bytes() == (imported / name).read_bytes()
    commitment = made.stdout.partition("(Merkle root): ")[2].split()[0]
    model = str(tmp_path / "made")
    known = veil(
        "generate",
        PROMPT,
        "--model",
        model,
        "--mode",
        "plain",
        "--commitment",
        commitment,
        "--new-tokens",
        "2",
    )
    assert known.returncode == 0, known.stderr


def test_an_enclave_answers_requests_and_refuses_a_broken_one_by_name(imported: Path) -> None:
    lines = [
        '{"prompt": 5}',
        "[]",
        '{"prompt": "", "new_tokens": 1}',
        '{"prompt": "\\ud800", "new_tokens": 1}',
    ]
    lines.append('{"prompt": "w3 w1", "new_tokens": 2}')
    command = [sys.executable, "-m", "veil.main", "enclave", "--model", str(imported), "--mode", "plain"]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, timeout=60, check=True
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    refusals = [reply["refusal"] for reply in replies if "refusal" in reply]
    assert refusals == ["FRAME_MALFORMED", "FRAME_MALFORMED", "PROMPT_EMPTY", "PROMPT_MALFORMED"]
    assert replies[-1] == {"done": True, "not_private": True}


@pytest.mark.requirement("WIR-P5")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", PROMPT], "--model"),
        (["generate", PROMPT, "--model", "nowhere"], "--model nowhere"),
        (["generate", " ", "--model", "MODEL"], "prompt"),
        (["generate", PROMPT, "--model", "MODEL", "--new-tokens", "99"], "context"),
        (["generate", PROMPT, "--model", "MODEL", "--new-tokens", "0"], "--new-tokens"),
        (["generate", PROMPT, "--model", "MODEL", "--mode", "split"], "--mode split"),
        (["generate", PROMPT, "--model", "MODEL", "--mode", "both"], "--mode both"),
        (["generate", PROMPT, "--model", "MODEL", "--profile", "lwe"], "use profile pad"),
        (["generate", PROMPT, "--model", "MODEL", "--profile", "rank"], "--m-over-d"),
        (["generate", PROMPT, "--model", "MODEL", "--profile", "rank", "--m-over-d", "3/2"], "--m-over-d"),
        (["generate", PROMPT, "--model", "MODEL", "--transcript", "MODEL"], "--transcript"),
        (["generate", PROMPT, "--model", "MODEL", "--worker", "127.0.0.1:1"], "worker"),
        (["generate", PROMPT, "--model", "MODEL", "--profile", "rank", "--m-over-d", "1/1000"], "--m-over-d"),
        (["generate", PROMPT, "--model", "MODEL", "--mode", "plain", "--transcript", "new"], "--transcript"),
        (["generate", PROMPT, "--model", "MODEL", "--transcript", "nowhere/new"], "nowhere/new"),
        (["generate", "\udcff", "--model", "MODEL"], "prompt"),
        (["enclave", "--model", "MODEL"], "--worker"),
        (["generate", PROMPT, "--model", "MODEL", "--commitment", "00" * 32], "--commitment"),
        (["generate", PROMPT, "--model", "MODEL", "--mode", "plain", "--m-over-d", "1/2"], "--m-over-d"),
        (["generate", PROMPT, "--model", "MODEL", "--transcript", "a", "--plaintext", "a"], "--plaintext"),
        (["generate", PROMPT, "--model", "MODEL", "--identity", "-"], "--identity"),
        (["worker", "--model", "MODEL", "--device", "banana"], "--device banana"),
        (["worker", "--model", "MODEL", "--address", "nonsense"], "--address"),
        (["worker", "--model", "nowhere"], "nowhere"),
        (["import", "nowhere", "--out", "made"], "nowhere"),
        (["certificate", "--epsilon", "0"], "--epsilon 0"),
        (["certificate", "--epsilon=-1"], "--epsilon -1"),
        (["certificate", "--epsilon", "abc"], "--epsilon abc"),
        (["certificate", "--epsilon", "nan"], "--epsilon nan"),
        (["certificate", "--epsilon", "1", "--table", "nowhere"], "nowhere"),
        (["import", "MODEL", "--out", "/dev/null/made"], "/dev/null"),
        (["audit", "--model", "nowhere"], "nowhere"),
        (["audit", "--model", "nowhere", "--out", "/dev/null/made"], "/dev/null"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_gives_one_line_that_names_it_and_status_2(
    imported: Path, tmp_path: Path, arguments: list[str], named: str
) -> None:
    done = veil(*(str(imported) if word == "MODEL" else word for word in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    problems = [line for line in done.stderr.splitlines() if "not_private" not in line]
    assert len(problems) == 1
    assert problems[0].startswith("veil: ")
    assert named in problems[0]
    assert not Path("nowhere").exists()


@pytest.mark.requirement("WIR-P5")
def test_a_wrong_type_in_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    tensors = {name: tensor.double() for name, tensor in checkpoint_tensors().items()}
    source = write_checkpoint(tmp_path / "source", tensors)
    done = veil("import", str(source), "--out", str(tmp_path / "made"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "float64" in done.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.requirement("WIR-P5")
@pytest.mark.parametrize(
    ("module", "extra"), [("typer", "run"), ("torch", "run"), ("transformers", "run"), ("grpc", "run")]
)
def test_without_the_extras_the_missing_one_is_named(imported: Path, module: str, extra: str) -> None:
    hide = f"import sys; sys.modules['{module}'] = None; from veil.main import main; sys.exit(main())"
    command = [sys.executable, "-c", hide, "generate", PROMPT, "--model", str(imported)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"pip install 'veil[{extra}]'" in done.stderr


@pytest.mark.requirement("WIR-P5")
def test_a_failed_run_leaves_no_transcript(imported: Path, tmp_path: Path) -> None:
    options = ("--model", str(imported), "--worker", "127.0.0.1:1", "--transcript", str(tmp_path / "seen"))
    assert veil("generate", PROMPT, *options).returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("RMO-P2")
def test_profile_rank_says_that_it_is_not_private(imported: Path) -> None:
    options = ("--model", str(imported), "--new-tokens", "2", "--profile", "rank", "--m-over-d", "1/2")
    done = veil("generate", PROMPT, *options)
    assert done.returncode == 0
    assert "not_private" in done.stderr


def test_an_audit_uses_the_worker_that_it_is_given(checkpoint: Path, tmp_path: Path) -> None:
    done = veil("audit", "--model", str(checkpoint), "--out", str(tmp_path), "--worker", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "(WORKER_LOST)" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
