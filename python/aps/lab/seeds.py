"""Figures over seeds: mean, lowest, highest and confidence interval of every number, and paired differences."""

from collections.abc import Iterator, Mapping, Sequence
from math import expm1
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Keys = tuple[str | int, ...]  # from the root of nested plain data to a leaf

CONFIDENCE = 0.95
COUNTERS = ("refused", "released")  # a reason that a run does not name happened 0 times


def over_seeds(trees: Sequence[Any]) -> Any:
    """Trees of one shape as one, with {"mean", "low", "high", "ci95", "n"} for each number; None where none is known.

    n: the trees in which the number is known; low, high: of those. ci95: [low, high] of the mean by Student's t; None
    for n = 1. Of text, what all have in common is kept.
    """
    paths, table = _table(trees)
    leaves: dict[Keys, Any] = dict(zip(paths, interval(table), strict=True))
    rest = [{keys: leaf for keys, leaf in _leaves(tree) if not _counts(leaf)} for tree in trees]
    same = {keys: leaf for keys, leaf in rest[0].items() if all(other.get(keys) == leaf for other in rest)}
    return _tree({**leaves, **same})


def differences(trees: Sequence[Any], base: Sequence[Any]) -> list[dict[str, Any]]:
    """What `trees` have more than `base`, pair by pair, for each number that both know in at least one pair.

    [{"figure", "keys", "baseline", "mean", "difference", "relative"}]: the figure's keys (joined by dots too), the
    means of both, and {"mean", "low", "high", "ci95", "n"} of the paired differences; relative: the ratio of each pair
    less 1, with the geometric mean and its interval; None unless all numbers are above 0.
    """
    paths, ours = _table(trees)
    base_paths, theirs = _table(base)
    column = {keys: at for at, keys in enumerate(base_paths)}
    shared = [at for at, keys in enumerate(paths) if keys in column]
    ours, theirs = ours[:, shared], theirs[:, [column[paths[at]] for at in shared]]
    known = ~(np.isnan(ours) | np.isnan(theirs))
    both = np.any(known, axis=0)
    ours, theirs, known = ours[:, both], theirs[:, both], known[:, both]
    above = known & ~(known & (np.minimum(ours, theirs) <= 0)).any(axis=0)
    logs = np.log(np.where(above, ours, np.nan)) - np.log(np.where(above, theirs, np.nan))
    means = (np.where(known, table, 0.0).sum(axis=0) / known.sum(axis=0) for table in (theirs, ours))
    columns = (*(mean.tolist() for mean in means), interval(ours - theirs), map(_ratio, interval(logs)))
    names = [paths[at] for at, known_once in zip(shared, both.tolist(), strict=True) if known_once]
    return [
        {
            "figure": ".".join(map(str, keys)),
            "keys": list(keys),
            "baseline": before,
            "mean": after,
            "difference": difference,
            "relative": ratio,
        }
        for keys, before, after, difference, ratio in zip(names, *columns, strict=True)
    ]


def interval(table: Floats) -> list[dict[str, Any] | None]:
    """Of each column of (seeds, numbers): {"mean", "low", "high", "ci95", "n"} of what is not NaN; None: nothing is."""
    from scipy.special import stdtrit  # the quantile of Student's t

    known = ~np.isnan(table)
    n = known.sum(axis=0)
    divisor = np.maximum(n, 1)
    mean = np.where(known, table, 0.0).sum(axis=0) / divisor
    squares = np.where(known, (table - mean) ** 2, 0.0).sum(axis=0)
    several = n > 1
    freedom = np.where(several, n - 1, 1)
    half = stdtrit(freedom, 0.5 + CONFIDENCE / 2) * np.sqrt(squares / freedom / divisor)
    low, high = (np.where(known, table, fill) for fill in (np.inf, -np.inf))
    columns = (n, mean, low.min(axis=0), high.max(axis=0), mean - half, mean + half)
    return [
        {"mean": m, "low": lo, "high": hi, "ci95": [least, most] if count > 1 else None, "n": count} if count else None
        for count, m, lo, hi, least, most in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _ratio(logs: dict[str, Any] | None) -> dict[str, Any] | None:
    """What an interval of logarithms of ratios is as ratios less 1."""
    if logs is None:
        return None
    ends = {name: expm1(logs[name]) for name in ("mean", "low", "high")}
    return {**ends, "ci95": logs["ci95"] and [expm1(end) for end in logs["ci95"]], "n": logs["n"]}


def _counts(leaf: Any) -> bool:
    """Whether a leaf is a number, or stands for one."""
    return leaf is None or isinstance(leaf, int | float)


def _leaves(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Everything that is neither a list nor a group with something in it."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*keys, key))
    elif isinstance(tree, list):
        for at, value in enumerate(tree):
            yield from _leaves(value, (*keys, at))
    else:
        yield keys, tree


def _table(trees: Sequence[Any]) -> tuple[list[Keys], Floats]:
    """The numbers of all trees: their keys, and (trees, numbers) with NaN for those that a tree lacks."""
    leaves = [{keys: leaf for keys, leaf in _leaves(tree) if _counts(leaf)} for tree in trees]
    every = dict.fromkeys(keys for found in leaves for keys in found)
    inner = {keys[:length] for keys in every for length in range(len(keys))}
    paths = [keys for keys in every if keys not in inner]  # where one tree has a group, None elsewhere says nothing
    rows = [[_number(found.get(keys), keys) for keys in paths] for found in leaves]
    return paths, np.array(rows, dtype=np.float64).reshape(len(trees), len(paths))


def _number(leaf: float | None, keys: Keys) -> float:
    if leaf is None:
        return 0.0 if len(keys) > 1 and keys[-2] in COUNTERS else np.nan
    return leaf


def _tree(leaves: Mapping[Keys, Any]) -> Any:
    """What `_leaves` took apart; an index of a list follows the ones before it."""
    root: dict[str | int, Any] = {}
    for keys, leaf in leaves.items():
        at = root
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = leaf
    return _lists(root)


def _lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if tree and all(isinstance(key, int) for key in tree):
        return [_lists(tree[key]) for key in sorted(tree)]
    return {key: _lists(value) for key, value in tree.items()}
