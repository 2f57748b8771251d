"""What settings.md asks for: the schema and the config files as text.

Zensical's plugin "macros" calls ``define_env``.
"""

import inspect
import re
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
KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text",
         list: "list", dict: "names with values", NoneType: "null"}  # fmt: skip


def define_env(env: Any) -> None:
    """Called by the plugin."""
    for macro in (fields, groups, samplers, application):
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
