"""What the numbers say, in sentences that follow from them: what is shown, what is shown not to be, what is open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fct_fast.report.text import percent

__all__ = ["Verdict", "between", "claims", "judge", "order_holds"]

Verdict = Literal["shown", "refuted", "open"]
SAME = 0.005  # half a point of mAP counts as the same in the scale check
FASTFILL = 0.01  # what FastFill's order must win on a random one

_ORDER = (("best", "old"), ("h", "best"), ("h_side", "h"), ("new", "h_side"))


def judge(found: Mapping[str, Any], least: float = 0.0) -> Verdict:
    """Whether a statistic is above `least`: "shown" where its interval lies above, "refuted" where it lies below, else
    "open", which it is for a single seed too."""
    if found["low"] is None:
        return "open"
    if found["low"] > least:
        return "shown"
    return "refuted" if found["high"] < least else "open"


def between(found: Mapping[str, Any]) -> str:
    """A difference of mAP in points with its interval: "+3.1 [+2.5, +3.7]"."""
    mean = f"{100 * found['mean']:+.1f}"
    return mean if found["low"] is None else f"{mean} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def order_holds(document: Mapping[str, Any]) -> bool:
    """old < best closed form without side-information < h < h with side-information < new, each step shown."""
    return all(judge(_difference(document, a, b)) == "shown" for a, b in _ORDER)


def claims(document: Mapping[str, Any]) -> list[str]:
    """One sentence or two for each question of the experiment. Differences are points of mAP, with the interval over
    seeds."""
    said = [*_order(document), *_inputs(document), *_controls(document), *_losses(document), *_encoders(document)]
    said += [*_bytes(document), *_orders(document), *_safety(document), *_scale(document), *_chain(document)]
    if len(document["seeds"]) < 2:
        said.insert(0, "This is a single seed: there are no intervals, and nothing is shown.")
    return said


def _difference(document: Mapping[str, Any], a: str, b: str) -> Mapping[str, Any]:
    a, b = (document["best"] if name == "best" else name for name in (a, b))
    for found in document["differences"]:
        if (found["a"], found["b"]) == (a, b):
            pair: Mapping[str, Any] = found
            return pair
    raise KeyError((a, b))


def _told(document: Mapping[str, Any], a: str, b: str) -> tuple[str, Verdict]:
    found = _difference(document, a, b)
    return between(found), judge(found)


def _order(document: Mapping[str, Any]) -> list[str]:
    names = {"best": f"the best closed-form map without side-information ({document['best']})", "old": "old/old"}
    names |= {"h": "h without side-information", "h_side": "h with side-information", "new": "new/new"}
    said = []
    for a, b in _ORDER:
        points, verdict = _told(document, a, b)
        how = {"shown": "is above", "refuted": "is BELOW", "open": "is not shown to be above"}[verdict]
        said.append(f"{_capital(names[a])} {how} {names[b]}: {points} points of mAP.")
    if order_holds(document):
        said.append("So the order old/old < best closed form < h < h with side-information < new/new holds.")
    else:
        said.append(
            "So the order old/old < best closed form < h < h with side-information < new/new does not hold as a whole."
        )
    gap = document["rows"]["h_side"]["gap"]["mean"], document["rows"]["h"]["gap"]["mean"]
    said.append(
        f"Of what re-embedding would win in mAP, h with side-information brings {percent(gap[0], 0)} and h without "
        f"{percent(gap[1], 0)}."
    )
    return said


def _inputs(document: Mapping[str, Any]) -> list[str]:
    return [
        f"Side-information alone reaches {_map(document, 'side')} mAP; the old embedding beside it "
        f"{_adds(document, 'h_side', 'side', 'it')}. The network {_adds(document, 'h_side', 'ridge_side')}, the linear "
        f"map of the same inputs, and {_adds(document, 'h_side', 'residual_side')}, the small residual network.",
        f"The old embedding in both branches of h, the paper's control for the number of weights, "
        f"{_adds(document, 'h_twice', 'h')}, which has one branch.",
        f"An old model of as many bytes an item, and trained for as many steps, as old and side-information together "
        f"reaches {_map(document, 'wide')} mAP on its own and {_map(document, 'h_wide')} mapped by h; FCT "
        f"{_compares(document, 'h_side', 'wide', 'the first')} and "
        f"{_compares(document, 'h_side', 'h_wide', 'the second')}.",
    ]


def _controls(document: Mapping[str, Any]) -> list[str]:
    said = [
        f"{title}: its queries reach {_map(document, name)} mAP on the untouched old gallery, which "
        f"{_compares(document, name, 'old', 'old/old')}; FCT's upgraded gallery "
        f"{_compares(document, 'h_side', name, 'it')}. As queries and gallery it reaches "
        f"{_map(document, f'{name}_new')}, which {_compares(document, f'{name}_new', 'new', 'the free new model')}; "
        f"FCT leaves that one as it is."
        for name, title in (("bct", "BCT"), ("l2", "L2 to the old embedding"))
    ]
    said.append(
        f"Interpolation of the old query and the mapped new one, which runs both models at query time, "
        f"{_compares(document, 'query_interpolation', 'old', 'old/old')}; FCT "
        f"{_compares(document, 'h_side', 'query_interpolation', 'it')}."
    )
    return said


def _losses(document: Mapping[str, Any]) -> list[str]:
    names = ("h_side_disc", "h_side_uncertainty", "h_side_fastfill", "h_side_l1", "h_side_cosine", "h_side_infonce")
    titles = ("the discriminative term", "uncertainty", "both (FastFill)", "L1", "cosine", "InfoNCE")
    told = [f"{title} {_told(document, name, 'h_side')[0]}" for name, title in zip(names, titles, strict=True)]
    return [f"Losses, beside MSE: {', '.join(told)} points of mAP."]


def _encoders(document: Mapping[str, Any]) -> list[str]:
    names = {"h_side": "SimCLR", "h_vicreg": "VICReg", "h_autoencoder": "an autoencoder"}
    names |= {"h_supervised": "a second supervised model"}
    best = max(names, key=lambda name: float(document["rows"][name]["map"]["mean"]))
    told = [f"{title} {_map(document, name)}" for name, title in names.items()]
    said = f"Side-information by {', '.join(told)} mAP; the best is {names[best]}."
    without = document["rows"]["h"]["map"]["mean"]
    worse = [title for name, title in names.items() if document["rows"][name]["map"]["mean"] <= without]
    return [said + (f" No better than none: {', '.join(worse)}." if worse else "")]


def _bytes(document: Mapping[str, Any]) -> list[str]:
    rows, stored = document["rows"], document["side_bytes"]
    none, full = rows["h"]["map"]["mean"], rows["h_side"]["map"]["mean"]
    if full <= none:
        return ["Compression: side-information wins nothing here, so there is nothing to keep."]
    kept = {
        name: (rows[name]["map"]["mean"] - none) / (full - none)
        for name in rows
        if name.startswith("h_side@") and name.removeprefix("h_side@") in document["recipe"]["codecs"]
    }
    enough = [name for name, share in kept.items() if share >= 0.9]
    if not enough:
        return ["Compression: no codec keeps 90 % of what side-information wins."]
    least = min(enough, key=lambda name: (stored[name], -kept[name]))
    return [
        f"Compression: {least.removeprefix('h_side@')} keeps {percent(kept[least], 0)} of what side-information wins "
        f"over none, in {stored[least]} bytes an item in place of {stored['h_side']}."
    ]


def _orders(document: Mapping[str, Any]) -> list[str]:
    said = []
    for gallery, title in (("h_side_fastfill", "with"), ("h_fastfill", "without")):
        orders = document["curves"][gallery]
        found = orders["uncertainty"]["above_random"]
        how = {
            "shown": "at least 1 point above",
            "refuted": "NOT 1 point above",
            "open": "not shown to be 1 point above",
        }[judge(found, FASTFILL)]
        others = {name: curve["above_random"] for name, curve in orders.items() if name != "random"}
        told = ", ".join(f"{name.replace('_', ' ')} {between(value)}" for name, value in others.items())
        said.append(
            f"Partial backfill {title} side-information: the AUC of mAP in FastFill's order is {how} that of a random "
            f"order. Above random: {told} points."
        )
    return said


def _safety(document: Mapping[str, Any]) -> list[str]:
    flips = document["flips"]
    lost, won = flips["h_side"]["negative"]["mean"], flips["h_side"]["positive"]["mean"]
    kept = document["threshold"]
    return [
        f"Flips: the upgrade breaks {percent(lost)} of the queries (right before, wrong after, at rank 1) and repairs "
        f"{percent(won)}; re-embedding breaks {percent(flips['new']['negative']['mean'])} and repairs "
        f"{percent(flips['new']['positive']['mean'])}.",
        f"Threshold: the one that accepts {percent(kept['before']['fpr']['mean'], 2)} of wrong pairs in the old space "
        f"accepts {percent(kept['kept']['fpr']['mean'], 2)} after the upgrade; set anew, it finds "
        f"{percent(kept['after']['tpr']['mean'])} of the right pairs, before {percent(kept['before']['tpr']['mean'])}.",
    ]


def _scale(document: Mapping[str, Any]) -> list[str]:
    names = ("h_side@unit", "h_side@rescaled")
    most = max(abs(value) for name in names for value in _difference(document, name, "h_side")["values"])
    holds = "holds" if most <= SAME else "does NOT hold"
    return [
        f"Scale: targets of norm 1 and targets times {document['recipe']['rescale']:g} change mAP by at most "
        f"{100 * most:.2f} points in any seed; the promise of 0.5 points {holds}."
    ]


def _chain(document: Mapping[str, Any]) -> list[str]:
    points, verdict = _told(document, "chain_composed", "h_third")
    how = {"shown": "better than", "refuted": "worse than", "open": "not shown to differ from"}[verdict]
    return [
        f"Two upgrades in a row, v1 -> v2 -> v3, by composed maps reach {_map(document, 'chain_composed')} mAP, by h "
        f"fitted anew from v1 and its side-information {_map(document, 'h_third')}: composing is {how} fitting anew "
        f"({points}). Re-embedding reaches {_map(document, 'third')}."
    ]


def _map(document: Mapping[str, Any], name: str) -> str:
    return percent(document["rows"][name]["map"]["mean"])


def _adds(document: Mapping[str, Any], a: str, b: str, to: str = "") -> str:
    points, verdict = _told(document, a, b)
    to = to or f"`{b}`"
    if verdict == "open":
        return f"adds nothing that is shown to {to} ({points})"
    return f"adds to {to} ({points})" if verdict == "shown" else f"TAKES from {to} ({points})"


def _compares(document: Mapping[str, Any], a: str, b: str, to: str) -> str:
    points, verdict = _told(document, a, b)
    how = {"shown": "is above", "refuted": "is BELOW", "open": "is not shown to differ from"}[verdict]
    return f"{how} {to} ({points})"


def _capital(text: str) -> str:
    return text if text.startswith("h ") else text[:1].upper() + text[1:]  # h is a name
