"""The results as a Markdown page: tables and sentences, all from the JSON document of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fct_fast.experiment.claims import between, claims, judge
from fct_fast.experiment.maps import LOSSES
from fct_fast.report.text import amount, percent, span

__all__ = ["results_page", "row_titles"]

_CLOSED = {
    "procrustes": "orthogonal Procrustes",
    "procrustes_centred": "Procrustes, centred",
    "procrustes_whitened": "Procrustes, whitened",
    "affine": "least squares",
    "ridge": "ridge",
    "low_rank": "ridge of low rank",
}
_MAIN: dict[str, str] = {
    "naive": "new queries, old gallery",
    "old": "old queries, old gallery",
    **{name: f"{title} of old" for name, title in _CLOSED.items()},
    "residual": "linear map + small MLP of old",
    "h": "h of old",
    "h_twice": "h of old, in both branches",
    "side": "h of side-information alone",
    **{f"{name}_side": f"{title} of old and side" for name, title in _CLOSED.items()},
    "residual_side": "linear map + small MLP of old and side",
    "h_side": "**h of old and side (FCT)**",
    "new": "new queries, re-embedded gallery",
}
_QUERY = {
    "query_procrustes": "new queries mapped to the old space by Procrustes, old gallery",
    "query_ridge": "the same by ridge",
    "query_interpolation": "between the old query and the mapped new one, old gallery",
}
_RETRAINED = {
    "bct": "BCT's queries, old gallery",
    "bct_new": "BCT's queries, BCT's gallery",
    "l2": "L2's queries, old gallery",
    "l2_new": "L2's queries, L2's gallery",
    "wide": "old model of as many bytes and steps as old + side, its own gallery",
    "h_wide": "h of that model's gallery",
}
_LOSSES = {
    "h_side": "MSE",
    **{name: title for name, (title, _) in LOSSES.items()},
    "h": "MSE, without side-information",
    "h_fastfill": "FastFill, without side-information",
}
_ENCODERS = {
    "h": "none",
    "h_side": "SimCLR",
    "h_vicreg": "VICReg",
    "h_autoencoder": "autoencoder",
    "h_supervised": "a second supervised model",
    "simclr": "SimCLR's own queries and gallery, no map",
    "supervised": "the second supervised model's own queries and gallery, no map",
}
_CHAIN = {
    "chain_composed": "v1 -> v2 -> v3, the maps one after the other",
    "h_third": "v1 -> v3, fitted anew",
    "chain_true": "v2 -> v3 from a re-embedded v2 gallery",
    "third": "v3, re-embedded",
}


def row_titles() -> dict[str, str]:
    """Row -> what it is, in the order of the page."""
    found = _MAIN | _QUERY | _RETRAINED | _CHAIN | {name: _ENCODERS[name] for name in ("simclr", "supervised")}
    found |= {name: f"h of old and side, loss: {title}" for name, (title, _) in LOSSES.items()}
    found["h_fastfill"] = "h of old, loss: FastFill"
    encoders = {name: title for name, title in _ENCODERS.items() if name.startswith("h_") and name != "h_side"}
    found |= {name: f"h of old and side-information by {title}" for name, title in encoders.items()}
    return {name: title.replace("**", "") for name, title in found.items()}


def results_page(document: Mapping[str, Any]) -> str:
    """The whole page. document: what `summarise` gives, with the facts of the run ("command", "commit", ...)."""
    rows = document["rows"]
    parts = [
        "# Results: the experiment on glyphs" if document["recipe_name"] == "glyphs" else "# Results",
        _head(document),
        "## What it says\n" + "\n".join(f"- {said}" for said in claims(document)),
        "## Maps\nOld and side-information are stored, the new model asks.\n\n" + _rows_table(rows, _MAIN),
        "## Maps of the query\nThe old gallery stays; every query is mapped.\n\n" + _rows_table(rows, _QUERY),
        "## Retraining, and a wider old model\n" + _retrained(document),
        "## Paired differences\n" + _differences(document),
        "## Losses\n" + _rows_table(rows, _LOSSES),
        "## Side-information encoders\nTrained on what the old model sees, with equal steps.\n\n"
        + _rows_table(rows, _ENCODERS),
        "## Bytes of side-information\n" + _bytes(document),
        "## Number of pairs\n" + _learning(document),
        "## Partial backfill\n" + _curves(document),
        "## Flips, threshold, compatibility\n" + _safety(document),
        "## Scale of the targets\n" + _scale(document),
        "## Two upgrades in a row\n" + _rows_table(rows, _CHAIN),
        "## Cost\n" + _price(document),
        "## What was tuned\n" + _tuning(document),
    ]
    return "\n\n".join(parts) + "\n"


def _head(document: Mapping[str, Any]) -> str:
    gallery, seconds = document["gallery"], document["processor_seconds"]
    total = sum(seconds.values())
    kinds = ", ".join(f"{name} {span(value)}" for name, value in seconds.items() if value)
    seeds = ", ".join(str(seed) for seed in document["seeds"])
    lines = [
        "Written by the command below; nothing here was typed by hand.",
        "",
        "```",
        document["command"],
        "```",
        f"- Seeds {seeds}; recipe `{document['recipe_name']}`, hash `{document['recipe_hash']}`; commit "
        f"`{document['commit'] or 'unknown'}`; {', '.join(f'{k} {v}' for k, v in document['versions'].items())}.",
        f"- {amount(document['pairs'])} pairs; gallery and queries: {amount(gallery['rows'])} views of "
        f"{gallery['classes']} characters in typefaces that no model and no map was trained on ({gallery['source']}); "
        f"each query is left out of its own ranking.",
        f"- Figures are means over seeds; in brackets the {percent(document['level'], 0)} interval of the mean "
        f"(Student's t over seeds). A difference is taken within each seed.",
        f"- Processor time of all stages: {span(total)} ({kinds}); on two cores about {span(total / 2)}.",
        "- The best closed-form map is the best in this very table, which makes the bar for h higher, and that for "
        "itself lower.",
    ]
    return "\n".join(lines)


def _rows_table(rows: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    columns = ("row", "what is searched", "CMC@1", "CMC@5", "mAP", "seen", "unseen", "gap closed", "overlap@10")
    return _table(
        columns,
        (
            (
                f"`{name}`",
                title,
                _share(rows[name]["cmc1"]),
                _share(rows[name]["cmc5"]),
                _share(rows[name]["map"], interval=True),
                _share(rows[name]["map_seen"]),
                _share(rows[name]["map_unseen"]),
                percent(rows[name]["gap"]["mean"], 0),
                _share(rows[name]["overlap"]) if "overlap" in rows[name] else "",
            )
            for name, title in titles.items()
        ),
        left=2,
    )


def _retrained(document: Mapping[str, Any]) -> str:
    bct, l2 = document["recipe"]["bct"], document["recipe"]["l2"]
    head = "with rows for the new classes" if bct["extended"] else "of the classes that it knows"
    return (
        f"BCT (weight {bct['weight']:g}, old classifier {head}) and L2 (weight {l2['weight']:g}) have the free new "
        f"model's data, steps, batch size and first weights.\n\n" + _rows_table(document["rows"], _RETRAINED)
    )


def _differences(document: Mapping[str, Any]) -> str:
    columns = ("a - b", "mAP points, interval over seeds", "bootstrap over classes", "")
    return _table(
        columns,
        (
            (
                f"`{found['a']}` - `{found['b']}`",
                between(found),
                f"[{100 * found['bootstrap'][0]:+.1f}, {100 * found['bootstrap'][1]:+.1f}]",
                {"shown": "above", "refuted": "below", "open": "open"}[judge(found)],
            )
            for found in document["differences"]
        ),
    )


def _bytes(document: Mapping[str, Any]) -> str:
    rows, stored, codecs = document["rows"], document["side_bytes"], document["recipe"]["codecs"]
    names = {"h": "none", "h_side": "float32", **{f"h_side@{codec}": codec for codec in codecs}}
    none, full = rows["h"]["map"]["mean"], rows["h_side"]["map"]["mean"]
    columns = ("codec", "bytes an item", "mAP", "gap closed", "of what side-information wins")
    table = _table(
        columns,
        (
            (
                title,
                str(stored[name]),
                _share(rows[name]["map"], interval=True),
                percent(rows[name]["gap"]["mean"], 0),
                percent((rows[name]["map"]["mean"] - none) / (full - none), 0) if full != none else "-",
            )
            for name, title in sorted(names.items(), key=lambda item: stored[item[0]])
        ),
    )
    return f"h is fitted on what the codec decodes. The old embedding beside it takes float32.\n\n{table}"


def _learning(document: Mapping[str, Any]) -> str:
    rows, counts = document["rows"], document["recipe"]["learning"]
    columns = ("pairs", "ridge of old and side", "h of old and side")
    lines = [
        (amount(n), *(_share(rows[f"{m}_side@{n}"]["map"], interval=True) for m in ("ridge", "h"))) for n in counts
    ]
    total = amount(document["pairs"])
    lines.append((total, *(_share(rows[f"{m}_side"]["map"], interval=True) for m in ("ridge", "h"))))
    return "mAP; pairs drawn at random. Each fit sees as many rows, in more epochs where there are fewer.\n\n" + _table(
        columns, lines
    )


def _curves(document: Mapping[str, Any]) -> str:
    titles = {
        "h_side": "h with side-information (MSE)",
        "h_side_fastfill": "h with side-information, FastFill's losses",
        "h_fastfill": "h without side-information, FastFill's losses",
    }
    parts = [
        "A row is served upgraded until it is re-embedded. AUC: plain mean over "
        f"{document['recipe']['points']} points from nothing to everything re-embedded."
    ]
    for gallery, title in titles.items():
        orders = document["curves"][gallery]
        columns = ("order", "AUC of CMC@1", "AUC of mAP", "above random", "mAP at 0 %", "25 %", "50 %", "75 %", "100 %")
        table = _table(
            columns,
            (
                (
                    name.replace("_", " "),
                    _share(curve["auc"]["cmc1"]),
                    _share(curve["auc"]["map"], interval=True),
                    "" if name == "random" else between(curve["above_random"]),
                    *(percent(_at(curve, share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
                )
                for name, curve in sorted(orders.items(), key=lambda item: -item[1]["auc"]["map"]["mean"])
            ),
        )
        parts.append(f"**{title}**\n\n{table}")
    return "\n\n".join(parts)


def _at(curve: Mapping[str, Any], share: float) -> float:
    """mAP at a share re-embedded, between two points."""
    shares, values = curve["shares"], curve["map"]
    for i in range(1, len(shares)):
        if share <= shares[i]:
            part = (share - shares[i - 1]) / (shares[i] - shares[i - 1])
            return float(values[i - 1] + part * (values[i] - values[i - 1]))
    return float(values[-1])


def _safety(document: Mapping[str, Any]) -> str:
    flips = _table(
        ("from old/old to", "negative flips", "positive flips"),
        (
            (f"`{name}`", _share(row["negative"], interval=True), _share(row["positive"], interval=True))
            for name, row in document["flips"].items()
        ),
    )
    points = {"before": "old space", "kept": "upgraded, the same threshold", "after": "upgraded, set anew"}
    threshold = _table(
        ("space", "cosine threshold", "wrong pairs accepted", "right pairs accepted"),
        (
            (
                title,
                f"{document['threshold'][name]['threshold']['mean']:.3f}",
                percent(document["threshold"][name]["fpr"]["mean"], 2),
                percent(document["threshold"][name]["tpr"]["mean"]),
            )
            for name, title in points.items()
        ),
    )
    spaces = document["matrix"]["spaces"]
    matrix = _table(
        ("mAP: queries \\ gallery", *spaces),
        (
            (name, *(percent(value) for value in line))
            for name, line in zip(spaces, document["matrix"]["map"], strict=True)
        ),
    )
    return f"{flips}\n\n{threshold}\n\n{matrix}"


def _scale(document: Mapping[str, Any]) -> str:
    titles = {
        "h_side": "as they are",
        "h_side@unit": "of norm 1",
        "h_side@rescaled": f"times {document['recipe']['rescale']:g}",
    }
    rows = document["rows"]
    return _table(
        ("targets", "mAP", "each seed"),
        (
            (
                title,
                _share(rows[name]["map"], interval=True),
                ", ".join(f"{100 * value:.2f}" for value in rows[name]["map"]["values"]),
            )
            for name, title in titles.items()
        ),
    )


def _price(document: Mapping[str, Any]) -> str:
    price = document["price"]
    table = _table(
        ("of one item", "FLOP", "bytes read", "bytes written"),
        (
            (title, *(amount(price[kind][name]) for name in ("flops", "bytes_read", "bytes_written")))
            for title, kind in (("upgrade by h", "upgrade"), ("re-embed from its picture", "re_embed"))
        ),
    )
    return (
        f"The networks of this experiment are tiny, so h is only {price['flops_ratio']:.1f} times cheaper in FLOP than "
        f"re-embedding and reads {price['bytes_read_ratio']:.1f} times fewer bytes; a real backbone and its pictures "
        f"are larger by orders of magnitude, and h is not. Side-information adds {amount(price['side_bytes'])} bytes "
        f"to the {amount(price['stored_before'] - price['side_bytes'])} of a stored item.\n\n{table}"
    )


def _tuning(document: Mapping[str, Any]) -> str:
    tried = document["tuning"]
    if tried is None:
        return "Nothing."
    recipe = document["recipe"]
    lines = []
    for kind in ("bct", "l2"):
        for row in tried[kind]:
            value = f"weight {row['weight']:g}" + (", extended classifier" if row["extended"] else "")
            chosen = (row["weight"], row["extended"]) == (recipe[kind]["weight"], recipe[kind]["extended"])
            lines.append((kind.upper(), value, percent(row["map"]), percent(row["map_new"]), "yes" if chosen else ""))
    for row in tried["h"]:
        chosen = row["lr"] == recipe["base"]["fit"]["lr"]
        lines.append(("h with side", f"lr {row['lr']:g}", percent(row["map"]), "", "yes" if chosen else ""))
    table = _table(("what", "value", "mAP of new queries", "control's own gallery", "in the recipe"), lines, left=2)
    return (
        f"On the validation typefaces, with seed {recipe['tuning']['seed']}. A control is chosen by the mAP of its "
        f"queries on the old gallery, h by that of the upgraded one; all else of h is the demo's recipe.\n\n{table}"
    )


def _share(found: Mapping[str, Any], *, interval: bool = False) -> str:
    """A statistic of a share: "48.1 %", with its interval "48.1 [47.0, 49.2]"."""
    if not interval or found["low"] is None:
        return percent(found["mean"])
    return f"{100 * found['mean']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]], *, left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *lines))
