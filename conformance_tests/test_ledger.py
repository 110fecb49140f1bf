"""The ledger: killed, torn, tampered with, shared and repeated, with real processes and beside a model."""

import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from veil_optimized import ledger as subject
from veil_optimized.ledger import Adjacency, Costs, Ledger, Policy, Ticket, read_or_create_key
from veil_spec.refusals import Refusal, Refused

KEY = bytes(range(32))
MECHANISM = "ab" * 32
OTHER_MECHANISM = "cd" * 32
COSTS = Costs(token=2, document=5)
POLICY = Policy(Adjacency.DOCUMENT, account_limit=1000)
HEAD, RECORD = subject.HEAD_BYTES, subject.RECORD_BYTES
KILLS = int(os.environ.get("VEIL_LEDGER_KILLS", "20"))
"""How often the worker is killed at a random moment; a soak takes 200."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a ledger is to be made."""
    return tmp_path / "ledger"


def refusal_of(action: Callable[[], object]) -> Refusal:
    """Return the name under which an action is refused."""
    with pytest.raises(Refused) as caught:
        action()
    return caught.value.reason


def is_refused(path: Path, policy: Policy | None = POLICY) -> Refusal | None:
    """Return the name under which a ledger is refused when it is opened, or None."""
    try:
        Ledger(path, KEY, policy).close()
    except Refused as refused:
        return refused.reason
    return None


def filled(path: Path, documents: int = 3, policy: Policy = POLICY) -> bytes:
    """Return the bytes of a new ledger with some charges and one completion."""
    with Ledger(path, KEY, policy) as ledger:
        tickets = [ledger.charge("a", b"%d" % i, MECHANISM, COSTS) for i in range(documents)]
        ledger.complete(tickets[0])
    return path.read_bytes()


# Durable before output


@pytest.mark.requirement("ACC-P1")
def test_every_record_is_synchronised_after_it_is_written_and_a_new_file_with_its_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    pwrite, fsync = os.pwrite, os.fsync

    def writing(file: int, content: bytes, position: int) -> int:
        calls.append("write")
        return pwrite(file, content, position)

    def syncing(file: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "sync file")
        fsync(file)

    monkeypatch.setattr(os, "pwrite", writing)
    monkeypatch.setattr(os, "fsync", syncing)
    with Ledger(path, KEY, POLICY) as ledger:
        assert calls == ["write", "sync file", "sync folder"]
        for action in (
            lambda: ledger.charge("a", b"one", MECHANISM, COSTS),
            lambda: ledger.complete(Ticket(0, False, False)),
        ):
            calls.clear()
            action()
            assert calls == ["write", "sync file"]


