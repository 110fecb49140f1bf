"""The names under which an implementation refuses, and the one exception that carries them."""

from enum import StrEnum


class Refusal(StrEnum):
    """A reason to refuse; spec/README.md says which of them look at secret data, and what shows."""

    SEED_LENGTH = "SEED_LENGTH"
    STREAM_OUT_OF_RANGE = "STREAM_OUT_OF_RANGE"
    COUNTER_OVERFLOW = "COUNTER_OVERFLOW"
    TAPE_EXHAUSTED = "TAPE_EXHAUSTED"
    FIELD_UNKNOWN = "FIELD_UNKNOWN"

    SCORES_EMPTY = "SCORES_EMPTY"
    SCORE_OUT_OF_RANGE = "SCORE_OUT_OF_RANGE"
    ALPHA_OUT_OF_RANGE = "ALPHA_OUT_OF_RANGE"
    EPSILON_OUT_OF_RANGE = "EPSILON_OUT_OF_RANGE"
    TABLE_MALFORMED = "TABLE_MALFORMED"
    CLAIM_NOT_MET = "CLAIM_NOT_MET"
    BUDGET_MALFORMED = "BUDGET_MALFORMED"

    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    LEDGER_DAMAGED = "LEDGER_DAMAGED"
    LEDGER_MISMATCH = "LEDGER_MISMATCH"
    LEDGER_LOCKED = "LEDGER_LOCKED"

    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    NOT_IN_FIELD = "NOT_IN_FIELD"
    ACTIVATION_OUT_OF_RANGE = "ACTIVATION_OUT_OF_RANGE"
    WEIGHT_OUT_OF_RANGE = "WEIGHT_OUT_OF_RANGE"
    WOULD_WRAP = "WOULD_WRAP"
    PAD_REUSED = "PAD_REUSED"
    RANK_OUT_OF_RANGE = "RANK_OUT_OF_RANGE"
    CHECK_FAILED = "CHECK_FAILED"

    TOKEN_OUT_OF_RANGE = "TOKEN_OUT_OF_RANGE"
    PROMPT_EMPTY = "PROMPT_EMPTY"
    PROMPT_MALFORMED = "PROMPT_MALFORMED"
    CONTEXT_EXCEEDED = "CONTEXT_EXCEEDED"
    MODEL_MALFORMED = "MODEL_MALFORMED"
    MODEL_UNSUPPORTED = "MODEL_UNSUPPORTED"
    WEIGHT_NOT_FINITE = "WEIGHT_NOT_FINITE"

    FRAME_TRUNCATED = "FRAME_TRUNCATED"
    FRAME_MALFORMED = "FRAME_MALFORMED"
    FRAME_TOO_LARGE = "FRAME_TOO_LARGE"
    FRAME_UNEXPECTED = "FRAME_UNEXPECTED"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    MODEL_MISMATCH = "MODEL_MISMATCH"
    WORKER_LOST = "WORKER_LOST"
    MODE_UNAVAILABLE = "MODE_UNAVAILABLE"


class Refused(Exception):
    """Raised in place of any result; `reason` is the specified name, `detail` is for the user alone."""

    def __init__(self, reason: Refusal, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
