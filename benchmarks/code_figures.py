"""Figures of the source code itself: sizes, repetitions, import circles, and names that the glossary forbids.

`python3 likeness.py bench code` measures this checkout, `python3 benchmarks/code_figures.py FOLDER` another one;
neither needs more than Python. The printed markdown can be pasted into RESULTS.md. A file code.py here would hide the
standard library's `code` from pdb, which torch imports; hence this file's name.
"""

import ast
import os
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "docs" / "architecture.md"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case)
DUPLICATE = 6  # so many lines in a row that stand twice are a duplicate block
IRREGULAR = set(
    "begun bound broken brought built caught chosen done drawn driven fallen felt found frozen given gone grown held "
    "hidden kept known laid learnt lent lost made meant met paid said seen sent shown sought sold spoken spent stood "
    "stuck sunk taken taught thought thrown told torn understood won worn woven written".split()
)
NO_PARTICIPLES = set(
    "embed exceed feed need proceed seed speed succeed bring ring spring string swing thing nothing "
    "conditioning mapping setting".split()
)


def list_files(root: Path) -> list[Path]:
    """Return the Python files below `root`, relative to it, without those in folders that begin with a dot."""
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(folder, name).relative_to(root) for name in names if name.endswith(".py")]
    return sorted(paths)


def list_functions(tree: ast.AST) -> list:
    """Return every function and method of a tree, nested ones too."""
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def walk_body(function: ast.AST) -> Iterable[ast.AST]:
    """Yield the nodes inside a function, but nothing of the functions nested in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, FUNCTIONS):
            yield child
            yield from walk_body(child)


def complexity(function: ast.AST) -> int:
    """Return McCabe's number: 1, and 1 more for every branch, loop, exception handler, assertion, `and` and `or`."""
    nodes = list(walk_body(function))
    branches = sum(isinstance(node, BRANCHES) for node in nodes)
    operators = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    loops = sum(1 + len(node.ifs) for node in nodes if isinstance(node, ast.comprehension))
    return 1 + branches + operators + loops


def count_lines(function: ast.AST) -> int:
    """Return the number of lines from `def` to the last line of the body, docstring included."""
    return function.end_lineno - function.lineno + 1