@pytest.mark.requirement("ACC-P1")
def test_a_charge_that_another_process_wrote_is_synchronised_before_it_is_relied_upon(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = replace(POLICY, memoise=True)
    filled(path, 1, policy)
    synced: list[int] = []
    fsync = os.fsync

    def syncing(file: int) -> None:
        synced.append(file)
        fsync(file)

    monkeypatch.setattr(os, "fsync", syncing)
    with Ledger(path, KEY, policy) as ledger:
        assert ledger.charge("a", b"0", MECHANISM, COSTS) == Ticket(0, resumed=False, memoised=True)
        assert len(synced) == 1
        ledger.charge("a", b"0", MECHANISM, COSTS)
        assert len(synced) == 1


@pytest.mark.requirement("ACC-P1")
def test_where_synchronising_fails_there_is_no_ticket_and_the_ledger_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(file: int) -> None:
        raise OSError(5, "Input/output error")

    with Ledger(path, KEY, POLICY) as ledger:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
            patch.setattr(os, "fsync", failing)
            ledger.charge("a", b"one", MECHANISM, COSTS)
        assert refusal_of(lambda: ledger.charge("a", b"one", MECHANISM, COSTS)) is Refusal.LEDGER_LOCKED
    with Ledger(path, KEY, POLICY) as ledger:
        assert ledger.spent("a") == (2, 5)


@pytest.mark.requirement("ACC-P1")
def test_a_full_disk_charges_nothing_and_leaves_a_ledger_that_works(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def full(file: int, content: bytes, position: int) -> int:
        if len(content) < RECORD:
            raise OSError(28, "No space left on device")
        return pwrite(file, content[:100], position)

    with Ledger(path, KEY, POLICY) as ledger:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "pwrite", full)
            ledger.charge("a", b"one", MECHANISM, COSTS)
        assert path.stat().st_size == HEAD + 100
        assert ledger.spent("a") == (0, 0)
        assert ledger.charge("a", b"one", MECHANISM, COSTS) == Ticket(0, resumed=False, memoised=False)
    assert path.stat().st_size == HEAD + RECORD


# Limits


@pytest.mark.requirement("ACC-P2")
@pytest.mark.parametrize(("adjacency", "fitting"), [(Adjacency.TOKEN, 5), (Adjacency.DOCUMENT, 2)])
def test_a_charge_above_the_limit_of_its_account_is_refused_and_leaves_no_trace(
    path: Path, adjacency: Adjacency, fitting: int
) -> None:
    with Ledger(path, KEY, Policy(adjacency, account_limit=10)) as ledger:
        for document in range(fitting):
            ledger.charge("a", b"%d" % document, MECHANISM, COSTS)
        before = path.read_bytes()
        assert refusal_of(lambda: ledger.charge("a", b"more", MECHANISM, COSTS)) is Refusal.BUDGET_EXCEEDED
        assert path.read_bytes() == before
        assert ledger.spent("a") == (2 * fitting, 5 * fitting)
        assert ledger.charge("b", b"more", MECHANISM, COSTS).invocation == fitting
    with Ledger(path, KEY) as ledger:
        assert refusal_of(lambda: ledger.charge("a", b"more", MECHANISM, COSTS)) is Refusal.BUDGET_EXCEEDED


@pytest.mark.requirement("ACC-P2")
def test_a_limit_of_documents_counts_all_charges_of_one_document_for_one_account(path: Path) -> None:
    with Ledger(path, KEY, replace(POLICY, document_limit=10)) as ledger:
        for mechanism in (MECHANISM, OTHER_MECHANISM):
            ledger.complete(ledger.charge("a", b"one", mechanism, COSTS))
        assert refusal_of(lambda: ledger.charge("a", b"one", MECHANISM, COSTS)) is Refusal.BUDGET_EXCEEDED
        ledger.charge("a", b"two", MECHANISM, COSTS)
        ledger.charge("b", b"one", MECHANISM, COSTS)
        too_long = Costs(1, 11)
        assert refusal_of(lambda: ledger.charge("a", b"3", MECHANISM, too_long)) is Refusal.BUDGET_EXCEEDED


@pytest.mark.requirement("ACC-P2")
def test_the_refusal_says_what_it_costs_and_what_is_left(path: Path) -> None:
    with Ledger(path, KEY, Policy(Adjacency.DOCUMENT, 1_500_000)) as ledger:
        ledger.charge("a", b"one", MECHANISM, Costs(1, 500_001))
        with pytest.raises(Refused) as caught:
            ledger.charge("a", b"two", MECHANISM, Costs(1, 1_000_000))
    assert "epsilon 1.000000 (document)" in caught.value.detail
    assert "0.999999 of this account's 1.500000" in caught.value.detail
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize(
    "action",
    [
        lambda ledger: Costs(-1, 5),
        lambda ledger: Costs(2, 1),
        lambda ledger: Costs(True, 1),
        lambda ledger: Costs(1, 2**63),
        lambda ledger: Policy(Adjacency.TOKEN, -1),
        lambda ledger: Policy(Adjacency.TOKEN, 1, 2**63),
        lambda ledger: Policy(cast(Adjacency, "token"), 1),
        lambda ledger: ledger.charge("a", "text", MECHANISM, COSTS),
        lambda ledger: ledger.charge(7, b"text", MECHANISM, COSTS),
        lambda ledger: ledger.charge("a", b"text", "AB" * 32, COSTS),
        lambda ledger: ledger.charge("a", b"text", "ab" * 31, COSTS),
        lambda ledger: ledger.charge("a", b"text", None, COSTS),
    ],
)
def test_what_is_no_amount_and_no_name_is_refused(path: Path, action: Callable[[Ledger], object]) -> None:
    with Ledger(path, KEY, POLICY) as ledger:
        assert refusal_of(lambda: action(ledger)) is Refusal.BUDGET_MALFORMED
    assert path.stat().st_size == HEAD


def test_sums_beyond_the_largest_cost_do_not_wrap(path: Path) -> None:
    with Ledger(path, KEY, Policy(Adjacency.TOKEN, 2**63 - 1)) as ledger:
        for document in (b"1", b"2"):
            ledger.charge("a\ud800", document, MECHANISM, Costs(0, 2**63 - 1))
        assert ledger.spent("a\ud800") == (0, 2**64 - 2)


# Several at once


def environment() -> dict[str, str]:
    """Return an environment in which a child imports what this process imports."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


SPENDER = """
import sys, time
from pathlib import Path
from veil_optimized.ledger import Costs, Ledger
from veil_spec.refusals import Refusal, Refused
ledger = Ledger(Path(sys.argv[1]), bytes(range(32)), patience=60)
print("ready", flush=True)
sys.stdin.readline()
for document in range(1000):
    try:
        text = f"{sys.argv[2]} {document}".encode()
        ticket = ledger.charge("a", text, "ab" * 32, Costs(1, 7))
    except Refused as refused:
        sys.exit(str(refused.reason))
    print(ticket.invocation, flush=True)
    time.sleep(0.001)
"""


@pytest.mark.requirement("ACC-P3")
def test_two_processes_spend_one_limit_together_and_lose_nothing(path: Path) -> None:
    charges = 60
    Ledger(path, KEY, replace(POLICY, account_limit=7 * charges + 6)).close()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDER, str(path), name],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "xy"
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=120) for child in children]
    assert [errors for _, errors in said] == ["BUDGET_EXCEEDED\n"] * 2
    invocations = [[int(line) for line in output.split()] for output, _ in said]
    assert sorted(invocations[0] + invocations[1]) == list(range(charges))
    assert all(invocations)
    with Ledger(path, KEY) as ledger:
        assert ledger.spent("a") == (charges, 7 * charges)


@pytest.mark.requirement("ACC-P3")
def test_threads_share_one_ledger(path: Path) -> None:
    seen: list[int] = []
    with Ledger(path, KEY, POLICY) as ledger:

        def spend(name: int) -> None:
            seen.extend(ledger.charge("a", b"%d" % name, MECHANISM, COSTS).invocation for _ in range(5))

        threads = [threading.Thread(target=spend, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seen) == list(range(20))


@pytest.mark.requirement("ACC-P3")
def test_a_ledger_that_somebody_holds_is_refused_after_the_stated_time(path: Path) -> None:
    with Ledger(path, KEY, POLICY, patience=0.05) as ledger:
        holder = os.open(path, os.O_RDWR)
        fcntl.flock(holder, fcntl.LOCK_EX)
        start = time.monotonic()
        assert refusal_of(lambda: ledger.charge("a", b"one", MECHANISM, COSTS)) is Refusal.LEDGER_LOCKED
        assert time.monotonic() - start >= 0.05
        os.close(holder)
        assert ledger.charge("a", b"one", MECHANISM, COSTS).invocation == 0


FORKING = """
import os, sys
from pathlib import Path
from veil_optimized.ledger import Costs, Ledger
from veil_spec.refusals import Refused
ledger = Ledger(Path(sys.argv[1]), bytes(range(32)))
if os.fork() == 0:
    try:
        ledger.charge("a", b"one", "ab" * 32, Costs(1, 1))
    except Refused as refused:
        ledger.close()
        os._exit(7 if refused.reason == "LEDGER_LOCKED" else 8)
    os._exit(9)
status = os.waitstatus_to_exitcode(os.wait()[1])
ticket = ledger.charge("a", b"one", "ab" * 32, Costs(1, 1))
print(status, ticket.invocation, len(os.listdir(os.path.dirname(sys.argv[1]))))
"""


@pytest.mark.requirement("ACC-P3")
def test_a_forked_process_has_to_open_the_ledger_anew(path: Path) -> None:
    Ledger(path, KEY, POLICY).close()
    command = [sys.executable, "-c", FORKING, str(path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "7 0 2\n"


@pytest.mark.requirement("ACC-P3")
def test_a_closed_ledger_charges_nothing(path: Path) -> None:
    ledger = Ledger(path, KEY, POLICY)
    ledger.close()
    ledger.close()
    assert refusal_of(lambda: ledger.charge("a", b"one", MECHANISM, COSTS)) is Refusal.LEDGER_LOCKED


# Sealed and chained


@pytest.mark.requirement("ACC-P4")
def test_every_changed_byte_is_refused(path: Path) -> None:
    content = filled(path)
    assert len(content) == HEAD + 4 * RECORD
    verdicts = []
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        verdicts.append(is_refused(path))
    assert verdicts == [Refusal.LEDGER_MISMATCH] * HEAD + [Refusal.LEDGER_DAMAGED] * (4 * RECORD)
    path.write_bytes(content)
    assert is_refused(path) is None


def records_of(content: bytes) -> list[bytes]:
    """Return the records of a ledger's bytes."""
    return [content[start : start + RECORD] for start in range(HEAD, len(content), RECORD)]


@pytest.mark.requirement("ACC-P4")
def test_removed_moved_repeated_and_emptied_records_are_refused(path: Path) -> None:
    content = filled(path)
    head, records = content[:HEAD], records_of(content)
    last = len(records) - 1
    broken = [records[:i] + records[i + 1 :] for i in range(last)]
    broken += [[*records, record] for record in records]
    broken += [[*records[:i], bytes(RECORD), *records[i + 1 :]] for i in range(last)]
    broken += [[*records, bytes(RECORD), bytes(RECORD)], [*records, b"\0" * (RECORD - 1) + b"\1"]]
    for i, j in combinations(range(len(records)), 2):
        swapped = list(records)
        swapped[i], swapped[j] = records[j], records[i]
        broken.append(swapped)
    for listed in broken:
        path.write_bytes(head + b"".join(listed))
        assert is_refused(path) is Refusal.LEDGER_DAMAGED


@pytest.mark.requirement("ACC-P4")
def test_a_record_of_another_history_or_another_ledger_does_not_fit(path: Path) -> None:
    common = filled(path, 1)
    histories = []
    for document in (b"x", b"y"):
        path.write_bytes(common)
        with Ledger(path, KEY, POLICY) as ledger:
            ledger.charge("a", document, MECHANISM, COSTS)
            ledger.charge("a", document, OTHER_MECHANISM, COSTS)
        histories.append(records_of(path.read_bytes()))
    first, second = histories
    path.write_bytes(common + first[2] + second[3])
    assert is_refused(path) is Refusal.LEDGER_DAMAGED
    path.write_bytes(common + second[2] + second[3])
    assert is_refused(path) is None
    other = path.with_name("other")
    path.write_bytes(filled(other, 1)[:HEAD] + b"".join(records_of(common)))
    assert is_refused(path) is Refusal.LEDGER_DAMAGED


@pytest.mark.requirement("ACC-P4")
@pytest.mark.parametrize("tail", [1, 12, 100, 255])
def test_an_incomplete_last_record_is_discarded(path: Path, tail: int) -> None:
    content = filled(path)
    path.write_bytes(content + os.urandom(tail))
    with Ledger(path, KEY, POLICY) as ledger:
        assert ledger.spent("a") == (6, 15)
        assert ledger.charge("a", b"new", MECHANISM, COSTS).invocation == 3
    assert path.stat().st_size == len(content) + RECORD
    assert path.read_bytes().startswith(content)
    assert is_refused(path) is None


@pytest.mark.requirement("ACC-P4")
def test_what_a_crash_left_is_durably_removed_before_its_place_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = filled(path)
    path.write_bytes(content + os.urandom(100))
    sizes: list[int] = []
    fsync = os.fsync

    def syncing(file: int) -> None:
        sizes.append(os.fstat(file).st_size - len(content))
        fsync(file)

    monkeypatch.setattr(os, "fsync", syncing)
    with Ledger(path, KEY, POLICY) as ledger:
        ledger.charge("a", b"new", MECHANISM, COSTS)
    assert sizes == [0, RECORD]


@pytest.mark.requirement("ACC-P4")
def test_a_last_record_of_zeros_was_never_written_and_garbage_of_its_length_is_damage(path: Path) -> None:
    content = filled(path)
    path.write_bytes(content + bytes(RECORD))
    with Ledger(path, KEY, POLICY) as ledger:
        assert ledger.charge("a", b"new", MECHANISM, COSTS).invocation == 3
    assert path.stat().st_size == len(content) + RECORD
    path.write_bytes(content + os.urandom(RECORD))
    assert is_refused(path) is Refusal.LEDGER_DAMAGED


@pytest.mark.requirement("ACC-P4")
def test_a_place_that_is_written_anew_gets_another_nonce(path: Path) -> None:
    content = filled(path)
    nonces = set()
    for document in (b"x", b"y", b"y"):
        path.write_bytes(content)
        with Ledger(path, KEY, POLICY) as ledger:
            ledger.charge("a", document, MECHANISM, COSTS)
        nonces.add(path.read_bytes()[len(content) : len(content) + subject.NONCE_BYTES])
    assert len(nonces) == 3


@pytest.mark.requirement("ACC-P4")
def test_a_ledger_removed_replaced_or_shortened_under_a_running_process_is_refused(path: Path) -> None:
    content = filled(path)
    for harm in (
        lambda: path.unlink(),
        lambda: (path.with_name("copy").write_bytes(content), path.with_name("copy").rename(path)),
        lambda: os.truncate(path, len(content) - RECORD),
    ):
        path.write_bytes(content)
        with Ledger(path, KEY, POLICY) as ledger:
            harm()
            assert refusal_of(lambda: ledger.spent("a")) is Refusal.LEDGER_DAMAGED


@pytest.mark.requirement("ACC-P4")
def test_equal_charges_are_sealed_differently_and_their_names_do_not_show(path: Path) -> None:
    secrets = [b"account number 17", b"a private document"]
    with Ledger(path, KEY, POLICY) as ledger:
        for _ in range(2):
            ledger.charge(secrets[0].decode(), secrets[1], MECHANISM, COSTS)
    content = path.read_bytes()
    known = [
        *secrets,
        bytes.fromhex(MECHANISM),
        KEY,
        *(hashlib.sha256(secret).digest() for secret in secrets),
    ]
    assert not any(name in content for name in known)
    first, second = records_of(content)
    assert first[:12] != second[:12]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_removing_whole_records_from_the_end_is_not_noticed_which_is_why_it_is_an_assumption(
    path: Path,
) -> None:
    content = filled(path)
    path.write_bytes(content[:-RECORD])
    assert is_refused(path) is None


# Resumed


@pytest.mark.requirement("ACC-P5")
def test_a_document_charged_by_a_process_that_ended_is_resumed_with_the_same_seed_and_no_charge(
    path: Path,
) -> None:
    with Ledger(path, KEY, POLICY) as ledger:
        ledger.complete(ledger.charge("a", b"zero", MECHANISM, COSTS))
        ticket = ledger.charge("a", b"one", MECHANISM, COSTS)
        seed = ledger.sampling_seed(ticket)
        assert ticket == Ticket(1, resumed=False, memoised=False)
    with Ledger(path, KEY, POLICY) as ledger:
        resumed = ledger.charge("a", b"one", MECHANISM, COSTS)
        assert resumed == Ticket(1, resumed=True, memoised=False)
        assert ledger.sampling_seed(resumed) == seed
        assert (ledger.spent("a"), ledger.unfinished()) == ((4, 10), 1)
        ledger.complete(resumed)
        ledger.complete(resumed)
        assert ledger.unfinished() == 0
        assert ledger.charge("a", b"one", MECHANISM, COSTS) == Ticket(2, resumed=False, memoised=False)


@pytest.mark.requirement("ACC-P5")
def test_a_request_that_a_living_process_works_on_is_charged_anew_and_resumed_once(path: Path) -> None:
    first, second = Ledger(path, KEY, POLICY), Ledger(path, KEY, POLICY)
    assert first.charge("a", b"one", MECHANISM, COSTS).invocation == 0
    assert second.charge("a", b"one", MECHANISM, COSTS) == Ticket(1, resumed=False, memoised=False)
    first.close()
    third = Ledger(path, KEY, POLICY)
    assert third.charge("a", b"one", MECHANISM, COSTS) == Ticket(0, resumed=True, memoised=False)
    assert second.charge("a", b"one", MECHANISM, COSTS) == Ticket(2, resumed=False, memoised=False)
    third.close()
    second.close()
    assert list(path.parent.glob("*.live")) == []


@pytest.mark.requirement("ACC-P5")
def test_seeds_are_those_of_tickets_at_hand_and_differ_between_invocations_and_ledgers(path: Path) -> None:
    with Ledger(path, KEY, POLICY) as ledger, Ledger(path.with_name("other"), KEY, POLICY) as other:
        tickets = [ledger.charge("a", b"%d" % i, MECHANISM, COSTS) for i in range(3)]
        seeds = [ledger.sampling_seed(ticket) for ticket in tickets]
        seeds.append(other.sampling_seed(other.charge("a", b"0", MECHANISM, COSTS)))
        assert len(set(seeds)) == 4
        assert {len(seed) for seed in seeds} == {32}
        ledger.complete(tickets[0])
        for ticket in (tickets[0], Ticket(3, False, False), Ticket(0, False, memoised=True)):
            with pytest.raises(Refused, match="LEDGER_MISMATCH"):
                ledger.sampling_seed(ticket)
        for ticket in (Ticket(3, False, False), Ticket(-1, False, False)):
            with pytest.raises(Refused, match="LEDGER_MISMATCH"):
                ledger.complete(ticket)
    with Ledger(path, KEY, POLICY) as ledger:
        assert refusal_of(lambda: ledger.complete(tickets[1])) is Refusal.LEDGER_MISMATCH
        assert refusal_of(lambda: ledger.sampling_seed(tickets[1])) is Refusal.LEDGER_MISMATCH


# Memoised


@pytest.mark.requirement("ACC-P6")
def test_a_completed_request_is_charged_again_unless_the_policy_memoises(path: Path) -> None:
    for memoise in (False, True):
        with Ledger(path, KEY, replace(POLICY, memoise=memoise)) as ledger:
            first = ledger.charge("a", b"one", MECHANISM, COSTS)
            seed = ledger.sampling_seed(first)
            ledger.complete(first)
            again = ledger.charge("a", b"one", MECHANISM, COSTS)
            assert again == Ticket(0 if memoise else 1, resumed=False, memoised=memoise)
            assert (ledger.sampling_seed(again) == seed) is memoise
            ledger.complete(again)
            assert ledger.spent("a") == ((2, 5) if memoise else (4, 10))
        path.unlink()


@pytest.mark.requirement("ACC-P6")
def test_only_the_same_whole_request_is_memoised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(path, KEY, replace(POLICY, memoise=True)) as ledger:
        requests = [
            ("a", b"one two", MECHANISM, COSTS),
            ("a", b"one two ", MECHANISM, COSTS),
            ("a", b"one", MECHANISM, COSTS),
            ("a", b"", MECHANISM, COSTS),
            ("b", b"one two", MECHANISM, COSTS),
            ("", b"aone two", MECHANISM, COSTS),
            ("a", b"one two", OTHER_MECHANISM, COSTS),
            ("a", b"one two", MECHANISM, Costs(1, 5)),
            ("a", b"one two", MECHANISM, Costs(2, 6)),
        ]
        tickets = [ledger.charge(*request) for request in requests]
        assert [ticket.invocation for ticket in tickets] == list(range(len(requests)))
        assert [ledger.charge(*request).invocation for request in requests] == list(range(len(requests)))
        monkeypatch.setattr(subject, "__version__", "9.9.9")
        assert ledger.charge(*requests[0]) == Ticket(len(requests), resumed=False, memoised=False)


@pytest.mark.requirement("ACC-P6")
def test_documents_are_tagged_under_the_key_of_the_ledger(path: Path) -> None:
    tags = []
    for name in ("one", "two"):
        ledger = Ledger(path.with_name(name), KEY, POLICY)
        ledger.charge("a", b"text", MECHANISM, COSTS)
        tags += list(ledger._books.waiting) + list(ledger._books.spent)
        ledger.close()
    assert len(set(tags)) == 4
    assert not {hashlib.sha256(text).digest() for text in (b"a", b"text")} & set(tags)


@pytest.mark.requirement("ACC-P6")
def test_the_policy_says_in_words_what_holds(path: Path) -> None:
    said = {replace(POLICY, adjacency=a, memoise=m).statement for a in Adjacency for m in (False, True)}
    assert len(said) == 4
    assert all(
        ("equal outputs reveal equal inputs" in replace(POLICY, memoise=memoise).statement) is memoise
        for memoise in (False, True)
    )


# Other keys, other policies


@pytest.mark.requirement("ACC-P7")
@pytest.mark.parametrize(
    "other",
    [
        Policy(Adjacency.TOKEN, 1000),
        Policy(Adjacency.DOCUMENT, 1001),
        Policy(Adjacency.DOCUMENT, 1000, 1000),
        Policy(Adjacency.DOCUMENT, 1000, memoise=True),
    ],
)
def test_another_policy_is_refused(path: Path, other: Policy) -> None:
    content = filled(path)
    assert is_refused(path, other) is Refusal.LEDGER_MISMATCH
    assert path.read_bytes() == content
    with Ledger(path, KEY) as ledger:
        assert ledger.policy == POLICY


@pytest.mark.requirement("ACC-P7")
def test_another_key_and_another_file_are_refused(path: Path) -> None:
    content = filled(path)
    for key in (bytes(32), KEY[:31], KEY + b"\0"):
        with pytest.raises(Refused, match="LEDGER_MISMATCH"):
            Ledger(path, key, POLICY)
    path.write_bytes(b"")
    assert is_refused(path) is Refusal.LEDGER_MISMATCH
    path.write_bytes(content[: HEAD - 1])
    assert is_refused(path) is Refusal.LEDGER_DAMAGED
    path.unlink()
    with pytest.raises(FileNotFoundError):
        Ledger(path, KEY)
    assert list(path.parent.iterdir()) == []


@pytest.mark.requirement("ACC-P7")
def test_a_key_is_made_once_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = read_or_create_key(path)
    assert len(key) == 32
    assert read_or_create_key(path) == key == path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_create_key(tmp_path / "other") != key
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key", "other"]


@pytest.mark.requirement("ACC-P7")
@pytest.mark.parametrize(
    ("size", "mode"), [(0, 0o600), (31, 0o600), (33, 0o600), (32, 0o640), (32, 0o604), (32, 0o620)]
)
def test_a_key_file_of_another_size_or_open_to_others_is_refused(
    tmp_path: Path, size: int, mode: int
) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes(size))
    path.chmod(mode)
    with pytest.raises(Refused, match="LEDGER_MISMATCH") as caught:
        read_or_create_key(path)
    assert str(path) in caught.value.detail
    assert path.read_bytes() == bytes(size)
    assert refusal_of(lambda: read_or_create_key(tmp_path)) is Refusal.LEDGER_MISMATCH


