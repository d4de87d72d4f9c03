"""docs/configuration.md and the code: the same sections, keys, types, defaults, ranges and choices.

The keys are the binary's own: it lists them when it refuses an unknown one. What belongs to a key (type, default, what is
accepted) stands in one place only, the calls of `Section` in config.cpp, and is read from there; a key of the binary whose
call is not understood fails the test, it is never passed over.
"""

from __future__ import annotations

import copy
import os
import re
import socket
import unittest
from dataclasses import dataclass

from support import BIN, ROOT, Sections, Workspace, free_port, run

SOURCE = ROOT / "gateway" / "daemon" / "src" / "config.cpp"
HEADER = SOURCE.with_suffix(".hpp")
PAGE = ROOT / "docs" / "configuration.md"
TYPES = {"text": "text", "choice": "text", "site_name": "text", "number": "number", "whole": "whole number",
         "texts": "list of texts", "pairs": "list of pairs"}  # fmt: skip
# Keys of the code and of the page: "site.name"; those of a rule "alert.rule.action".
Keys = dict[str, "Key"]


@dataclass(frozen=True)
class Key:
    type: str
    default: str  # as the page writes it: needed, none, empty, or the value
    accepted: tuple[str, ...] = ()  # the choices, or the two ends of a range


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*", "", text)


def on_one_line(text: str) -> str:
    """However the formatter broke it."""
    return " ".join(text.split()).replace("( ", "(")


def arguments(text: str, start: int) -> list[str]:
    """What stands between the parenthesis before `start` and its partner, parted at its commas."""
    parts, depth, quoted = [""], 0, False
    for char in text[start:]:
        if char == '"':
            quoted = not quoted
        elif not quoted:
            if char == ")" and depth == 0:
                return [" ".join(part.split()) for part in parts]
            depth += (char in "({[") - (char in ")}]")
            if char == "," and depth == 0:
                parts.append("")
                continue
        parts[-1] += char
    raise AssertionError(f"config.cpp: no end of the call at: {text[start:start + 60]}")


def number(text: str) -> str:
    """A C++ number as the page writes it; AssertionError for anything else."""
    if match := re.fullmatch(r"(\d+) << (\d+)", text):
        return str(int(match[1]) << int(match[2]))
    return f"{float(text.replace(chr(39), '')):.12g}"


class Code:
    """config.cpp: each call that asks for a key, under the section whose variable it is made on."""

    def __init__(self, source: str, header: str) -> None:
        self.members: dict[str, str] = {}  # "wan.ceiling_mbit": what the member begins with
        for name, body in re.findall(r"struct (\w+)Config \{(.*?)\n\};", header, re.DOTALL):
            for member, value in re.findall(r"[\s,](\w+) = ([^,;]+)[,;]", on_one_line(body)):
                self.members[f"{name.lower()}.{member}"] = value
        source = on_one_line(source)
        self.keys: Keys = {}
        optional: set[str] = set()  # asked for by has(): it makes a difference whether they are there
        sections: dict[str, str] = {}
        opened = r'Section (?P<variable>\w+)(?: = section\("(?P<name>\w+)"\)|\((?:\w+, "(?P<table>\w+)\."|entry, path)\));'
        asked = r'\b(?P<on>\w+)\.(?P<method>\w+)\("(?P<key>\w+)"(?P<more>[,)])'
        for match in re.finditer(f"{opened}|{asked}", source):
            if match["variable"]:
                sections[match["variable"]] = match["name"] or match["table"] or "alert.rule"
                continue
            if match["on"] not in sections:
                continue
            name = f"{sections[match['on']]}.{match['key']}"
            rest = arguments(source, match.end("more")) if match["more"] == "," else []
            if match["method"] == "has":
                optional.add(name)
            elif match["method"] in TYPES:
                assert name not in self.keys, f"config.cpp asks twice for {name}"
                self.keys[name] = self.key(match["method"], rest)
        for name in optional & self.keys.keys():
            self.keys[name] = Key(self.keys[name].type, "none", self.keys[name].accepted)

    def key(self, method: str, rest: list[str]) -> Key:
        accepted: tuple[str, ...] = ()
        if method == "choice":
            accepted = tuple(re.findall(r'"([^"]*)"', rest[1]))
        elif method in ("number", "whole"):
            accepted = (number(rest[1]), number(rest[2]))
        if method in ("texts", "pairs"):
            return Key(TYPES[method], "empty")
        fallback = rest[0] if rest else "std::nullopt"
        return Key(TYPES[method], self.default(fallback), accepted)

    def default(self, fallback: str) -> str:
        if fallback == "std::nullopt":
            return "needed"
        if match := re.fullmatch(r'config_\.(\w+\.\w+) \+ "([^"]*)"', fallback):
            return f"<{match[1]}>{match[2]}"
        if match := re.fullmatch(r"(?:config_\.)?(\w+\.\w+)", fallback):
            fallback = self.members[match[1]]
        if match := re.fullmatch(r'"([^"]*)"', fallback):
            return match[1] or "empty"
        return number(fallback)


