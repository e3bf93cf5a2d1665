"""
Imports run down only.

The table says what each part of poller may import of poller; nothing else. A new module gets its line here: the moment to think about where
it belongs.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import poller

ROOT = Path(poller.__file__).parent

# From the bottom up. Each name stands for a module or for a folder with all that is in it.
GROUND = "errors model tables clock"
BASE = f"{GROUND} values identity lifecycle acts guard ports"
TOOLS = f"{BASE} store clients formats translate logs metrics"
EDGES = "sources sinks"

# What may be imported by what. Within a folder, modules import each other freely, unless a rule below says otherwise.
ALLOWED = {
    "": "",  # poller/__init__.py
    "clock": "",
    "errors": "",
    "model": "errors",
    "tables": "model",
    "values": "model errors",
    "identity": "model errors",
    "lifecycle": "model errors",
    "acts": "errors model",
    "guard": f"{GROUND} identity lifecycle",
    "ports": f"{GROUND} identity lifecycle guard",
    "systemd": "",
    "signals": "",
    "logs": "errors values",
    "metrics": "model",
    "migrate": "errors tables",
    "formats": f"{GROUND} values",
    "translate": f"{GROUND} values formats",
    "clients": f"{BASE} formats logs metrics",
    "store": f"{BASE} migrate logs",
    "enrich": TOOLS,
    "route": f"{BASE} store translate logs metrics enrich",
    # The turn of the dispatcher: judge what has finished, claim what is due, and tell of both once they are committed.
    "work": f"{BASE} route",
    "judging": f"{BASE} store route work",
    "effects": f"{BASE} store logs metrics route work judging",
    "telling": f"{BASE} store logs metrics route work judging",
    "stock": "lifecycle",
    "turn": f"{BASE} store route work effects",
    "claiming": f"{BASE} store logs metrics route work effects stock turn",
    "lanes": "errors route work",
    "dispatcher": f"{BASE} store logs metrics route work effects judging telling claiming recovery lanes",
    # An edge knows protocols and formats. It knows neither the store, nor the route, nor any other edge.
    "sources": f"{BASE} clients formats translate logs metrics enrich",
    "sinks": f"{BASE} clients formats translate logs metrics enrich",
    "ingress": f"{BASE} clients formats translate logs metrics systemd",
    "settings": f"{BASE} clients formats translate {EDGES} ingress enrich",
    "wiring": f"{TOOLS} {EDGES} ingress enrich route dispatcher settings migrate systemd",
    "ringing": "",
    "intake": f"{BASE} store logs metrics route",
    "reception": f"{BASE} store clients logs metrics ingress intake route",
    "marks": f"{BASE} logs",
    "upkeep": f"{BASE} store logs metrics route",
    "recovery": f"{BASE} store logs metrics route",
    "engine_room": f"upkeep recovery {TOOLS} ingress route dispatcher settings wiring migrate systemd marks work",
    "once": f"{TOOLS} route dispatcher settings wiring engine_room migrate marks work",
    "gauges": f"{TOOLS} ingress route settings engine_room",
    "service": f"gauges {TOOLS} ingress intake reception ringing route dispatcher settings wiring engine_room migrate signals "
    "systemd marks work",
    "demo": f"{TOOLS} settings engine_room once sandbox commands",
    "commands": f"{TOOLS} enrich ingress route dispatcher settings wiring engine_room once gauges service migrate signals systemd",
    "options": "",
    "operator_cli": "options commands",
    "client_cli": "options commands",
    "cli": f"options operator_cli client_cli {TOOLS} route dispatcher settings wiring engine_room once service migrate sandbox "
    "commands demo",
    "__main__": "cli",
    # Written from ServiceNow's documentation alone, so that one misunderstanding cannot sit on both sides.
    "sandbox": "",
}

# Modules of sources/ and sinks/ that are edges; others in there are parts that edges share.
EDGE_NAMES = {"http", "directory", "sql", "activemq", "servicenow"}


def modules() -> dict[str, Path]:
    """Return every module below poller, as `sources.http`; a package under the name of its folder."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not parts[0].startswith("_migrations"):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str, *, while_loading: bool = False) -> set[str]:
    """
    Return the modules of poller that *module* imports, without the leading `poller.`.

    Args:
        while_loading: Leave out imports within functions and those for type checkers alone: they close no circle.
    """
    return {_known(name) for name, loading in _statements(module) if loading or not while_loading}


def foreign_imports(module: str) -> set[str]:
    """Return the top-level packages that *module* imports, but for poller."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - {"poller"}


def _statements(module: str) -> Iterator[tuple[str, bool]]:
    """Yield each name of poller that *module* imports, and whether that happens while it is loaded."""
    path = MODULES[module]
    package = ["poller", *module.split(".")] if module else ["poller"]
    if path.stem != "__init__":
        package = package[:-1]
    tree = ast.parse(path.read_text("utf-8"))
    later = {id(inner) for node in ast.walk(tree) if _is_later(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for name in _names(node, package):
            if name == "poller" or name.startswith("poller."):
                yield name.removeprefix("poller").removeprefix("."), id(node) not in later


def _is_later(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _names(node: ast.AST, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        start = ".".join([*base, *([node.module] if node.module else [])])
        # `from poller import route` names a module, `from poller.route import Route` something in one.
        return [f"{start}.{alias.name}" for alias in node.names]
    return []


def _known(name: str) -> str:
    """Return the longest part of *name* that is a module."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def floor(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_place_allows(module: str) -> None:
    assert floor(module) in ALLOWED, f"give poller.{module} its line in ALLOWED, tests/test_layers.py"
    allowed = {*ALLOWED[floor(module)].split(), floor(module), ""}

    too_high = {name for name in imports(module) if floor(name) not in allowed}

    assert not too_high, f"poller.{module} must not import {sorted(too_high)}"


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) in EDGES.split() and "." in name])
def test_an_edge_imports_no_other_edge(module: str) -> None:
    others = {
        name
        for name in imports(module) - {module}
        if floor(name) in EDGES.split() and ("." not in name or name.split(".")[1] in EDGE_NAMES)
    }
    # A shared part of the folder, itself no edge, is held to the same: whoever imports it would import the edge.
    of_one_edge = {f"{floor(module)}.{edge}" for edge in EDGE_NAMES if module.startswith(f"{floor(module)}.{edge}.")}

    assert not others - of_one_edge, f"poller.{module} must not import {sorted(others)}"


def test_only_wiring_and_settings_know_the_edges() -> None:
    knowing = {module for module in MODULES for name in imports(module) if floor(name) in EDGES.split()}

    assert {floor(module) for module in knowing} <= {"wiring", "settings", *EDGES.split()}


def test_the_sandbox_needs_the_standard_library_alone() -> None:
    needed = {name for module in MODULES if floor(module) == "sandbox" for name in foreign_imports(module)}

    assert not needed - sys.stdlib_module_names


def test_there_are_no_circles() -> None:
    graph = {module: imports(module, while_loading=True) - {module, ""} for module in MODULES}

    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])), pytrace=False)


def test_the_table_itself_has_no_circles() -> None:
    list(TopologicalSorter({name: allowed.split() for name, allowed in ALLOWED.items()}).static_order())