def test_refusals_and_representations_name_no_secret(path: Path) -> None:
    account, text = "Ada Lovelace", b"a private document"
    said = []
    with Ledger(path, KEY, Policy(Adjacency.TOKEN, 3)) as ledger:
        ticket = ledger.charge(account, text, MECHANISM, COSTS)
        said += [repr(ledger), repr(ticket), repr(ledger._keys)]
        tags = [*ledger._books.waiting, *ledger._books.spent, *ledger._books.texts]
        secrets = [account.encode(), text, KEY, ledger.sampling_seed(ticket), *tags]
        secrets += [ledger._keys.seal, ledger._keys.tag, ledger._keys.sampling]
        for action in (
            lambda: ledger.charge(account, text + b".", MECHANISM, COSTS),
            lambda: ledger.charge(account, text, text.decode(), COSTS),
            lambda: ledger.complete(Ticket(9, False, False)),
            lambda: Ledger(path, KEY[::-1]),
            lambda: Ledger(path, KEY, POLICY),
            lambda: (path.write_bytes(path.read_bytes()[:-1] + b"?"), Ledger(path, KEY)),
        ):
            with pytest.raises(Refused) as caught:
                action()
            said.append(str(caught.value))
    for line in said:
        assert "\n" not in line
        for secret in secrets:
            assert secret.decode("latin-1") not in line
            assert secret.hex() not in line and repr(secret)[2:-1] not in line


