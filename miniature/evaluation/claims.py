"""The papers' orderings, each as a comparison of two rows of the report."""

from dataclasses import dataclass

import numpy as np

from .methods import AGAIN, METHODS, SHORT_F2D, SHORT_FACT, SHORT_INF


@dataclass(frozen=True)
class Claim:
    """`better` shall exceed `worse` in `score`, or the other way round where `less`."""

    text: str
    better: str
    worse: str
    score: str
    less: bool = False


TOO_NEAR = "no verdict: three digits are too few"
_FACT, _F2D, _INF = SHORT_FACT, SHORT_F2D, "Infinite-ID"
_DEEP, _MULTI = "ArcFace, deepest layer", "ArcFace, multi-scale"
CLAIMS = (
    Claim("FACT: FAIR keeps the background", _FACT, "FACT without FAIR", "background", less=True),
    Claim("FACT: shuffle brings diversity of expressions", _FACT, "FACT without shuffle", "expression_diversity"),
    Claim("FACT: shuffle brings diversity of poses", _FACT, "FACT without shuffle", "pose_diversity"),
    Claim("Table 3: multi-scale features carry more identity", _MULTI, _DEEP, "identity"),
    Claim("Table 3: MSID's harmonic mean above ArcFace's", _F2D, _DEEP, "harmonic"),
    Claim("Table 3: MSID follows the text better than multi-scale ArcFace", _F2D, _MULTI, "text"),
    Claim("Table 4: expression guidance helps the text", _F2D, "without expression guidance", "text"),
    Claim("Table 5: CGDR follows the text better than reconstruction", _F2D, "reconstruction", "text"),
    Claim("Table 5: CGDR follows the text better than masked reconstruction", _F2D, "masked reconstruction", "text"),
    Claim("Table 5: CGDR's harmonic mean above reconstruction with DSC", _F2D, "reconstruction with DSC", "harmonic"),
    Claim("identity-enhanced training carries more identity", SHORT_INF, "identity training with text", "identity"),
    Claim("without mixed attention the text suffers", _INF, "without mixed attention", "text"),
    Claim("mutual attention loses identity", _INF, "mutual attention", "identity"),
    Claim("AdaIN-mean keeps more identity than AdaIN", "drawings, AdaIN-mean", "drawings, AdaIN", "identity"),
    Claim("FaceA: learned rows carry identity (Table 2)", "FaceA", "FaceA without learned rows", "identity"),
    Claim("FaceA: the attribute loss does", "FaceA without learned rows", "FaceA, decoupling only", "identity"),
    Claim("AdaIN-mean brings more style than none", "drawings, AdaIN-mean", "drawings, no AdaIN", "text"),
)


def verdict(claim: Claim, rows: dict[str, dict]) -> tuple[str, str]:
    """Return what was measured for a claim, and whether it is reproduced: by more than twice its deviation.

    rows: of the report, by name. One seed has no deviation (NaN), of which no difference can be said to be more. Where
    the digits that a row was kept with do not decide, there is no verdict.
    """
    if not is_measured(claim, rows):
        return "", "not measured"
    gain, least = difference(claim, rows)
    figures = "{} {:.3f} against {:.3f}".format(claim.score, *_compare(claim, rows))
    if abs(abs(gain) - least) <= rounding(claim, rows):
        return figures, TOO_NEAR
    if not abs(gain) > least:
        return figures, "no difference"
    return figures, "reproduced" if gain > 0 else "not reproduced"


def is_measured(claim: Claim, rows: dict[str, dict]) -> bool:
    """Return whether both rows of a claim are there."""
    return {claim.better, claim.worse} <= rows.keys()


def difference(claim: Claim, rows: dict[str, dict]) -> tuple[float, float]:
    """Return by how much `better` is better in a claim's score, and the least difference that counts."""
    first, second = _compare(claim, rows)
    seeds = (rows[name].get(f"{claim.score}_deviation") or 0.0 for name in (claim.better, claim.worse))
    adapters = {method.name: method.adapter for method in METHODS}
    apart = adapters.get(claim.better) != adapters.get(claim.worse)
    noise = np.max([*seeds, between_trainings(claim.score, rows) if apart else 0.0])
    return second - first if claim.less else first - second, 2 * float(noise)


def rounding(claim: Claim, rows: dict[str, dict]) -> float:
    """Return by how much a difference and what counts may be off together: 0 where no row of a claim is rounded.

    A row with "digits" was kept with so many after the point; each score is off by half of the last at most, and so is
    the deviation, which counts twice.
    """
    digits = [rows[name]["digits"] for name in (claim.better, claim.worse) if "digits" in rows[name]]
    return sum(0.5 * 10.0**-count for count in digits) + (10.0 ** -min(digits) if digits else 0.0) + 1e-9 * len(digits)


def _compare(claim: Claim, rows: dict[str, dict]) -> tuple[float, float]:
    return rows[claim.better][claim.score], rows[claim.worse][claim.score]


def between_trainings(score: str, rows: dict[str, dict]) -> float:
    """Return the deviation of a score between two trainings, by Face2Diffusion's; 0 where it was trained once only."""
    again = [rows[name][score] for name in (SHORT_F2D, AGAIN) if name in rows]
    return float(np.std(again, ddof=1)) if len(again) > 1 else 0.0
