"""The ledger: how much epsilon was charged to whom, durable before anything is emitted, sealed."""

import fcntl
import hmac
import json
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from veil_spec import __version__
from veil_spec.refusals import Refusal, Refused

__all__ = ["Adjacency", "Costs", "Ledger", "Policy", "Ticket", "read_or_create_key"]

KEY_BYTES: Final = 32
"""A ChaCha20 key's worth of entropy."""
MAGIC: Final = b"VEILLGR1"
"""First bytes of a ledger; the last one counts changes of the format."""
IDENTITY_BYTES: Final = 32
"""Drawn once for each ledger: two ledgers under one key share no derived key, so no noise."""
NONCE_BYTES: Final = 12
"""The random nonce of RFC 8439."""
SEAL_BYTES: Final = 16
"""The Poly1305 tag of RFC 8439."""
HEAD_BYTES: Final = 1024
"""Magic, identity and the sealed policy; two sectors."""
POLICY_BYTES: Final = HEAD_BYTES - len(MAGIC) - IDENTITY_BYTES - NONCE_BYTES - SEAL_BYTES
"""Room for the policy as JSON, padded with spaces."""
RECORD_BYTES: Final = 256
"""Half a sector: no record crosses the unit that a disk writes as a whole."""
UNWRITTEN: Final = bytes(RECORD_BYTES)
"""What a file system shows where a file has grown and its content has not arrived."""
CHUNK: Final = 1024 * RECORD_BYTES
"""Bytes read at a time."""
COST_LIMIT: Final = 2**63
"""Costs and limits stay below this."""
RECORD: Final = struct.Struct("<BQQQQ32s32s32s32s67x")
"""Layout: kind || invocation || session || token cost || document cost || tags, 4 times 32 bytes || zeros."""
PLACE: Final = struct.Struct("<Q16s")
"""Layout of what a record is bound to: its position in the file || the seal of the record before it."""
PAUSE: Final = 0.0002
"""Seconds between two attempts at a lock: short, to find the moment between two charges of another."""


class Adjacency(StrEnum):
    """Which change of the charged documents the limits speak of."""

    TOKEN = "token"
    DOCUMENT = "document"


STATEMENTS: Final = {
    Adjacency.TOKEN: "one token replaced by another token of the same part in each charged document",
    Adjacency.DOCUMENT: "any tokens replaced by other tokens of the same parts in each charged document",
}
"""Adjacency in words; lengths and parts are the same in both."""
EQUALITY: Final = (
    "; which documents of an account are equal is the same in both: equal outputs reveal equal inputs"
)
"""What memoisation adds to it."""
RETRY: Final = "; a request that is resumed after a crash shows that it equals the interrupted one"
"""What a ledger that does not memoise shows all the same."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one document costs if one token or all of them are replaced, in millionths of epsilon, rounded up.

    Refuses: BUDGET_MALFORMED.
    """

    token: int
    document: int

    def __post_init__(self) -> None:
        _check_amount("cost of a token", self.token)
        _check_amount("cost of a document", self.document)
        if self.token > self.document:
            raise _malformed("a token must not cost more than its document")


@dataclass(frozen=True, slots=True)
class Policy:
    """What a ledger enforces: limits in millionths of epsilon, written once. Refuses: BUDGET_MALFORMED."""

    adjacency: Adjacency
    account_limit: int
    document_limit: int | None = None
    memoise: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.adjacency, Adjacency) or not isinstance(self.memoise, bool):
            raise _malformed("adjacency is token or document, and memoise true or false")
        _check_amount("limit of an account", self.account_limit)
        if self.document_limit is not None:
            _check_amount("limit of a document", self.document_limit)

    @property
    def statement(self) -> str:
        """Return in words what the limits speak of."""
        return STATEMENTS[self.adjacency] + (EQUALITY if self.memoise else RETRY)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to emit the output of one invocation.

    `resumed`: charged by a process that ended before it completed the document, and not charged again.
    `memoised`: the same request was charged before, and its output is given again.
    """

    invocation: int
    resumed: bool
    memoised: bool


class Kind(IntEnum):
    """What a record says."""

    CHARGED = 1
    RESUMED = 2
    COMPLETED = 3


class Record(NamedTuple):
    """One record, unsealed; the last four are keyed tags and the mechanism's hash, 32 bytes each."""

    kind: int
    invocation: int
    session: int
    token: int
    document: int
    account: bytes
    text: bytes
    request: bytes
    mechanism: bytes


