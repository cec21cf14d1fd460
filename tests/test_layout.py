"""The house: which file may import which, how long each may be, that all of it is described."""

import ast
import importlib
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, call

from emotion import cli

SCRIPTS = ("bert_plain", "bert_GRU", "gpt_train", "gpt_inference", "ensemble", "predict", "export")
EMOTION = sorted(path.stem for path in (ROOT / "emotion").glob("*.py"))
FILES = ["utils.py", *(f"{name}.py" for name in SCRIPTS), *(f"emotion/{n}.py" for n in EMOTION)]
SOURCE = {file: (ROOT / file).read_text(encoding="utf-8") for file in FILES}
TREE = {file: ast.parse(source) for file, source in SOURCE.items()}
LINES = {
    **{"bert_plain.py": 220, "bert_GRU.py": 60, "gpt_train.py": 200, "gpt_inference.py": 120},
    **{"ensemble.py": 200, "predict.py": 150, "export.py": 150, "utils.py": 300},
    **{"README.md": 180, "README.ko.md": 180},
    **{f"emotion/{name}.py": 300 for name in EMOTION},
}
LONGEST_FUNCTION = 60
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"]
APPROACHES = {
    *(f"emotion.{each}" for each in ("encoder", "inputs", "modeling")),
    *(f"emotion.{each}" for each in ("causal", "answer_model", "answers", "prompt", "memory")),
}
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "sklearn")


def imports(file, anywhere=True):
    """The modules that a file imports, those of this repository by their full name.

    Args:
        anywhere: inside functions too.
    """
    found = set()
    for node in ast.walk(TREE[file]) if anywhere else TREE[file].body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in names if name.removeprefix("emotion.") in EMOTION}
            found |= inside or {node.module}
    return found


def own(file, anywhere=True):
    """Of these, the modules of this repository."""
    return {name for name in imports(file, anywhere) if name.split(".")[0] in HOUSE}


HOUSE = {"utils", "emotion", *SCRIPTS}


def test_a_file_imports_only_from_floors_below_it():
    assert own("utils.py") == set()
    for file in FILES:
        used = own(file) & {*SCRIPTS}
        assert used == ({"bert_plain"} if file == "bert_GRU.py" else set()), file
        assert not {name.split(".")[0] for name in imports(file)} & {"tests", "data"}, file


def test_no_module_imports_another_in_a_circle():
    below = {f"emotion.{name}": own(f"emotion/{name}.py", False) - {"utils"} for name in EMOTION}
    while below:
        ground = {name for name, used in below.items() if not used & below.keys()}
        assert ground, f"these import one another: {below}"
        below = {name: used for name, used in below.items() if name not in ground}


def test_inside_emotion_each_knows_what_it_should():
    assert not own("emotion/training.py") & APPROACHES  # the loop knows no approach
    for name in ("causal", "prompt", "encoder", "modeling"):  # nor an approach the run directory
        todo, seen = [f"emotion.{name}"], set()
        while todo:
            seen.add(todo.pop())
            used = {each for file in seen for each in own(file.replace(".", "/") + ".py")}
            todo = sorted(used - seen - {"utils"})
        assert "emotion.run" not in seen, name
    assert own("emotion/modeling.py") == set()  # a checkpoint can carry it
    standard = {name.split(".")[0] for name in imports("emotion/modeling.py")}
    assert standard == {"torch", "transformers"}


def test_what_the_command_line_stands_on_is_light():
    """As far as it is imported at once: `--help` and a wrong argument take no time."""
    seen, todo = set(), ["emotion/cli.py", "utils.py", *(f"{name}.py" for name in SCRIPTS)]
    while todo:
        file = todo.pop()
        seen.add(file)
        names = {name.split(".")[0] for name in imports(file, anywhere=False)}
        assert not names & {*HEAVY}, file
        files = {name.replace(".", "/") + ".py" for name in own(file, anywhere=False)}
        todo += sorted((files & {*FILES}) - seen)


def test_importing_the_scripts_leaves_the_heavy_libraries_out():
    code = f"import sys, {', '.join(SCRIPTS)}; print({{*sys.modules}} & {{*{HEAVY}}} or 'none')"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "none\n", process.stderr


@pytest.mark.parametrize("file", LINES)
def test_no_file_is_over_its_budget(file):
    """If a file is full, something in it belongs elsewhere; raise a budget last."""
    lines = (ROOT / file).read_text(encoding="utf-8").count("\n")
    assert lines <= LINES[file]


