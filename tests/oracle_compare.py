"""Answers of the program against the oracle's: what differs, and what may."""

from collections import Counter


class Ties(list):
    """Rows in an order that leaves those alike in (ts, seq) free: a list of groups, and how many rows are shown."""

    def __init__(self, rows, make, most):
        groups = {}
        for row in sorted(rows, key=lambda row: (row["ts"], row["seq"]), reverse=True):
            groups.setdefault((row["ts"], row["seq"]), []).append(make(row))
        super().__init__(groups.values())
        self.shown = min(most, len(rows))


def differences(found, expected, where="body"):
    """Where an answer departs from the oracle's, one line each: values, types of numbers, keys and their order.

    Left out are `instrumentId`, of which only is promised that it stands for the contract, and the order of `families`.
    """
    if isinstance(expected, Ties):
        return _differences_of_ties(found, expected, where)
    if isinstance(expected, dict):
        if where.endswith(".families") and isinstance(found, dict):
            found = dict(sorted(found.items()))
        if not isinstance(found, dict) or list(found) != list(expected):
            return [f"{where}: {list(found) if isinstance(found, dict) else found!r} for {list(expected)}"]
        pairs = [
            (found[name], expected[name], f"{where}.{name}") for name in expected if name != "instrumentId"
        ]
        return [line for pair in pairs for line in differences(*pair)]
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return [f"{where}: {len(found)} rows for {len(expected)}"]
        pairs = zip(found, expected, range(len(found)), strict=True)
        return [line for one, two, n in pairs for line in differences(one, two, f"{where}[{n}]")]
    fine = type(found) is type(expected) or (type(expected) is float and type(found) is int)
    return [] if fine and found == expected else [f"{where}: {found!r} for {expected!r}"]


def _differences_of_ties(found, expected, where):
    if len(found) != expected.shown:
        return [f"{where}: {len(found)} rows for {expected.shown}"]
    lines, place = [], 0
    for group in expected:
        rows = found[place : place + len(group)]
        left = list(group)
        for n, row in enumerate(rows):
            matching = [one for one in left if not differences(row, one)]
            if matching:
                left.remove(matching[0])
            else:
                lines += differences(row, left[0], f"{where}[{place + n}]")
        place += len(rows)
    return lines


def instruments(bodies):
    """Contract → the ids seen for it, over answers of `recent`."""
    seen = {}
    for body in bodies:
        for row in body["trades"]:
            seen.setdefault((row["expiry"], row["strike"], row["right"]), Counter())[row["instrumentId"]] += 1
    return seen
