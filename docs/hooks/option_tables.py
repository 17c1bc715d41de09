"""The YAML files of conf/ as Markdown: each option with its default and its comment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w/]+):(?P<rest>.*)$")
COMMENT = re.compile(r"\s+# (.*)$")
ITEM = re.compile(r"^ *- (.*)$")
NO_OPTIONS = ("defaults", "hydra")


@dataclass(frozen=True)
class Option:
    """One line of a YAML file: `a.b`, its value as it is written, and its comment."""

    path: str
    default: str
    text: str


def head(yaml: str) -> str:
    """The comment at the begin of a file; "" without one.

    >>> head("# One.\\n# Two.\\nname: x  # no")
    'One. Two.'
    """
    lines: list[str] = []
    for line in yaml.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def options(yaml: str) -> list[Option]:
    """The options of a file in their order; a section is an option of an empty default.

    >>> options("lr:  # rates\\n  table: 0.1  # of tables;\\n              # of trees\\n")
    [Option(path='lr', default='', text='rates'), Option(path='lr.table', default='0.1', \
text='of tables; of trees')]
    """
    found: list[Option] = []
    sections: list[tuple[int, str]] = []  # indent and key of the open ones
    for line in yaml.splitlines():
        further = re.match(r"^\s{4,}# (.*)$", line)
        if further and found:
            last = found[-1]
            found[-1] = Option(last.path, last.default, f"{last.text} {further[1]}".strip())
            continue
        match = KEY.match(line)
        item = ITEM.match(line)
        if item and found:
            last = found[-1]
            before = last.default[1:-1] + ", " if last.default else ""
            found[-1] = Option(last.path, f"[{before}{COMMENT.sub('', item[1])}]", last.text)
        if match is None:
            continue
        indent = len(match["indent"])
        sections = [section for section in sections if section[0] < indent]
        comment = COMMENT.search(match["rest"])
        default = COMMENT.sub("", match["rest"]).strip()
        sections.append((indent, match["key"]))
        if sections[0][1] not in NO_OPTIONS:
            path = ".".join(key for _, key in sections)
            found.append(Option(path, default, comment[1] if comment else ""))
    return found


def table(rows: Sequence[Option], prefix: str = "") -> str:
    """A Markdown table of options, with `prefix` before their names."""
    lines = ["| option | default | what it is |", "|---|---|---|"]
    for row in rows:
        default = f"`{escape(row.default)}`" if row.default else ""
        lines.append(f"| `{prefix}{row.path}` | {default} | {escape(row.text)} |")
    return "\n".join(lines)


def escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def run_page(conf: Path) -> str:
    """Options of train.yaml: those of a run, and a section for each of its groups."""
    yaml = (conf / "train.yaml").read_text()
    rows = options(yaml)
    sections = [row for row in rows if not row.default]
    names = {section.path for section in sections if "." not in section.path}
    single = [row for row in rows if row.path.partition(".")[0] not in names]
    parts = ["# A run", f"From `conf/train.yaml`. {head(yaml)}", table(single)]
    for section in sections:
        if section.path in names:
            below = [row for row in rows if row.path.startswith(f"{section.path}.")]
            text = section.text[:1].upper() + section.text[1:]
            parts += [f"## {section.path}", f"{text}." if text else "", table(below)]
    return "\n\n".join(parts) + "\n"


def evaluation_page(conf: Path) -> str:
    """Options of evaluate.yaml, and those of its group runtime."""
    yaml = (conf / "evaluate.yaml").read_text()
    parts = ["# An evaluation", f"From `conf/evaluate.yaml`. {head(yaml)}", table(options(yaml))]
    return "\n\n".join([*parts, *choices(conf, "runtime", 2)]) + "\n"


def group_page(conf: Path, title: str, groups: Sequence[str]) -> str:
    """Every choice of some groups: `group=choice`, its options and their texts."""
    parts = [f"# {title}"]
    for group in groups:
        parts += choices(conf, group, 2)
    return "\n\n".join(parts) + "\n"


def choices(conf: Path, group: str, level: int) -> Iterator[str]:
    """A heading and a table for each file of a group; options that start from another file of it
    are those that differ.
    """
    for path in sorted((conf / group).glob("*.yaml")):
        yaml = path.read_text()
        base = re.search(r"^defaults: \[(?!schema/)(\w+), _self_\]", yaml, re.MULTILINE)
        yield f"{'#' * level} {group}={path.stem}"
        if text := head(yaml):
            yield text if text.endswith((".", ":")) else f"{text}."
        if base:
            yield f"As `{group}={base[1]}`, but for:"
        rows = [row for row in options(yaml) if base is None or row.path != "name"]
        if base:
            first = options(path.with_name(f"{base[1]}.yaml").read_text())
            texts = {row.path: row.text for row in first}
            rows = [replace(row, text=row.text or texts.get(row.path, "")) for row in rows]
        if rows:
            yield table(rows, "" if group == "debug" else f"{group.replace('/', '.')}.")


def experiment_page(conf: Path) -> str:
    """Every shipped experiment: what it is, and its file."""
    parts = [
        "# Experiments",
        "`python train.py experiment=NAME` sets options of several groups. What you give beside it "
        "wins. An experiment of your own is a file in `conf/experiment/`.",
    ]
    for path in sorted((conf / "experiment").glob("*.yaml")):
        yaml = path.read_text()
        body = re.sub(r"\A(#.*\n)+", "", yaml).strip()
        parts += [f"## {path.stem}", head(yaml), f"```yaml\n{body}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def pages(conf: Path) -> dict[str, str]:
    """Every page of options by its file name."""
    files = {
        "run.md": run_page(conf),
        "evaluate.md": evaluation_page(conf),
        "experiment.md": experiment_page(conf),
        "slurm.md": group_page(conf, "Jobs", ["hydra/launcher", "hydra/sweeper"]),
    }
    titles = {
        "data": "Data sets",
        "model": "Networks",
        "halut": "Operators",
        "policy": "Policies",
        "schedule": "Schedules",
        "trainer": "Trainer",
        "logger": "Loggers",
        "debug": "Debugging",
    }
    return files | {
        f"{group}.md": group_page(conf, title, [group]) for group, title in titles.items()
    }