def functions(file):
    """(name, node) of the functions of a file, those of classes and of functions among them."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            name = f"{prefix}.{child.name}" if hasattr(child, "name") else prefix
            if is_function:
                yield name, child
            yield from walk(child, name)

    return walk(TREE[file], file.removesuffix(".py").replace("/", "."))


def test_no_function_is_longer_than_a_screen():
    lengths = {
        name: node.end_lineno - node.lineno + 1 for file in FILES for name, node in functions(file)
    }
    assert not {name for name, length in lengths.items() if length > LONGEST_FUNCTION}


@pytest.mark.parametrize("file", FILES)
def test_modules_classes_and_public_functions_are_described(file):
    assert ast.get_docstring(TREE[file]), "the module"
    bare = [
        node.name
        for node in ast.walk(TREE[file])
        if isinstance(node, ast.ClassDef) and not ast.get_docstring(node)
    ]
    for name, node in public_functions(file):
        if not (name.endswith("__") or ast.get_docstring(node)):
            bare.append(name)
    assert not bare


def public_functions(file):
    """Functions of the module and of its classes, but for those that a leading underscore hides."""
    for name, node in functions(file):
        inner = name.removeprefix(file.removesuffix(".py").replace("/", ".")).split(".")[1:]
        holders = {each.name for each in ast.walk(TREE[file]) if isinstance(each, ast.ClassDef)}
        is_nested = len(inner) > 1 and inner[-2] not in holders
        is_hidden = inner[-1].startswith("_") and not inner[-1].endswith("__")
        if not (is_nested or is_hidden):
            yield name, node


@pytest.mark.parametrize("script", [*SCRIPTS, "convert"])
def test_every_flag_is_in_the_documentation(script):
    page = ROOT / ("data/README.md" if script == "convert" else "docs/commands.md")
    flag = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
    flags = set(flag.findall(call(f"{script}.py", "--help").stdout)) - {"--help"}
    assert flags and flags - set(flag.findall(page.read_text(encoding="utf-8"))) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name + page.stem)
def test_the_commands_of_a_page_are_understood(page, monkeypatch):
    """As far as the scripts' parsers tell; what a command does stands behind it, two spaces on."""
    text = re.sub(r"\\\n +", "", page.read_text(encoding="utf-8"))
    scripts = rf"(?:{'|'.join(SCRIPTS)}|data/convert)\.py"
    for line in re.findall(rf"^    python ({scripts}.*)$", text, re.MULTILINE):
        command = re.split(r" {2,}|&& |\[", line)[0].replace(" ...", "")
        command = re.sub(r"\b(SEED|LR)\b", "1", command.replace("CORPUS SOURCE", "kote SOURCE"))
        script, *arguments = shlex.split(command)

        def parse(parser, *given, arguments=arguments):
            raise Parsed(parser.parse_args(arguments))

        monkeypatch.setattr(cli, "run_script", parse)
        monkeypatch.setattr(cli, "run_tool", parse)
        with pytest.raises(Parsed):
            importlib.import_module(pathlib.Path(script).stem).main(arguments)


class Parsed(Exception):
    """Raised in the place of what a script does with its arguments."""


def test_each_row_of_what_is_refused_has_its_test():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\| (`test_\w+\.py`.*) \|$", page, re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        for file, told in re.findall(r"`(test_\w+\.py)`((?::? ?`\w+`,?)*)", row):
            names = re.findall(r"^def (test_\w+)", (ROOT / "tests" / file).read_text(), re.M)
            fragments = re.findall(r"`(\w+)`", told)
            assert fragments, row
            for fragment in fragments:
                assert any(fragment in name for name in names), (file, fragment)


def test_every_module_stands_in_contributing():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in EMOTION[1:] if f"`{name}.py`" not in page] == []


def test_the_pages_link_to_what_is_there():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def anchors(page):
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_the_korean_readme_says_the_same():
    """The same headings, commands, figures of the results and links."""
    english, korean = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")
    )
    assert "README.ko.md" in english.partition("\n")[0]
    command = re.compile(
        r"^    ((?:pip|python|torchrun|cat|from|load)\b.*?)(?:  .*)?$", re.MULTILINE
    )
    assert command.findall(english) == command.findall(korean) != []
    figure, link = re.compile(r"(?<![\w.])\d\.\d+"), re.compile(r"\]\(([^)]+)\)")
    for pattern in (figure, link):
        one, two = (sorted(pattern.findall(page.partition("\n")[2])) for page in (english, korean))
        assert one == two != []
    assert english.count("\n## ") == korean.count("\n## ")


BENCHMARKS = [
    path.name
    for path in sorted((ROOT / "tests" / "benchmarks").glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_it_measures(name, monkeypatch, capsys):
    path = ROOT / "tests" / "benchmarks" / name
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert not end.value.code
    assert f"python tests/benchmarks/{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_uses_what_the_house_has(name):
    """No test calls them: some run for hours, or on a GPU."""
    source = (ROOT / "tests" / "benchmarks" / name).read_text(encoding="utf-8")
    tree = ast.parse(source)
    inside = {*HOUSE, *(each.removesuffix(".py") for each in BENCHMARKS)}
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names} & inside
            modules |= {each: importlib.import_module(each) for each in names}
        elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in inside:
            assert "sys.path" in source, "started by its path, it does not find the repository"
            for alias in node.names:
                if node.module == "emotion":
                    modules[alias.name] = importlib.import_module(f"emotion.{alias.name}")
                else:
                    assert hasattr(importlib.import_module(node.module), alias.name), alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            assert module is None or hasattr(module, node.attr), f"{node.value.id}.{node.attr}"
