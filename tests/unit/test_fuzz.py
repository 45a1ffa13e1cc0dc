"""Valid studies, broken in hundreds of ways: a study, or plain sentences that name file and key; nothing else."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shrinkflow import faults, study, validation
from shrinkflow.errors import UserError
from tests.workflow.conftest import TINY

ROOT = Path(__file__).parents[2]
# Without the families, whose eleven networks take seconds to count.
FILES = [ROOT / "config/config.yaml", *sorted((ROOT / "config/studies").glob("[!f]*.yaml"))]
STUDIES = [TINY, *(yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES)]

NAMES = [
    *("", " ", "a b", "a\nb", "\0", "\ud800", "\u202e", "\x1b[31m", "é", "x" * 65, "x" * 300, "x" * 5000),
    *("../x", "/abs", "a/b", ".", "..", "~", "-rf", "--help", "CON", "file:///etc/passwd", "https://x y"),
    *(
        "$(touch pwned)",
        "`touch pwned`",
        "a;b",
        "a|b",
        "&",
        "'",
        '"',
        "\\",
        "%s",
        "{0}",
        "{input}",
        "{wildcards.x}",
    ),
    *("1e-3", "nan", "null", "yes", "2:4", "4:2", "0:0", "9" * 60 + ":1", "like:", "like:random", "filter"),
    *("random", "magnitude", "digits", "digitsnet", "A", "dense", "short", "gradual", "iterative", "scratch"),
    *("x.zip", "{x}.zip", "x.pth", "-x.pth", "/dev/zero", "mine.py"),
]
NUMBERS = [
    *(0, 1, -1, 2, 3, 64, 10**6, 10**9, 2**32, 10**40, -(10**40), 16**6000),
    *(0.5, 1.0, 1.0000001, 1e-300, 1e300, -0.0, float("inf"), float("nan")),
]
leaves: st.SearchStrategy[Any] = (
    st.sampled_from(NAMES)
    | st.sampled_from(NUMBERS)
    | st.sampled_from(
        [None, True, False, [], {}, [[]], [None], {"a": 1}, {1: 2}, {None: 1}, [1, 1], b"bytes"]
    )
    | st.sampled_from([["random", "random"], {"name": "x"}, {"name": "x", "score": "snip"}])
)


def keys(node: Any) -> set[str]:
    """All keys that a study can have anywhere."""
    found: set[str] = set()
    for key, child in node.get("properties", {}).items() if isinstance(node, dict) else ():
        found |= {key} | keys(child)
    for part in ("additionalProperties", "items") if isinstance(node, dict) else ():
        found |= keys(node.get(part))
    return found


KEYS = sorted(keys(validation.schema()))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a study."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in list(inside) for found in ((value, key), *places(item))]


def mutate(draw: Any, config: dict[str, Any]) -> None:
    found = places(config)
    place, key = found[draw(st.integers(0, len(found) - 1))]
    value = place[key]
    match draw(st.sampled_from(["delete", "replace", "misspell", "double", "add", "nest", "retype"])):
        case "delete":
            del place[key]
        case "replace":
            place[key] = copy.deepcopy(draw(leaves))
        case "misspell" if isinstance(place, dict):
            place[draw(st.sampled_from([f"{key}x", f"{key}"[1:], *NAMES, None, True, 1]))] = place.pop(key)
        case "double" if isinstance(place, list):
            place.append(copy.deepcopy(value))
        case "add" if isinstance(place, dict):
            place[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(leaves))
        case "nest":
            place[key] = draw(st.sampled_from([[value], {"x": value}, [[[value]]]]))
        case _:
            place[key] = draw(st.sampled_from(NUMBERS if isinstance(value, int | float) else NAMES))


def check(error: UserError, file: str) -> None:
    for line in str(error).split("\nerror: "):
        assert line.startswith(f"{file}: "), line
        assert "'" in line.removeprefix(file) or "YAML" in line or "UTF-8" in line, line  # names the key
        assert line.isprintable(), line
        assert len(line) < 1500, line
        assert not any(
            odd in line for odd in ("Traceback", "object at 0x", "<class", "(?!", "b'bytes' is")
        ), line


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(faults.MIRROR, raising=False)
    return tmp_path


# Hypothesis wants no fixture that differs between examples; this one need not.
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(SETTINGS, max_examples=600)
@given(data=st.data())
def test_a_broken_study_is_a_study_or_told_in_sentences(data: st.DataObject) -> None:
    config = copy.deepcopy(data.draw(st.sampled_from(STUDIES)))
    for _ in range(data.draw(st.sampled_from([1, 1, 1, 2, 3]))):
        if config:
            mutate(data.draw, config)
    try:
        found = study.load(config)
    except UserError as error:
        check(error, "the study")
    else:
        # What is let through has names that are safe in paths, in commands and in Snakemake's patterns.
        for cell in found.jobs():
            for name in (found.name, cell.dataset, cell.model, cell.weights, cell.strategy):
                assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+")
                assert name[0].isalnum()
    assert os.listdir() == []


JUNK = [
    *(
        b"\t",
        b"\xff",
        b"\0",
        b"\r",
        b"\xc2\x85",
        b"\xe2\x80\xae",
        b"&a ",
        b"*a ",
        b"? ",
        b"- ",
        b"{",
        b"]",
        b"'",
        b'"',
    ),
    *(
        b"!!python/object/apply:os.system ['touch pwned']",
        b"!!python/name:os.system ''",
        b"<<: *a\n",
        b"<<: 3\n",
    ),
    *(
        b"!!binary x",
        b"!!set {a}",
        b"!!int y",
        b"!!float x",
        b"!!timestamp x",
        b"!!omap [a: 1]",
        b"2001-99-99",
    ),
    *(
        b"0x" + b"f" * 5000,
        b"9" * 5000,
        b"[1]: 2",
        b"%YAML 9.9\n",
        b"---\n",
        b"...\n",
        b"[" * 2000,
        b"&a [*a]",
    ),
]


@settings(SETTINGS, max_examples=200)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(JUNK)), min_size=1, max_size=3),
)
def test_a_broken_file_is_a_study_or_told_in_sentences(path: Path, junk: list[tuple[float, bytes]]) -> None:
    content = path.read_bytes()
    for where, inserted in junk:
        at = int(where * len(content))
        content = content[:at] + inserted + content[at:]
    Path("study.yaml").write_bytes(content)
    try:
        study.read("study.yaml")
    except UserError as error:
        check(error, "study.yaml")
    assert os.listdir() == ["study.yaml"]


def laughs(levels: int, item: str) -> str:
    lines = ["study: &a0 [x]"]
    lines += [f"k{i}: &a{i} {item.format(i - 1)}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(40, "[*a{0}, *a{0}]"), "holds more than a study can have"),
        (laughs(40, "{{x: *a{0}, y: *a{0}}}"), "holds more than a study can have"),
        ("a: &a [*a]", "the key 'a' holds more than a study can have"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("", "the key 'study' is missing"),
        ("- 1", "a study is a mapping of keys like 'study' and 'pairs', not [1]"),
        ("study: a\n\tb: c", "this is not valid YAML: "),
        ("study: [a", "(line 1, column 10)"),
        ("a: !!python/object/apply:os.system ['touch pwned']", "could not determine a constructor"),
        (
            "__use_yte__: true\n?os.system('touch pwned'): 1",
            "the key '__use_yte__' makes Snakemake run Python",
        ),
        ("<<: {__use_yte__: true}", "the key '__use_yte__' makes Snakemake run Python"),
        ("study: caf\xe9", "this is no text in UTF-8 (byte 10 is 0xe9)"),
        ("study: " + "9" * 5000, "this is not valid YAML"),
    ],
)
def test_hostile_yaml(text: str, message: str) -> None:
    Path("study.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        study.read("study.yaml")
    assert message in str(caught.value)
    check(caught.value, "study.yaml")
    assert os.listdir() == ["study.yaml"]


def test_a_byte_order_mark_is_none_of_the_study() -> None:
    Path("study.yaml").write_bytes(b"\xef\xbb\xbf" + FILES[0].read_bytes())
    assert study.read("study.yaml").name == "demo"
