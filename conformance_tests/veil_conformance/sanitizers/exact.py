"""Mode exact: the law that a sanitizer exposes against its claim, and its sampler against that law."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

from veil_conformance.sanitizers import chances, laws
from veil_conformance.sanitizers.laws import Law, NoLaw, symbol
from veil_conformance.sanitizers.settings import Plan, Settings, coverage, looked_at, plan
from veil_conformance.sanitizers.subject import Subject
from veil_conformance.sanitizers.verdicts import Finding, Verdict, concluded

MODE: Final = "exact"
SAMPLED: Final = 6
"""Most tokens whose outputs are compared with their law: the worst pair, then in the order of the parts."""
Laws = Mapping[str, Law]
Worst = tuple[Fraction | None, str, str, str]
"""The largest ratio, None where it is infinite, with its token, its neighbour and its output."""


def audit(subject: Subject, settings: Settings) -> Verdict:
    """Return what the exposed law says about the claim. Raises: Crashed."""
    if "law" not in subject.description.offers:
        return Verdict(MODE, "NOT EXPOSED", "the sanitizer exposes no law")
    parts = looked_at(subject, settings)
    found: dict[str, Law] = {}
    try:
        for token in (token for part in parts for token in part):
            found[token] = laws.parse(subject.law(token))
    except NoLaw as error:
        broken = Finding("law", True, f"the law of {token!r} is no distribution: {error}", f"token {token!r}")
        return concluded(MODE, [broken], 0, 0.0)
    worst = _worst(parts, found)
    sampled = _sampled(subject, settings, found, worst)
    findings = [_epsilon(subject, parts, worst), *sampled]
    return concluded(MODE, findings, subject.drawn, settings.false_rejection)


def _worst(parts: Sequence[Sequence[str]], found: Laws) -> Worst:
    """Return the largest P(y | x) / P(y | x') of adjacent tokens; the first infinite one if there is any."""
    best: tuple[Fraction, str, str, str] | None = None
    for part in parts:
        for output in dict.fromkeys(output for token in part for output in found[token].chances):
            column = [(found[token].chances.get(output, laws.ZERO), token) for token in part]
            (low, other), (high, token) = min(column), max(column)
            if low == 0 < high:
                return None, token, other, output
            if high and (best is None or high > best[0] * low):
                best = high / low, token, other, output
    if best is None:
        raise ValueError("no two tokens to compare")
    return best


def _epsilon(subject: Subject, parts: list[list[str]], worst: Worst) -> Finding:
    ratio, token, other, output = worst
    claim, covered = subject.description.epsilon, coverage(subject, parts)
    witness = f"{token!r} against {other!r}, output {output}"
    if ratio is None:
        reason = f"epsilon is infinite: output {output} is possible for {token!r} and not for {other!r}"
        return Finding("support", True, reason, witness, {"claim": claim, "exact": "infinite"})
    exact = laws.natural_log(ratio)
    figures = {"claim": claim, "exact": f"{exact:.6f}", "ratio": _brief(ratio), "tokens": covered}
    if laws.exceeds(ratio, subject.description.claim):
        reason = f"exact epsilon {exact:.6f} is above the claim {claim}"
        return Finding("exact epsilon", True, reason, witness, figures)
    power = f"exact epsilon {exact:.6f} over {covered}: any excess would show"
    return Finding("exact epsilon", False, f"exact epsilon {exact:.6f}", witness, figures, power)


def _brief(ratio: Fraction) -> str:
    text = f"{ratio.numerator}/{ratio.denominator}"
    return text if len(text) <= 60 else f"a rational of {len(text)} characters"


def _sampled(subject: Subject, settings: Settings, found: Laws, worst: Worst) -> list[Finding]:
    tokens = list(dict.fromkeys([worst[1], worst[2], *found]))[:SAMPLED]
    drawing, level = plan(subject, settings), settings.false_rejection / len(tokens)
    return [_follows(subject, token, found[token], drawing, len(tokens), level) for token in tokens]


def _follows(subject: Subject, token: str, law: Law, drawing: Plan, tokens: int, level: float) -> Finding:
    """Return whether the outputs for a token follow its exposed law: a G-test with a bound for every n."""
    trials = drawing.draws // tokens
    counts = Counter(map(symbol, subject.sample(token, trials, drawing.chunk)))
    expected = {output: float(chance) for output, chance in law.chances.items() if chance}
    statistic, p_value = chances.relative_entropy_p_value(counts, expected)
    likely = max(expected.values())
    shift = chances.detectable_shift(likely, trials, len(expected), level)
    figures: dict[str, str | int | float] = {
        "outputs": trials,
        "G": f"{statistic:.4g}",
        "p at most": f"{p_value:.3g}",
        "level": level,
    }
    power = f"no shift for {token!r} can show in {trials} outputs"
    if shift is not None:
        power = f"a shift of {shift:.4f} in a probability of {likely:.3f} for {token!r} would show"
    reason = f"the outputs for {token!r} do not follow the exposed law: G {statistic:.4g} in {trials} outputs"
    check = "sampler follows law"
    rejects = p_value <= level
    return Finding(check, rejects, reason if rejects else "", f"token {token!r}", figures, power)