# Killed

WORKER = """
import hashlib, os, signal, sys, time
from pathlib import Path
from veil_optimized import ledger as subject
from veil_optimized.ledger import Adjacency, Costs, Ledger, Policy, Ticket, read_or_create_key

folder, behaviour, count, dwell = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Late(Ledger):
    # Wrong on purpose: gives leave to emit before the charge is written.
    def charge(self, *request):
        self.request = request
        self.invocation = self._books.following
        return Ticket(self.invocation, False, False)
    def sampling_seed(self, ticket):
        return b"%d" % ticket.invocation
    def complete(self, ticket):
        Ledger.complete(self, Ledger.charge(self, *self.request))

def emit(line):
    os.write(lines, line.encode())

kind = Late if behaviour.startswith("late") else Ledger
lines = os.open(folder / "lines", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
policy = Policy(Adjacency.DOCUMENT, 2**62)
ledger = kind(folder / "ledger", read_or_create_key(folder / "key"), policy, patience=30)
first = (folder / "lines").read_bytes().count(b"done")
emit("start\\n")
sync, write = os.fsync, os.pwrite
for document in range(first, first + count if count else 10**9):
    at = behaviour if document == 3 else ""
    text = b"document %d" % document
    if at == "half":
        os.pwrite = lambda file, content, place: (write(file, content[:77], place), die())
    if at == "unsynced":
        os.fsync = lambda file: die()
    ticket = ledger.charge("a", text, "ab" * 32, Costs(document % 5, 100 + document % 7))
    if at == "charged":
        die()
    time.sleep(dwell)
    output = hashlib.sha256(ledger.sampling_seed(ticket) + text).hexdigest()
    emit(f"out {document} {ticket.invocation} {int(ticket.resumed)} {output}\\n")
    if at in ("emitted", "late emitted"):
        die()
    if at == "completing":
        os.fsync = lambda file: die()
    ledger.complete(ticket)
    if at == "completed":
        die()
    emit(f"done {document}\\n")
"""
"""Charges, emits, completes, document after document; goes on where the lines of an earlier run end."""


