"""The `veil` command: real processes on a small model, and one line with status 2 on bad input."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import checkpoint_tensors, write_checkpoint
from test_generation import write_bert
from veil.commands import run
from veil.importer import import_model
from veil.text import Text
from veil_optimized import decoder, encoder, generate, table_file, transcript, wire
from veil_optimized.model import load
from veil_spec.architecture import INTEGER_FILE
from veil_spec.types import FrameKind

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


WORDS = tuple(f"w{number}" for number in range(12))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sanitizer table of twelve words."""
    folder = tmp_path_factory.mktemp("table")
    vectors = [f"{word} {number % 5} {number % 3} 1" for number, word in enumerate(WORDS)]
    (folder / "vectors.txt").write_text("\n".join(vectors) + "\n")
    options = ["--part-size", "4", "--epsilon", "2", "--out", str(folder / "words.table")]
    assert run(["table", "--vectors", str(folder / "vectors.txt"), *options]) == 0
    return folder / "words.table"


def sanitized(errors: str) -> list[str]:
    """Return the sanitized texts that a run showed."""
    lines = [line for line in errors.splitlines() if line.startswith("veil: sanitized ")]
    return [json.loads(line.partition(": ")[2].partition(": ")[2]) for line in lines]


def plain_answer(folder: Path, prompt: str, count: int) -> str:
    """Return what plain inference says, greedily."""
    text = Text(folder)
    made = generate.generate(
        decoder.Decoder(load(folder / INTEGER_FILE)), text.tokens(prompt), count, text.stop
    )
    return "".join(text.pieces(made.tokens))


def test_several_prompts_are_one_batch_and_one_json_line_each(imported: Path, tmp_path: Path) -> None:
    prompts = [PROMPT, "w2", "w5 w6 w7 w8"]
    stated = [{"prompt": PROMPT}, {"messages": [{"role": "user", "content": "w2"}]}, {"prompt": prompts[2]}]
    (tmp_path / "prompts").write_text("".join(json.dumps(each) + "\n" for each in stated))
    options = ("--model", str(imported), "--new-tokens", "3", "--transcript", str(tmp_path / "seen"))
    done = veil("generate", "--prompts", str(tmp_path / "prompts"), *options)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == [plain_answer(imported, prompt, 3) for prompt in prompts]
    assert [(line["prompt"], line["finish"]) for line in lines] == [(n, "length") for n in range(3)]
    frames = [wire.decode(record.data) for record in transcript.read(tmp_path / "seen").records]
    rows = {
        frame.step: frame.total_rows
        for frame in frames
        if frame.kind is FrameKind.MULTIPLY and not frame.group
    }
    assert [rows[step] for step in sorted(rows)] == [8, 3, 3]


def test_a_table_that_claims_less_than_it_costs_opens_nothing(
    imported: Path, table: Path, tmp_path: Path
) -> None:
    made = table_file.read(table)
    forged = replace(made, statement=replace(made.statement, epsilon=["0.01"]))
    table_file.write(tmp_path / "forged.table", forged)
    options = ("--model", str(imported), "--mode", "split", "--table", str(tmp_path / "forged.table"))
    done = veil("generate", PROMPT, *options)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("(CLAIM_NOT_MET)")
    assert done.stdout == ""


def test_split_answers_the_sanitized_text_and_shows_it(imported: Path, table: Path, tmp_path: Path) -> None:
    options = ("--model", str(imported), "--mode", "split", "--table", str(table), "--new-tokens", "3")
    seen = tmp_path / "seen"
    done = veil("generate", PROMPT, *options, "--show-sanitized", "--transcript", str(seen))
    assert done.returncode == 0, done.stderr
    (prompt,) = sanitized(done.stderr)
    assert len(prompt.split()) == 3 and set(prompt.split()) <= set(WORDS)
    assert done.stdout == plain_answer(imported, prompt, 3) + "\n"
    stays = "but for 1 of the 13 entries, which stay as they are"
    assert f"veil: split: each word is drawn under epsilon 2, {stays}" in done.stderr
    assert "not_private" not in done.stderr
    frames = [wire.decode(record.data) for record in transcript.read(seen).records]
    assert [frame.total_rows for frame in frames if frame.kind is FrameKind.EMBEDDED] == [3, 1, 1]


