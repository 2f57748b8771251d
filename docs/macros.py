"""The parts of settings.md and troubleshooting.md that are generated when the site is built.

settings.md lists the schema and the config files, troubleshooting.md the error messages in the
source. Zensical's plugin "macros" calls ``define_env``.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields as fields_of
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import hydrasweep
from hydrasweep.settings import GROUPS, SweeperConf

CONF = Path(__file__).resolve().parents[1] / "conf"
SHIPPED = Path(hydrasweep.__file__).parent / "conf"
SOURCE = Path(hydrasweep.__file__).parents[1]
# The headings of the list of error messages, and the modules whose messages stand below each. Any
# other module gets a heading of its own, from its docstring.
HEADINGS = {
    "The command line": ("hydrasweep.slips", "hydrasweep.errors"),
    "The search space": ("hydrasweep.space",),
    "Settings of the sweep": (
        "hydrasweep.settings", "hydrasweep.check", "hydrasweep.pruners", "hydrasweep.stratum",
    ),
    "Studies, and resuming one": ("hydrasweep.agreement", "hydrasweep.enqueue"),
    "The storage": ("hydrasweep.storage",),
    "A sweep that runs": (
        "hydrasweep.sweep", "hydrasweep.launch", "hydrasweep.files", "hydrasweep.monitor",
    ),
    "A trial": (
        "hydrasweep.worker", "hydrasweep.processes", "hydrasweep.trial_process",
        "hydrasweep.trials",
    ),
    "MLflow": ("hydrasweep.tracking", "hydrasweep.registry"),
    "`python -m hydrasweep` and `hydrasweep.load`": (
        "hydrasweep.__main__", "hydrasweep.folders", "hydrasweep.loaded", "hydrasweep.page",
        "hydrasweep.differences", "hydrasweep.starts", "hydrasweep.removal",
    ),
    "The application: settings": (
        "mnist.config", "mnist.assembly", "mnist.models", "mnist.tasks", "mnist.augmentation",
        "mnist.accelerate", "mnist.preflight", "mnist.seal",
    ),
    "The application: data": ("mnist.data",),
    "The application: training and recording": (
        "mnist.training", "mnist.recording", "mnist.files", "mnist.display",
    ),
    "The application: committees": ("committee", "mnist.committee"),
}  # fmt: skip
OURS = ("UserError", "Outage")  # whose messages must say something whatever the placeholders are
LITERAL = re.compile(r"[^\W\d_]{3}")  # some letters in a row: a message has more than placeholders
KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text",
         list: "list", dict: "names with values", NoneType: "null"}  # fmt: skip


def define_env(env: Any) -> None:
    """Make the functions available to the pages; the plugin calls this."""
    for macro in (fields, groups, samplers, application, messages):
        env.macro(macro)


def fields() -> str:
    """Each field of the sweeper: what it takes, its default and what it is for."""
    chosen = {group: name for each in GROUPS for group, name in each.items()}
    told, parts = comments(), []
    for field in sorted(fields_of(SweeperConf), key=lambda field: field.name):
        if field.name in ("_target_", "defaults"):
            continue
        if field.name in chosen:
            about = f"A group, of which `{chosen[field.name]}` is the default."
        else:
            node = OmegaConf.masked_copy(OmegaConf.structured(SweeperConf), [field.name])
            takes = kinds(field.type)
            about = f"Default `{OmegaConf.to_yaml(node).strip()}`{takes and '; '}{takes}."
        parts.append(f"### {field.name}\n\n{about}\n\n{told[field.name]}")
    return "\n\n".join(parts)


def comments() -> dict[str, str]:
    """What the schema says of its fields: of those that it inherits in its docstring, of its own
    in the comments above them."""
    found = dict(re.findall(r"^(\w+): (.*(?:\n +.*)*)", inspect.getdoc(SweeperConf) or "", re.M))
    above = re.compile(r"((?:^    # .*\n)+)    (\w+):", re.MULTILINE)
    for text, name in above.findall(inspect.getsource(SweeperConf)):
        found[name] = text.replace("    # ", "")
    return {name: " ".join(text.split()).replace("_", r"\_") for name, text in found.items()}


def kinds(annotation: Any) -> str:
    """What a field takes, in words; "" of one that takes anything."""
    is_container = get_origin(annotation) in KINDS  # its arguments are those of its elements
    given = (annotation,) if is_container else get_args(annotation) or (annotation,)
    words = [KINDS.get(get_origin(each) or each, "") for each in given]
    return " or ".join(words) if all(words) else ""


def groups() -> str:
    """The groups of the sweeper, with their choices."""
    return files(SHIPPED)


def samplers() -> str:
    """The samplers of hydra-optuna-sweeper."""
    parts = []
    for name, stored in sorted(ConfigStore.instance().repo["hydra"]["sweeper"]["sampler"].items()):
        reference = inspect.getdoc(OmegaConf.get_type(stored.node)) or ""
        if reference.startswith("https:"):  # Optuna still has it
            text = f"# {reference}\n{OmegaConf.to_yaml(stored.node)}"
            parts.append(choice(name.removesuffix(".yaml"), text))
    return "\n\n".join(parts)


def application() -> str:
    """The application's groups, with their choices, and what it composes them into."""
    return choice("train", (CONF / "train.yaml").read_text()) + "\n\n" + files(CONF)