def list_once_called(tree: ast.Module) -> list[str]:
    """Return the private functions of a module that are mentioned exactly once in it."""
    mentions = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    mentions.update(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    names = [function.name for function in list_functions(tree)]
    return [name for name in names if name.startswith("_") and not name.endswith("__") and mentions[name] == 1]


def list_duplicates(texts: dict[Path, str]) -> list[str]:
    """Return where a block of DUPLICATE or more equal lines stands again; imports and empty lines do not count."""
    windows = set()
    duplicates = []
    for path, text in texts.items():
        lines = [(number, line.strip()) for number, line in enumerate(drop_imports(text), 1) if line.strip()]
        inside = False
        for start in range(len(lines) - DUPLICATE + 1):
            window = tuple(line for _, line in lines[start : start + DUPLICATE])
            repeats = window in windows
            if repeats and not inside:
                duplicates.append(f"{path}:{lines[start][0]}")
            inside = repeats
            windows.add(window)
    return duplicates


def drop_imports(text: str) -> list[str]:
    """Return the lines of a source, those of import statements emptied."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return lines


def list_imports(path: Path, tree: ast.Module, modules: set[str]) -> set[str]:
    """Return the names of the modules of this package that a module imports, at its top or late."""
    package = list(path.parts[:-1])
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name.removeprefix("likeness.") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            first = node.module.split(".") if node.module else []
            base = package[: len(package) + 1 - node.level] + first if node.level else first
            base = ".".join(base[1:] if base[:1] == ["likeness"] else base)
            parts = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            names += [part if part in modules else base for part in parts]
    return {name for name in names if name in modules}


def name_module(path: Path) -> str:
    """Return a file's dotted name below the root; a folder's `__init__.py` has the folder's."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def list_circles(trees: dict[Path, ast.Module]) -> list[list[str]]:
    """Return the groups of modules each of which reaches every other one of its group by imports."""
    modules = {name_module(path) for path in trees}
    graph = {name_module(path): list_imports(path, tree, modules) for path, tree in trees.items()}
    reach = {name: find_reach(graph, name) for name in graph}
    circles = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted(sorted(circle) for circle in circles if len(circle) > 1)


def find_reach(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return everything that `start` imports, directly or not."""
    reach, queue = set(), [start]
    while queue:
        queue += (new := graph[queue.pop()] - reach)
        reach |= new
    return reach


def split_words(name: str) -> list[str]:
    """Return the words of an identifier in lower case, of snake_case and CamelCase alike."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def is_participle(word: str) -> bool:
    """Return whether a word is a participle, by its ending or by the list of irregular ones."""
    regular = len(word) > 3 and word.endswith(("ed", "ing")) and word not in NO_PARTICIPLES
    return regular or word in IRREGULAR


def list_participles(tree: ast.Module) -> list[str]:
    """Return the functions of a module, properties left out, whose name begins with a participle."""
    names = [function.name for function in list_functions(tree) if not is_property(function)]
    return [name for name in names if is_participle((split_words(name) or [""])[0])]


def is_property(function: ast.AST) -> bool:
    """Return whether a method is read like a value, so that its name is a noun."""
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def list_identifiers(tree: ast.Module) -> list[str]:
    """Return every name that a module gives: functions, classes, parameters, values, attributes."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append(node.attr)
    return names


def read_never(glossary: str) -> tuple[set[str], set[str]]:
    """Return the words that the glossary forbids: anywhere in a name, and (written `= word`) as a whole name."""
    rows = re.findall(r"^\|.*\|([^|]*)\|$", glossary.split("## Words", 1)[1].split("\n## ")[0], re.MULTILINE)
    words = [word.strip() for row in rows for word in re.findall(r"`([^`]*)`", row)]
    return {word for word in words if not word.startswith("=")}, {word[1:].strip() for word in words if word[0] == "="}


def count_never(trees: dict[Path, ast.Module], inside: set[str], whole: set[str]) -> Counter:
    """Return how often each forbidden word, in singular or plural, is in a name that the code gives."""
    uses = Counter()
    for tree in trees.values():
        for name in list_identifiers(tree):
            uses.update({word.removesuffix("s") for word in split_words(name)} & inside)
            uses.update({name.strip("_")} & whole)
    return uses


def list_classes(tree: ast.Module) -> list[str]:
    """Return the names of a module's classes, nested ones too."""
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def list_repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, with how often."""
    return [f"{name} {count}" for name, count in sorted(Counter(names).items()) if count > 1]


def measure(root: Path, paths: list[Path]) -> dict[str, tuple[object, list[str]]]:
    """Return each figure's value, and the cases of what is counted, for the Python files `paths` under `root`."""
    texts = {path: (root / path).read_text(encoding="utf-8") for path in paths}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions = [function for tree in trees.values() for function in list_functions(tree)]
    lengths = sorted(map(count_lines, functions))
    once = [f"{path}:{name}" for path, tree in trees.items() for name in list_once_called(tree)]
    participles = [f"{path}:{name}" for path, tree in trees.items() for name in list_participles(tree)]
    never = count_never(trees, *read_never(GLOSSARY.read_text(encoding="utf-8")))
    lists = {
        f"blocks of {DUPLICATE} equal lines and more": list_duplicates(texts),
        "import circles": [" - ".join(circle) for circle in list_circles(trees)],
        "functions named by a participle": participles,
        "class names given twice": list_repeated(name for tree in trees.values() for name in list_classes(tree)),
        "module names given twice": list_repeated(path.name for path in trees if path.name != "__init__.py"),
    }
    return {
        "files": (len(paths), []),
        "lines": (sum(len(text.splitlines()) for text in texts.values()), []),
        "functions": (len(functions), []),
        "length, median": (f"{statistics.median(lengths):g}", []),
        "length, p90": (lengths[int(len(lengths) * 0.9)], []),
        "length, max": (lengths[-1], []),
        "complexity, mean": (f"{statistics.mean(map(complexity, functions)):.2f}", []),
        "private helpers mentioned once": (f"{len(once)} ({len(once) / len(functions):.1%})", once),
        **{figure: (len(cases), cases) for figure, cases in lists.items()},
        "names against the glossary": (never.total(), [f"{word} {count}" for word, count in never.most_common()]),
    }


def main(root: Path) -> None:
    """Print the figures of the tests and of everything else, then the cases of everything else."""
    paths = list_files(root)
    tests = [path for path in paths if path.parts[0] == "tests"]
    code = measure(root, [path for path in paths if path not in tests])
    print("| figure | code | tests |\n| --- | --- | --- |")
    for figure, (value, _) in measure(root, tests).items():
        print(f"| {figure} | {code[figure][0]} | {value} |")
    for figure, (_, cases) in code.items():
        if cases:
            print(f"\n{figure.capitalize()}: {', '.join(sorted(cases))}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