def worker(folder: Path, behaviour: str = "", count: int = 0, dwell: float = 0) -> subprocess.Popen[bytes]:
    """Return a running worker that takes `dwell` seconds for an output; without a count it never ends."""
    command = [sys.executable, "-c", WORKER, str(folder), behaviour, str(count), str(dwell)]
    return subprocess.Popen(command, env=environment())


@dataclass(frozen=True)
class Line:
    """One output that somebody has seen."""

    document: int
    invocation: int
    resumed: bool
    output: str


def outputs(folder: Path) -> list[Line]:
    """Return all outputs given out so far."""
    lines = [line.split() for line in (folder / "lines").read_text().splitlines()]
    return [Line(int(d), int(i), r == "1", o) for d, i, r, o in (x[1:] for x in lines if x[0] == "out")]


def expected(lines: list[Line]) -> tuple[int, int]:
    """Return what the outputs must at least have cost."""
    charged = {line.invocation: line.document for line in lines}.values()
    return sum(d % 5 for d in charged), sum(100 + d % 7 for d in charged)


def undercounted(folder: Path, ledger: Ledger) -> list[str]:
    """Return every way in which the ledger says less than what was given out."""
    lines, spent = outputs(folder), ledger.spent("a")
    found = [f"{name} cost below" for name, a, b in zip("td", spent, expected(lines), strict=True) if a < b]
    seen: dict[int, Line] = {}
    for line in lines:
        first = seen.setdefault(line.invocation, line)
        if (first.document, first.output) != (line.document, line.output):
            found.append(f"invocation {line.invocation} has two outputs")
    return found


