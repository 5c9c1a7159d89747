#!/usr/bin/env python3
"""Checks the Grafana dashboard: prints every fault, exits 1 if there is one.

Panels have unique ids and a description, do not overlap, and use exactly the declared variables.
With a file name as its argument, also writes all queries there as recording rules, so that
promtool can parse them.
"""

import json
import re
import sys
from pathlib import Path

import yaml

DASHBOARD = Path(__file__).resolve().parent.parent / "deploy/grafana/tide.json"
# Variables that Grafana itself provides, and a value of the same kind for each.
BUILT_IN = {"__rate_interval": "5m", "__interval": "1m", "__range": "3h"}
PAGE_WIDTH = 24


def main():
    dashboard = json.loads(DASHBOARD.read_text())
    faults = [
        *variable_faults(dashboard),
        *layout_faults(dashboard["panels"]),
        *panel_faults(dashboard["panels"]),
    ]
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(yaml.safe_dump(recording_rules(dashboard["panels"])))
    for fault in faults:
        print(f"grafana: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def variable_faults(dashboard):
    declared = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__all"}
    for name in sorted(used - declared - BUILT_IN.keys()):
        yield f"variable ${name} is used, but not declared"
    for name in sorted(declared - used):
        yield f"variable ${name} is declared, but not used"


def layout_faults(panels):
    taken = {}
    for panel in panels:
        title, place = panel["title"], panel["gridPos"]
        if place["x"] + place["w"] > PAGE_WIDTH:
            yield f"panel {title!r} is wider than the page"
        cells = [
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        ]
        for other in sorted({taken[cell] for cell in cells if cell in taken}):
            yield f"panel {title!r} overlaps {other!r}"
        taken.update(dict.fromkeys(cells, title))


def panel_faults(panels):
    ids = set()
    for panel in panels:
        title = panel["title"]
        if panel["id"] in ids:
            yield f"panel {title!r} repeats the id {panel['id']}"
        ids.add(panel["id"])
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"panel {title!r} has no description"
        if not panel.get("targets"):
            yield f"panel {title!r} shows nothing"
        for target in panel.get("targets", []):
            if not target.get("expr"):
                yield f"panel {title!r} has an empty query"
            if target.get("datasource", {}).get("uid") != "${datasource}":
                yield f"panel {title!r} does not use the chosen data source"


def recording_rules(panels):
    rules = [
        {"record": f"panel_{panel['id']}_{target['refId']}", "expr": concrete(target["expr"])}
        for panel in panels
        for target in panel.get("targets", [])
    ]
    return {"groups": [{"name": "dashboard", "rules": rules}]}


def concrete(expression):
    """Replaces the variables, which are Grafana's and no PromQL."""
    for name, value in BUILT_IN.items():
        expression = expression.replace(f"${name}", value)
    return re.sub(r"\$\w+", ".*", expression)


if __name__ == "__main__":
    main()
