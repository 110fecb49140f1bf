"""What the audited model is asked, and what the page says in words. All of it is made up for this purpose."""

from typing import Final

PROMPTS: Final = (
    "What is the capital of France, and why is it famous?",
    "Write a short note to my doctor about a headache that will not go away.",
    "Explain to a child why the sky is blue.",
    "Give me three ideas for a quiet weekend with my parents.",
)
"""At least four, each answered with masked layers."""

PRIVATE_LETTER: Final = """Dear Dr. Okafor,

I am writing before our appointment on Thursday because some of this is hard to say aloud. Since the
beginning of March I have woken almost every night at three with a pressure behind my left eye, and
twice my hand went numb for about ten minutes. My mother had her first stroke at forty-nine, which is
why I keep thinking about it. I have not told my employer anything. If the insurance company asks,
please answer only what the law requires.

You also asked what I take. It is forty milligrams of the blue tablets in the morning, half a sleeping
pill at night, and, since the divorce, more wine than I admitted on the form: usually a bottle between
Friday and Sunday. I stopped the antidepressant in January without asking you. I am sorry; it made me
feel as if I were watching my own life from the next room.

There is one more thing. The letter from the clinic in Geneva says that the test for the gene was
positive. My brother does not know yet, and his daughter was born in April. I would like you to tell me
how other families have done this, because I rehearse the sentence every day and never finish it. My
lawyer, Hanna Lindqvist, has a sealed copy of the result and the number of the account that pays for the
treatment, so nothing has to go through the post.

Please call me on the private line after six, not at the office. If Martin answers, say that it is about
the piano.

With thanks, and with more fear than I usually show,
Eleanor Whitcombe
"""
"""One prompt of more than 300 tokens, the target of the attacks: invented, of the kind that must not leak."""

PROTECTED: Final = (
    (
        "Under profile `pad`, what a worker is sent tells it no more about the prompt, the response or any "
        "value inside the model than lengths, shapes and timing do, whether it follows the protocol or not. "
        "This rests on ChaCha20: a worker that could tell its words from random ones might learn more.",
        ("RMO-G1", "RMO-G2", "RMO-G3", "TAP-G1", "pad-hides", "recorded-letter", "no-mask-twice"),
    ),
    (
        "Profile `lwe` hides as much without a minter that reads weights, if learning with errors is hard "
        "at the stated parameters. Layers for which it is not secure or does not pay are refused.",
        ("RMO-G6", "RMO-G7", "lwe-hides", "every-attack-was-tried"),
    ),
    (
        "A wrong answer from the worker is caught before it is used, except with a probability of at most "
        "2^-64 a check; the epoch then ends without a word to it.",
        ("INT-G1", "check-soundness", "workers-that-lie"),
    ),
    (
        "Masking changes no result: the masked model gives the bits of the plain integer model.",
        ("MDL-G1", "RMO-G4", "FXP-G1", "products-fit", "masked-equals-plain", "optimized-equals-reference"),
    ),
    (
        "A sanitizer's certificate promises no more than its noise gives; its exact figure is computed.",
        ("NMX-G1", "certificate"),
    ),
)
"""(statement, the claims that it rests on)."""

NOT_PROTECTED: Final = (
    (
        "The worker sees the model, all shapes, the order and time of every call, and the lengths of prompt "
        "and response.",
        ("frames-follow-lengths",),
    ),
    (
        "Profile `rank`, the published one, gives the prompt away. It is opt-in, for comparison.",
        ("RMO-G5", "rank-is-read", "real-rank-is-read", "recorded-letter"),
    ),
    (
        "The enclave is taken on trust: this edition has no attestation, and side channels of the machine "
        "that runs it are outside.",
        (),
    ),
    (
        "With both processes on one machine, as in this audit and in `veil generate` without `--worker`, the "
        "worker's operating system is the enclave's. The separation shows the protocol and protects nothing.",
        (),
    ),
    (
        "In this audit the auditing process itself plays the enclave.",
        (),
    ),
    (
        "The stream between enclave and worker is neither encrypted nor authenticated; whoever is on the "
        "path can end an epoch.",
        (),
    ),
    (
        "The weights are known to enclave and worker alike; whoever has what an enclave holds can solve for "
        "them.",
        ("weights-are-with-the-enclave",),
    ),
    (
        "The certificate below is about a toy table with invented scores; no text is sanitized here.",
        (),
    ),
)
"""The same, for what stays visible or is assumed."""