def _check_amount(name: str, amount: object) -> None:
    if type(amount) is not int or not 0 <= amount < COST_LIMIT:
        raise _malformed(f"the {name} must be an integer from 0 to 2^63 - 1")


def _decimal(millionths: int) -> str:
    return f"{millionths // 10**6}.{millionths % 10**6:06d}"


def _malformed(detail: str) -> Refused:
    return Refused(Refusal.BUDGET_MALFORMED, detail)


def _damaged(detail: str) -> Refused:
    return Refused(Refusal.LEDGER_DAMAGED, f"{detail}: nothing can be charged to this ledger any more")


def _locked_out(detail: str) -> Refused:
    return Refused(Refusal.LEDGER_LOCKED, detail)


def _mismatch(detail: str) -> Refused:
    return Refused(Refusal.LEDGER_MISMATCH, detail)


# Files


def _write(file: int, content: bytes, position: int) -> None:
    while content:
        written = os.pwrite(file, content, position)
        content, position = content[written:], position + written


def _create(path: Path, content: bytes) -> None:
    """Return nothing once the path durably holds this content, or what another process put there first."""
    scratch = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    file = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _write(file, content, 0)
        os.fsync(file)
        with suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        os.close(file)
        os.unlink(scratch)
    _sync_directory(path.parent)