@dataclass(frozen=True)
class Kills:
    """Where the kills of a run fell: before an emission, between emission and completion, elsewhere."""

    rounds: int
    charged: int
    emitted: int
    elsewhere: int
    resumed: int
    outputs: int


def kill_rounds(folder: Path, count: int, seed: int = 0) -> Kills:
    """Return where the kills fell, after as many SIGKILLs at random moments of a worker and one clean end.

    Fails if at any time the ledger says less than was given out, if a charged document is not completed with
    the identical output in the end, or if anything is charged that was never given out.
    """
    moments = random.Random(seed)
    fallen = {"charged": 0, "emitted": 0, "elsewhere": 0}
    for _ in range(count):
        before = starts(folder)
        child = worker(folder, dwell=moments.choice((0, 0.005)))
        while starts(folder) == before:
            assert child.poll() is None
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        assert child.wait() == -signal.SIGKILL
        with open_for_checking(folder) as ledger:
            assert undercounted(folder, ledger) == []
            fallen[state(folder, ledger)] += 1
    assert worker(folder, count=3).wait() == 0
    with open_for_checking(folder) as ledger:
        lines = outputs(folder)
        assert undercounted(folder, ledger) == []
        assert ledger.unfinished() == 0
        assert ledger.spent("a") == expected(lines)
    assert {line.invocation for line in lines} == set(range(1 + max(line.invocation for line in lines)))
    assert list(folder.glob("ledger.*")) == []
    resumed = sum(line.resumed for line in lines)
    return Kills(count, fallen["charged"], fallen["emitted"], fallen["elsewhere"], resumed, len(lines))