def test_both_sanitizes_and_masks_and_labels_are_those_of_the_sanitized_text(
    table: Path, tmp_path: Path
) -> None:
    import_model(write_bert(tmp_path / "float"), tmp_path / "model")
    (tmp_path / "texts").write_text("w3 w1\nw4\nw9 w8 w7\n")
    options = (
        "--model",
        str(tmp_path / "model"),
        "--mode",
        "both",
        "--table",
        str(table),
        "--show-sanitized",
    )
    done = veil("classify", "--texts", str(tmp_path / "texts"), *options, "--batch-size", "2")
    assert done.returncode == 0, done.stderr
    shown = sanitized(done.stderr)
    assert [len(text.split()) for text in shown] == [2, 1, 3]
    text, model = Text(tmp_path / "model"), load(tmp_path / "model" / INTEGER_FILE)
    for sent, line in zip(shown, done.stdout.splitlines(), strict=True):
        logits = encoder.labels(model, text.sequence(sent)[0])
        assert json.loads(line)["label"] == ("NO", "YES")[int(logits.argmax())]
    vectors = tmp_path / "vectors.npy"
    made = veil(
        "embed", "w1 w2", "w3", "--model", str(tmp_path / "model"), "--mode", "plain", "--out", str(vectors)
    )
    assert made.returncode == 0, made.stderr
    streams = encoder.Encoder(model).streams([text.sequence(each)[0] for each in ("w1 w2", "w3")])
    expected = np.array([encoder.sentence(stream).numpy() for stream in streams]) / 2**24
    assert np.array_equal(np.load(vectors), expected)


@pytest.mark.requirement("WIR-P5")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", PROMPT], "--model"),
        (["generate", PROMPT, "--model", "nowhere"], "--model nowhere"),
        (["generate", " ", "--model", "MODEL"], "prompt"),
        (["generate", PROMPT, "--model", "MODEL", "--new-tokens", "99"], "context"),
        (["generate", PROMPT, "--model", "MODEL", "--new-tokens", "0"], "--new-tokens"),
        (["generate", PROMPT, "--model", "MODEL", "--mode", "split"], "--mode split needs --table"),
        (["generate", PROMPT, "--model", "MODEL", "--mode", "both"], "--mode both needs --table"),
        (
            ["generate", PROMPT, "--model", "MODEL", "--mode", "split", "--table", "nowhere"],
            "--table nowhere",
        ),
        (["generate", PROMPT, "--model", "MODEL", "--mode", "split", "--profile", "lwe"], "--profile lwe"),
        (
            ["generate", PROMPT, "--model", "MODEL", "--mode", "split", "--minter", "dealer"],
            "--minter dealer",
        ),
        (["generate", PROMPT, "--model", "MODEL", "--mode", "split", "--plaintext", "new"], "--plaintext"),
        (["generate", PROMPT, "--model", "MODEL", "--table", "nowhere"], "--table"),
        (["generate", PROMPT, "--model", "MODEL", "--show-sanitized"], "--show-sanitized"),
        (["generate", PROMPT, "--model", "MODEL", "--temperature", "99"], "--temperature"),
        (["generate", PROMPT, "--model", "MODEL", "--temperature", "hot"], "--temperature"),
        (["generate", PROMPT, "--model", "MODEL", "--temperature", "1", "--top-p", "2"], "--top-p"),
        (["generate", PROMPT, "--model", "MODEL", "--temperature", "1", "--top-k", "0"], "--top-k"),
        (["generate", PROMPT, "--model", "MODEL", "--temperature", "1", "--seed", "xyz"], "--seed"),
        (
            ["generate", PROMPT, "--model", "MODEL", "--seed", "7"],
            "--seed means nothing without --temperature",
        ),
        (["generate", PROMPT, "--model", "MODEL", "--samples", "2"], "--samples"),
        (["generate", PROMPT, "--model", "MODEL", "--stop", ""], "--stop"),
        (["generate", PROMPT, "--model", "MODEL", "--prompts", "nowhere"], "nowhere"),
        (["generate", PROMPT, "--model", "MODEL", "--precision", "w8a16"], "w8a16"),
        (["generate", PROMPT, "--model", "MODEL", "--system", "Be brief."], "chat template"),
        (["generate", "--model", "MODEL"], "PROMPT"),
        (["classify", "--model", "MODEL"], "TEXT"),
        (["classify", "w1", "--model", "MODEL", "--mode", "plain"], "decoder"),
        (["embed", "w1", "--model", "MODEL", "--out", "MODEL"], "--out"),
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
    tensors = {name: tensor.int() for name, tensor in checkpoint_tensors().items()}
    source = write_checkpoint(tmp_path / "source", tensors)
    done = veil("import", str(source), "--out", str(tmp_path / "made"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "type I32" in done.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.requirement("WIR-P5")
@pytest.mark.parametrize(
    ("module", "extra"), [("typer", "run"), ("torch", "run"), ("tokenizers", "run"), ("grpc", "run")]
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