def _sync_directory(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(file: int, deadline: float) -> None:
    while not _try_lock(file):
        if time.monotonic() >= deadline:
            raise _locked_out("another process holds the ledger: try again later")
        time.sleep(PAUSE)


def read_or_create_key(path: Path) -> bytes:
    """Return the 32 bytes of a key file, which is made from the system's randomness where there is none.

    Implements: ACC-P7.
    Refuses: LEDGER_MISMATCH.
    """
    if not os.path.lexists(path):
        _create(path, os.urandom(KEY_BYTES))
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise _mismatch(f"{path} must be a file that its owner alone can read: chmod 600 it")
        key = os.read(file, KEY_BYTES + 1)
    finally:
        os.close(file)
    if len(key) != KEY_BYTES:
        raise _mismatch(f"{path} must hold exactly {KEY_BYTES} bytes: name a key file, or a new one")
    return key


# Keys and tags


@dataclass(frozen=True, slots=True, repr=False)
class _Keys:
    """Keys derived from the ledger's key and its identity: for seals, for tags, for noise."""

    seal: bytes
    tag: bytes
    sampling: bytes


def _derived(key: bytes, identity: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, identity, b"veil ledger " + purpose).derive(key)


def _keys(key: bytes, identity: bytes) -> _Keys:
    if type(key) is not bytes or len(key) != KEY_BYTES:
        raise _mismatch(f"the ledger's key must have {KEY_BYTES} bytes")
    return _Keys(*(_derived(key, identity, purpose) for purpose in (b"seal", b"tag", b"sampling")))


def _tag(key: bytes, *fields: bytes) -> bytes:
    """Return a keyed tag of fields of which all but the last have a fixed length, 32 bytes."""
    tag = hmac.new(key, digestmod="sha256")
    for field in fields:
        tag.update(field)
    return tag.digest()


def _request(key: bytes, account: str, document: bytes, mechanism: str, costs: Costs, session: int) -> Record:
    """Return the charge of a document, its invocation still to be filled in.

    The tag of the request covers all that decides the output, so noise never serves two different draws.

    Implements: ACC-P6.
    Refuses: BUDGET_MALFORMED.
    """
    if not isinstance(document, bytes):
        raise _malformed("a document is given as bytes")
    if not isinstance(mechanism, str) or not re.fullmatch("[0-9a-f]{64}", mechanism):
        raise _malformed("a mechanism is named by 64 lower-case hexadecimal digits")
    owner, name = _account(key, account), bytes.fromhex(mechanism)
    text = _tag(key, b"document", owner, document)
    amounts = struct.pack("<QQ", costs.token, costs.document)
    request = _tag(key, b"request ", text, name, amounts, __version__.encode())
    return Record(Kind.CHARGED, 0, session, costs.token, costs.document, owner, text, request, name)


def _account(key: bytes, account: str) -> bytes:
    """Return the tag of an account. Refuses: BUDGET_MALFORMED."""
    if not isinstance(account, str):
        raise _malformed("an account is named by a string")
    return _tag(key, b"account ", account.encode("utf-8", "surrogatepass"))


# Books


class _Books:
    """What the records say. Grows by an entry for each account and each document that is not completed,
    and by one for each different document if the policy memoises or limits documents.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.following = 0
        self.spent: dict[bytes, tuple[int, int]] = {}
        self.texts: dict[bytes, int] = {}
        self.first: dict[bytes, int] = {}
        self.unfinished: dict[int, tuple[bytes, int]] = {}
        self.waiting: dict[bytes, list[int]] = {}

    def enter(self, record: Record) -> None:
        """Return nothing once a record is accounted for. Refuses: LEDGER_DAMAGED."""
        if record.kind == Kind.CHARGED and record.invocation == self.following:
            self._charge(record)
        elif record.kind == Kind.RESUMED and record.invocation in self.unfinished:
            self.unfinished[record.invocation] = (record.request, record.session)
        elif record.kind == Kind.COMPLETED and record.invocation in self.unfinished:
            self._complete(record)
        else:
            raise _damaged("a record of the ledger contradicts those before it")

    def _charge(self, record: Record) -> None:
        self.following += 1
        token, document = self.spent.get(record.account, (0, 0))
        self.spent[record.account] = (token + record.token, document + record.document)
        self.unfinished[record.invocation] = (record.request, record.session)
        self.waiting.setdefault(record.request, []).append(record.invocation)
        if self._policy.document_limit is not None:
            self.texts[record.text] = self.texts.get(record.text, 0) + self._limited(
                record.token, record.document
            )
        if self._policy.memoise:
            self.first.setdefault(record.request, record.invocation)

    def _complete(self, record: Record) -> None:
        request, _ = self.unfinished.pop(record.invocation)
        self.waiting[request].remove(record.invocation)
        if not self.waiting[request]:
            del self.waiting[request]

    def check(self, record: Record) -> None:
        """Return nothing if a charge stays within the limits.

        Implements: ACC-P2.
        Refuses: BUDGET_EXCEEDED.
        """
        cost = self._limited(record.token, record.document)
        spent = self._limited(*self.spent.get(record.account, (0, 0)))
        self._check("account", cost, spent, self._policy.account_limit)
        if self._policy.document_limit is not None:
            self._check("document", cost, self.texts.get(record.text, 0), self._policy.document_limit)

    def _limited(self, token: int, document: int) -> int:
        return token if self._policy.adjacency is Adjacency.TOKEN else document

    def _check(self, owner: str, cost: int, spent: int, limit: int) -> None:
        left = limit - spent
        if cost > left:
            asked = f"epsilon {_decimal(cost)} ({self._policy.adjacency}) is asked and nothing is charged"
            detail = f"{asked}: {_decimal(left)} of this {owner}'s {_decimal(limit)} is left"
            raise Refused(Refusal.BUDGET_EXCEEDED, detail)


# The ledger


def _encoded(policy: Policy) -> bytes:
    content = asdict(policy) | {"statement": policy.statement}
    return json.dumps(content, sort_keys=True).encode("ascii").ljust(POLICY_BYTES)


def _decoded(content: bytes) -> Policy:
    fields = json.loads(content)
    del fields["statement"]
    return Policy(**fields | {"adjacency": Adjacency(fields["adjacency"])})


def _new_head(key: bytes, policy: Policy) -> bytes:
    """Return the head of a new ledger.

    Implements: ACC-P4.
    """
    start, nonce = MAGIC + os.urandom(IDENTITY_BYTES), os.urandom(NONCE_BYTES)
    keys = _keys(key, start[len(MAGIC) :])
    return start + nonce + ChaCha20Poly1305(keys.seal).encrypt(nonce, _encoded(policy), start)


class Ledger:
    """One file of sealed records, shared by any number of processes of one host, each with its own Ledger.

    Implements: ACC-P3, ACC-P4.
    Refuses: LEDGER_DAMAGED, LEDGER_MISMATCH, LEDGER_LOCKED, and OSError where the file system fails.
    """

    def __init__(self, path: Path, key: bytes, policy: Policy | None = None, patience: float = 10.0) -> None:
        """Open a ledger, or create one where there is none and a policy is given; wait `patience` seconds."""
        if policy is not None and not os.path.lexists(path):
            _create(path, _new_head(key, policy))
        self._path, self._patience, self._process = path, patience, os.getpid()
        self._threads = threading.Lock()
        self._session = int.from_bytes(os.urandom(8), "little")
        self._presence = -1
        self._file = os.open(path, os.O_RDWR)
        try:
            self._open(key, policy)
        except BaseException:
            self._let_go()
            raise

    def _open(self, key: bytes, policy: Policy | None) -> None:
        head = os.pread(self._file, HEAD_BYTES, 0)
        self._read_head(head, key, policy)
        self._books = _Books(self.policy)
        self._end, self._seal, self._durable = HEAD_BYTES, head[-SEAL_BYTES:], 0
        with self._locked():
            self._sweep()
            self._presence = os.open(self._presence_of(self._session), os.O_RDWR | os.O_CREAT, 0o600)
            _try_lock(self._presence)

    def _read_head(self, head: bytes, key: bytes, policy: Policy | None) -> None:
        """Return nothing once the head opens under the key and says the same policy.

        Implements: ACC-P7.
        Refuses: LEDGER_DAMAGED, LEDGER_MISMATCH.
        """
        start = len(MAGIC) + IDENTITY_BYTES
        if not head.startswith(MAGIC):
            raise _mismatch(f"{self._path} is not a ledger of this format: name another file")
        if len(head) != HEAD_BYTES:
            raise _damaged(f"{self._path} ends inside its head")
        self._keys = _keys(key, head[len(MAGIC) : start])
        self._cipher = ChaCha20Poly1305(self._keys.seal)
        nonce, sealed = head[start : start + NONCE_BYTES], head[start + NONCE_BYTES :]
        try:
            self.policy = _decoded(self._cipher.decrypt(nonce, sealed, head[:start]))
        except InvalidTag:
            raise _mismatch(f"the key does not open {self._path}, or its head was changed") from None
        if policy not in (None, self.policy):
            raise _mismatch(f"{self._path} was made with another policy: {asdict(self.policy)}")

    def charge(self, account: str, document: bytes, mechanism: str, costs: Costs) -> Ticket:
        """Return leave to emit the output of a document, once its charge is durable.

        `mechanism` names all that decides the output beside seed and document, such as a table's hash.

        Implements: ACC-P1.
        Refuses: BUDGET_EXCEEDED, BUDGET_MALFORMED, LEDGER_DAMAGED, LEDGER_LOCKED.
        """
        record = _request(self._keys.tag, account, document, mechanism, costs, self._session)
        with self._locked():
            ticket = self._repeated(record)
            if ticket is None:
                self._books.check(record)
                ticket = Ticket(self._books.following, resumed=False, memoised=False)
                self._append(record._replace(invocation=ticket.invocation))
            self._settle()
            return ticket

    def _repeated(self, record: Record) -> Ticket | None:
        """Return the ticket of a request that needs no charge, if it is one.

        Implements: ACC-P5, ACC-P6.
        """
        for invocation in self._books.waiting.get(record.request, ()):
            if not self._lives(self._books.unfinished[invocation][1]):
                self._append(record._replace(kind=Kind.RESUMED, invocation=invocation))
                return Ticket(invocation, resumed=True, memoised=False)
        if record.request in self._books.first:
            return Ticket(self._books.first[record.request], resumed=False, memoised=True)
        return None

    def complete(self, ticket: Ticket) -> None:
        """Return nothing once it is durable that a ticket's output was emitted; twice is as good as once.

        Implements: ACC-P5.
        Refuses: LEDGER_MISMATCH, LEDGER_DAMAGED, LEDGER_LOCKED.
        """
        with self._locked():
            request, session = self._books.unfinished.get(ticket.invocation, (b"", self._session))
            if ticket.invocation not in range(self._books.following) or session != self._session:
                raise _mismatch("the ticket is not of this ledger, or of an earlier opening: charge again")
            if request and not ticket.memoised:
                self._append(_completion(ticket.invocation, request, session))

    def sampling_seed(self, ticket: Ticket) -> bytes:
        """Return the 32-byte seed of an invocation's noise, the same whenever and wherever it is asked for.

        Implements: ACC-P5.
        Refuses: LEDGER_MISMATCH.
        """
        _, session = self._books.unfinished.get(ticket.invocation, (b"", -1))
        again = self.policy.memoise and ticket.memoised and ticket.invocation in range(self._books.following)
        if session != self._session and not again:
            raise _mismatch("the ticket is completed, or is not of this ledger: charge the document first")
        return _derived(self._keys.sampling, ticket.invocation.to_bytes(8, "little"), b"invocation")

    def spent(self, account: str) -> tuple[int, int]:
        """Return what any process has charged to an account, token and document costs in millionths."""
        with self._locked():
            return self._books.spent.get(_account(self._keys.tag, account), (0, 0))

    def unfinished(self) -> int:
        """Return how many charged documents are not completed."""
        with self._locked():
            return len(self._books.unfinished)

    # Records

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the ledger alone, with every record read.

        Implements: ACC-P3.
        """
        deadline = time.monotonic() + self._patience
        if self._process != os.getpid():
            raise _locked_out("this process was forked from the one that opened the ledger: open it anew")
        if not self._threads.acquire(timeout=self._patience):
            raise _locked_out("another thread holds the ledger: try again later")
        try:
            if self._file < 0:
                raise _locked_out("the ledger was closed: open it again")
            _lock(self._file, deadline)
            self._catch_up()
            yield
        finally:
            if self._file >= 0:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._threads.release()

    def _catch_up(self) -> None:
        """Read what was written since the last time.

        Implements: ACC-P4.
        Refuses: LEDGER_DAMAGED.
        """
        size = self._size()
        while self._end + RECORD_BYTES <= size:
            block = os.pread(self._file, min(CHUNK, size - self._end), self._end)
            if len(block) < RECORD_BYTES:
                raise _damaged(f"{self._path} was shortened while it was read")
            for start in range(0, len(block) - RECORD_BYTES + 1, RECORD_BYTES):
                slot = block[start : start + RECORD_BYTES]
                if slot == UNWRITTEN and self._end + RECORD_BYTES == size:
                    return
                self._enter(self._unsealed(slot), slot)

    def _size(self) -> int:
        """Return the length of the file. Refuses: LEDGER_DAMAGED if it is not the one that was opened."""
        found = os.fstat(self._file)
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            raise _damaged(f"{self._path} was removed") from None
        if not os.path.samestat(found, named) or found.st_size < self._end:
            raise _damaged(f"{self._path} was replaced or shortened")
        return found.st_size

    def _enter(self, record: Record, slot: bytes) -> None:
        self._books.enter(record)
        self._end, self._seal = self._end + RECORD_BYTES, slot[-SEAL_BYTES:]

    def _unsealed(self, slot: bytes) -> Record:
        place = PLACE.pack(self._end, self._seal)
        try:
            content = self._cipher.decrypt(slot[:NONCE_BYTES], slot[NONCE_BYTES:], place)
        except InvalidTag:
            raise _damaged(f"{self._path} was changed at byte {self._end}") from None
        return Record._make(RECORD.unpack(content))

    def _sealed(self, record: Record) -> bytes:
        """Return the record's slot at the end of the file.

        A nonce made of the position would serve twice if a write that a crash tore is written anew.

        Implements: ACC-P4.
        """
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, RECORD.pack(*record), PLACE.pack(self._end, self._seal))

    def _append(self, record: Record) -> None:
        """Return nothing once a record is durable.

        Implements: ACC-P1.
        """
        if self._size() != self._end:
            os.ftruncate(self._file, self._end)
            self._sync()
        slot = self._sealed(record)
        _write(self._file, slot, self._end)
        self._sync()
        self._enter(record, slot)
        self._durable = self._end

    def _settle(self) -> None:
        """Make durable what other processes wrote: one of them may have died before it did so.

        Implements: ACC-P1.
        """
        if self._durable < self._end:
            self._sync()
            self._durable = self._end

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError:
            self._let_go()
            raise

    # Sessions

    def _presence_of(self, session: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{session:016x}.live")

    def _lives(self, session: int) -> bool:
        """Return whether the process of a session still runs: as long as it does, its file is locked."""
        if session == self._session:
            return True
        return _is_locked(self._presence_of(session))

    def _sweep(self) -> None:
        """Remove the files of sessions whose processes have ended."""
        form = re.compile(re.escape(self._path.name) + r"\.[0-9a-f]{16}\.live")
        for path in self._path.parent.iterdir():
            if form.fullmatch(path.name) and not _is_locked(path):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; what is not completed can be resumed from here on."""
        with nullcontext() if self._process != os.getpid() else self._threads:
            self._let_go()

    def _let_go(self) -> None:
        if self._presence >= 0:
            if self._process == os.getpid():
                self._presence_of(self._session).unlink(missing_ok=True)
            os.close(self._presence)
        if self._file >= 0:
            os.close(self._file)
        self._presence = self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _completion(invocation: int, request: bytes, session: int) -> Record:
    empty = bytes(32)
    return Record(Kind.COMPLETED, invocation, session, 0, 0, empty, empty, request, empty)


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(file)
    finally:
        os.close(file)
