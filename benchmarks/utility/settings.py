"""What is measured and what is found: the rows of the table."""

from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Final

OURS: Final = ("Veil, one-sided", "Veil, two-sided")


@dataclass(frozen=True, slots=True)
class Setting:
    """One mechanism at one nominal epsilon; `matched` names the recovery that was made equal to ours at 1."""

    vectors: str
    mechanism: str
    share: float
    nominal: str
    matched: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What one setting gave: the exact epsilon is None where infinite, shares and recoveries are 0 to 1.

    The recoveries are of protected tokens. `trained_on` says on which text the classifier was trained.
    """

    setting: Setting
    trained_on: str
    exact_epsilon: float | None
    recovery_uniform: float
    recovery_weighted: float
    tokens_protected: float
    tokens_changed: float
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean accuracy over the seeds."""
        return fmean(self.accuracies)

    @property
    def spread(self) -> float:
        """Return the standard deviation over the seeds."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    def record(self) -> dict[str, object]:
        """Return the result as results.json holds it."""
        return asdict(self) | {"mean": self.mean, "spread": self.spread}


def title(setting: Setting) -> str:
    """Return the setting in a few words."""
    matched = f", {setting.matched} recovery as ours" if setting.matched else ""
    return f"{setting.vectors}, {setting.share:.0%}, {setting.mechanism}, nominal {setting.nominal}{matched}"