def files(root: Path) -> str:
    """The config files below a folder as they are."""
    parts = []
    for folder in sorted({path.parent for path in root.rglob("*.yaml")} - {root}):
        parts.append(f"### {folder.relative_to(root).as_posix()}")
        parts += [choice(path.stem, path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    return "\n\n".join(parts)


def choice(name: str, text: str) -> str:
    return f"#### {name}\n\n```yaml\n{text.strip()}\n```"


def messages() -> str:
    """The error messages in the source, below a heading for what the user was doing."""
    found = find_messages()
    grouped = {each for modules in HEADINGS.values() for each in modules}
    others = {
        summary(module): (module,)
        for module, each in found.items()
        if each and module not in grouped
    }
    parts = []
    for heading, modules in (HEADINGS | others).items():
        texts = [text for module in modules for text in found.get(module, [])]
        if texts:
            lines = "\n".join(f"- {code(text)}" for text in dict.fromkeys(texts))
            parts.append(f"### {heading}\n\n{lines}")
    return "\n\n".join(parts)


def find_messages() -> dict[str, list[str]]:
    """For each module of the source, the messages of its errors, ``…`` for what varies."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        constants = Texts({})
        constants.read(tree.body)
        found[module] = [text for node in tree.body for text in _messages(node, module, constants)]
    return found


def _messages(node: ast.AST, module: str, texts: "Texts") -> Iterator[str]:
    """The messages in a node: what errors are made with, and the advice that slips.py returns."""
    if isinstance(node, ast.FunctionDef):
        texts = Texts(dict(texts.known))
        texts.read(ast.walk(node))
    name = text = ""
    if isinstance(node, ast.Call) and node.args:
        name, text = ast.unparse(node.func), texts.of(node.args[0])
    elif isinstance(node, ast.Return) and node.value and module == "hydrasweep.slips":
        name, text = "AdviceError", texts.of(node.value)
    if name in OURS or (name.endswith("Error") and LITERAL.search(text)):
        yield text
    for child in ast.iter_child_nodes(node):
        yield from _messages(child, module, texts)


class Texts:
    """Expressions as text, with the texts of variables that are assigned only once."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known

    def read(self, nodes: Iterator[ast.AST] | list[ast.stmt]) -> None:
        """Remember the texts that statements assign to variables, or append to them."""
        assigned: dict[str, list[str]] = {}
        for node in nodes:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                assigned.setdefault(node.targets[0].id, []).append(self._of(node.value))
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                before = assigned.get(node.target.id, [])
                before[-1:] = [text + self._of(node.value) for text in before[-1:]]
        once = {name: values[0] for name, values in assigned.items() if len(values) == 1}
        self.known = {k: v for k, v in self.known.items() if k not in assigned} | once

    def of(self, node: ast.expr) -> str:
        """The text in one line, with ``…`` in place of each part that varies. OmegaConf writes such
        a part as ``$VALUE``."""
        text = " ".join(self._of(node).split())
        return re.sub(r"…+|\$VALUE", "…", text)

    def _of(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str() as value):
                return value
            case ast.Name(id=name):
                return self.known.get(name, "…")
            case ast.JoinedStr(values=parts):
                return "".join(map(self._of, parts))
            case ast.FormattedValue(value=value):
                return self._of(value)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._of(left) + self._of(right)
            case ast.IfExp(body=body, orelse=orelse):
                return self._of(body) or self._of(orelse)
            case ast.Call(
                func=ast.Attribute(value=ast.Constant(value=str() as separator), attr="join"),
                args=[ast.List(elts=elements)],
            ):
                return separator.join(map(self._of, elements))
        return "…"


def summary(module: str) -> str:
    """The first sentence of a module's docstring."""
    path = SOURCE.joinpath(*module.split(".")).with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text())) or module
    return re.split(r"[.:;](?:\s|$)", text.replace("\n", " "))[0]


def code(text: str) -> str:
    """Text as inline code in Markdown, whatever backticks are in it."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"