def starts(folder: Path) -> int:
    """Return how many workers have begun."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "lines").read_bytes().count(b"start")
    return 0


def open_for_checking(folder: Path) -> Ledger:
    """Return the ledger that the workers use."""
    return Ledger(folder / "ledger", read_or_create_key(folder / "key"))


def state(folder: Path, ledger: Ledger) -> str:
    """Return where the last kill fell."""
    if not ledger.unfinished():
        return "elsewhere"
    (invocation,) = ledger._books.unfinished
    return "emitted" if invocation in {line.invocation for line in outputs(folder)} else "charged"


@pytest.mark.requirement("ACC-P5")
def test_killed_at_random_moments_the_ledger_counts_every_output_and_every_charge_is_completed(
    tmp_path: Path,
) -> None:
    kills = kill_rounds(tmp_path, KILLS)
    print(kills)
    assert kills.charged + kills.emitted > 0
    assert kills.resumed > 0


@pytest.mark.requirement("ACC-P5")
@pytest.mark.parametrize(
    ("moment", "unfinished"),
    [("half", 0), ("unsynced", 1), ("charged", 1), ("emitted", 1), ("completing", 0), ("completed", 0)],
)
def test_killed_at_each_step_the_document_is_completed_with_the_identical_output(
    tmp_path: Path, moment: str, unfinished: int
) -> None:
    assert worker(tmp_path, moment, 10).wait() == -signal.SIGKILL
    with open_for_checking(tmp_path) as ledger:
        assert undercounted(tmp_path, ledger) == []
        assert ledger.unfinished() == unfinished
    assert worker(tmp_path, count=2).wait() == 0
    with open_for_checking(tmp_path) as ledger:
        lines = outputs(tmp_path)
        assert undercounted(tmp_path, ledger) == []
        assert (ledger.unfinished(), ledger.spent("a")) == (0, expected(lines))
    assert list(tmp_path.glob("ledger.*")) == []
    again = [line for line in lines if line.document == 3]
    assert [line.resumed for line in again][-1] is (unfinished == 1)
    assert len({line.invocation for line in again}) == (2 if moment.startswith("complet") else 1)


def test_a_worker_that_emits_before_its_charge_is_durable_is_found_out(tmp_path: Path) -> None:
    assert worker(tmp_path, "late emitted", 10).wait() == -signal.SIGKILL
    with open_for_checking(tmp_path) as ledger:
        assert undercounted(tmp_path, ledger) == ["t cost below", "d cost below"]


# Against a model


@dataclass
class Charge:
    """What the model knows of one invocation."""

    request: tuple[str, bytes, str]
    cost: int
    owner: int | None
    completed: bool = False


class AgainstAModel(RuleBasedStateMachine):
    """Two openings of one ledger, closed and torn at will, beside a list of charges."""

    @initialize(
        adjacency=st.sampled_from(Adjacency),
        limit=st.integers(0, 30),
        document_limit=st.none() | st.integers(0, 12),
        memoise=st.booleans(),
    )
    def start(self, adjacency: Adjacency, limit: int, document_limit: int | None, memoise: bool) -> None:
        self.policy = Policy(adjacency, limit, document_limit, memoise)
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "ledger"
        self.openings = [Ledger(self.path, KEY, self.policy) for _ in range(2)]
        self.charges: list[Charge] = []
        self.tickets: list[tuple[int, Ticket]] = []
        self.seeds: dict[int, bytes] = {}

    def predicted(self, opening: int, request: tuple[str, bytes, str], cost: int) -> Ticket | None:
        """Return what the specification says that a charge gives, None for a refusal."""
        same = [
            i for i, charge in enumerate(self.charges) if (charge.request, charge.cost) == (request, cost)
        ]
        for i in same:
            if self.charges[i].owner is None and not self.charges[i].completed:
                self.charges[i].owner = opening
                return Ticket(i, resumed=True, memoised=False)
        if same and self.policy.memoise:
            return Ticket(same[0], resumed=False, memoised=True)
        account = sum(charge.cost for charge in self.charges if charge.request[0] == request[0])
        document = sum(charge.cost for charge in self.charges if charge.request[:2] == request[:2])
        limit = self.policy.document_limit
        if account + cost > self.policy.account_limit or (limit is not None and document + cost > limit):
            return None
        self.charges.append(Charge(request, cost, opening))
        return Ticket(len(self.charges) - 1, resumed=False, memoised=False)

    @rule(
        opening=st.integers(0, 1),
        account=st.sampled_from(["a", "b"]),
        document=st.sampled_from([b"", b"x", b"xy"]),
        mechanism=st.sampled_from([MECHANISM, OTHER_MECHANISM]),
        cost=st.integers(0, 4),
    )
    def charge(self, opening: int, account: str, document: bytes, mechanism: str, cost: int) -> None:
        token = self.policy.adjacency is Adjacency.TOKEN
        costs = Costs(cost, 9) if token else Costs(0, cost)
        wanted = self.predicted(opening, (account, document, mechanism), cost)
        try:
            ticket = self.openings[opening].charge(account, document, mechanism, costs)
        except Refused as refused:
            assert (refused.reason, wanted) == (Refusal.BUDGET_EXCEEDED, None)
            return
        assert ticket == wanted
        seed = self.openings[opening].sampling_seed(ticket)
        assert self.seeds.setdefault(ticket.invocation, seed) == seed
        assert len(set(self.seeds.values())) == len(self.seeds)
        self.tickets.append((opening, ticket))

    @rule(choice=st.integers(0, 100))
    def complete(self, choice: int) -> None:
        if self.tickets:
            opening, ticket = self.tickets.pop(choice % len(self.tickets))
            self.openings[opening].complete(ticket)
            self.charges[ticket.invocation].completed |= not ticket.memoised

    @rule(opening=st.integers(0, 1), tail=st.sampled_from([b"", b"torn", b"\xff" * 255, bytes(RECORD)]))
    def reopen(self, opening: int, tail: bytes) -> None:
        self.openings[opening].close()
        if self.path.stat().st_size % RECORD == 0 and not self.path.read_bytes().endswith(bytes(RECORD)):
            with self.path.open("ab") as file:
                file.write(tail)
        for charge in self.charges:
            charge.owner = None if charge.owner == opening else charge.owner
        self.tickets = [(owner, ticket) for owner, ticket in self.tickets if owner != opening]
        self.openings[opening] = Ledger(self.path, KEY, self.policy)

    @invariant()
    def totals_agree(self) -> None:
        for ledger in getattr(self, "openings", ()):
            for account in ("a", "b"):
                cost = sum(charge.cost for charge in self.charges if charge.request[0] == account)
                assert ledger.spent(account)[self.policy.adjacency is Adjacency.DOCUMENT] == cost
            assert ledger.unfinished() == sum(not charge.completed for charge in self.charges)

    def teardown(self) -> None:
        for ledger in getattr(self, "openings", ()):
            ledger.close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


@contextlib.contextmanager
def unsynchronised() -> Iterator[None]:
    """Let files be written without waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


def test_any_order_of_charges_completions_crashes_and_torn_writes_agrees_with_a_model() -> None:
    with unsynchronised():
        run_state_machine_as_test(
            AgainstAModel, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
        )