def page_keys(page: str) -> Keys:
    """The tables of the page, row by row."""
    keys: Keys = {}
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            title = re.fullmatch(r"## \[+([\w.]+)\]+", line)
            section = title[1] if title else ""
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not section or not line.startswith("| `"):
            continue
        assert len(cells) == 5, f"{len(cells)} cells, not 5: {line}"
        key, kind, default, accepted, _ = cells
        name = f"{section}.{key.strip('`')}"
        assert name not in keys, f"docs/configuration.md has {name} twice"
        ends = re.fullmatch(r"(-?[\d.]+) to (-?[\d.]+)", accepted)
        choices = ends.groups() if ends else tuple(re.findall(r"`([^`]*)`", accepted))
        keys[name] = Key(kind, default.strip("`"), choices)
    return keys


class ConfigDocs(unittest.TestCase):
    maxDiff = None
    work: Workspace
    good: Sections
    page: Keys
    code: Keys

    @classmethod
    def setUpClass(cls) -> None:
        cls.work = Workspace()
        cls.addClassCleanup(cls.work.remove)
        cls.good = cls.work.sections(
            "site-a", free_port(socket.SOCK_DGRAM), "site-b", free_port(socket.SOCK_DGRAM)
        )
        cls.page = page_keys(PAGE.read_text())
        cls.code = Code(without_comments(SOURCE.read_text()), without_comments(HEADER.read_text())).keys

    def accepted(self, unknown: str, text: str) -> set[str]:
        """What the daemon lists when it meets the unknown name in this configuration."""
        path = self.work.root / "asked.toml"
        path.write_text(text)
        done = run(BIN / "evacgwd", "--config", path, "--check")
        said = re.search(rf"{re.escape(unknown)}: unknown \w+; accepted: (.*) \(invalid argument\)", done.err)
        self.assertIsNotNone(said, f"{unknown}: {done}")
        return set(said[1].split(", "))

    def binary_keys(self) -> set[str]:
        good = self.work.write("good", self.good).read_text()
        keys: set[str] = set()
        for section in self.accepted("colour", good + "[colour]\n"):
            sections = copy.deepcopy(self.good)
            sections.setdefault(section, {})["colour"] = "red"
            text = self.work.write("asked", sections).read_text()
            keys |= {f"{section}.{key}" for key in self.accepted(f"{section}.colour", text)}
        rules = {f"alert.rule.{key}" for key in self.accepted("alert.rule[0].colour", good.replace(
            "[[alert.rule]]\n", '[[alert.rule]]\ncolour = "red"\n'))}  # fmt: skip
        return (keys - {"alert.rule"}) | rules

    def test_the_page_has_the_keys_that_the_daemon_accepts(self) -> None:
        keys = self.binary_keys()
        self.assertGreater(len(keys), 30)
        self.assertEqual(keys - self.page.keys(), set(), "accepted, but not in docs/configuration.md")
        self.assertEqual(self.page.keys() - keys, set(), "in docs/configuration.md, but not accepted")
        self.assertEqual(keys ^ self.code.keys(), set(), "config.cpp asks for them in a way this test cannot read")

    def test_types_defaults_and_what_is_accepted(self) -> None:
        for name in sorted(self.page.keys() & self.code.keys()):
            with self.subTest(name):
                page, code = self.page[name], self.code[name]
                self.assertEqual((page.type, page.default), (code.type, code.default), "page, code")
                if code.accepted:
                    self.assertEqual(page.accepted, code.accepted, "page, code")


if __name__ == "__main__":
    os.umask(0o077)
    unittest.main()
