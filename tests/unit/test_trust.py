"""Files of strangers are data: labels, headers, pickles and names of code that lie are told, and nothing is run."""

from __future__ import annotations

import json
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from shrinkflow import checkpoints, files, inspection, own, study
from shrinkflow.data import dataset
from shrinkflow.errors import UserError
from shrinkflow.models.published import PUBLISHED
from tests.unit.test_checkpoints import digitsnet
from tests.unit.test_study import valid, with_change

ROOT = Path(__file__).parents[2]
TENSORS = {
    "images": np.zeros((4, 1, 2, 2), np.uint8),
    "labels": np.array([0, 1, 0, 1]),
    "train": np.array([0, 1]),
    "validation": np.array([2]),
    "test": np.array([3]),
}
METADATA: dict[str, Any] = {
    "name": "x",
    "classes": ["a", "b"],
    "normalisation": {"mean": [0.5], "std": [0.5]},
}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"labels": np.array([0, 1, 0, 2])}, {}, "it has labels from 0 to 2, and 2 classes"),
        ({"labels": np.array([0, 1, 0, -1])}, {}, "it has labels from -1 to 1, and 2 classes"),
        ({"labels": np.array([0, 1, 0])}, {}, "it has 4 pictures and 3 labels"),
        ({"labels": np.array([0.0, 1, 0, 1])}, {}, "its pictures or labels are of another kind"),
        ({"images": np.zeros((4, 2), np.uint8)}, {}, "its pictures or labels are of another kind"),
        ({"train": np.array([0, 9])}, {}, "its parts are not all pictures, each once"),
        ({"train": np.array([0, 3])}, {}, "its parts are not all pictures, each once"),
        ({"train": np.array([0])}, {}, "its parts are not all pictures, each once"),
        ({"test": np.array([3.0])}, {}, "its parts are of another kind"),
        ({}, {"normalisation": {"mean": [0.5, 0.5], "std": [0.5]}}, "a normalisation of another number"),
        ({}, {"classes": 5}, "its metadata are of another kind"),
        ({}, {"normalisation": [1]}, "its metadata are of another kind"),
    ],
)
def test_a_data_set_that_contradicts_itself(
    tmp_path: Path, tensors: Any, metadata: Any, message: str
) -> None:
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, TENSORS, METADATA)
    assert dataset.read(path).classes == ("a", "b")
    files.write_tensors(path, TENSORS | tensors, METADATA | metadata)
    with pytest.raises(UserError, match=message):
        dataset.read(path)


def header(value: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


EIGHT = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
HEADERS = {
    "no length": b"\0\0",
    "endless header": header(b"{}", length=1 << 63),
    "no JSON": header(b"{"),
    "not covered": header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
    "overlap": header({"a": EIGHT, "b": EIGHT}, b"abcd"),
    "backwards": header({"a": EIGHT | {"data_offsets": [4, 0]}}, b"abcd"),
    "bfloat16": header({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"abcd"),
    "float8": header({"a": EIGHT | {"dtype": "F8_E4M3"}}, b"abcd"),
    "metadata a list": header({"__metadata__": {"shrinkflow": "[1]"}}),
    "metadata too deep": header({"__metadata__": {"shrinkflow": "[" * 100_000}}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HEADERS[name])
    with pytest.raises(UserError, match=r"x\.safetensors is not a whole safetensors file"):
        files.read_tensors(path)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1, 8, 10**12]},
        {"classes": 10**12},
        {"shape": "1, 8, 8"},
        {"normalisation": {"mean": ["x"], "std": [0.5]}},
        {"normalisation": {"mean": [0.5], "std": [None]}},
    ],
)
def test_metadata_of_another_kind(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "checkpoint.safetensors"
    described = checkpoints.metadata("digitsnet", (1, 8, 8), 10, [0.5], [0.5])
    checkpoints.save(path, digitsnet(), described)
    checkpoints.load(path)
    checkpoints.save(path, digitsnet(), described | change)
    with pytest.raises(UserError, match="is no checkpoint of shrinkflow"):
        checkpoints.load(path)


CODE = "import os\nos.system('touch pwned')\ndef build(shape, classes): ...\n"


@pytest.mark.parametrize(
    "place", ["results/x/net.py", "data/net.py", "./results/../results/net.py", "../net.py"]
)
def test_a_checkpoint_brings_no_code_along(tmp_path: Path, monkeypatch: Any, place: str) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_text(CODE)
    described = checkpoints.metadata(f"{place}:build", (1, 8, 8), 10, [0.5], [0.5])
    checkpoints.save("x.safetensors", digitsnet(), described)
    with pytest.raises(UserError, match=r"where nothing is run|outside the project"):
        checkpoints.load("x.safetensors")
    assert not list(tmp_path.rglob("pwned"))


def test_code_that_no_parser_takes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("(" * 5000, "x = " + "-" * 200_000 + "1", "\0"):
        Path("mine.py").write_text(text)
        with pytest.raises(UserError, match=r"'mine.py' is not valid Python"):
            own.parameters("mine.py", "f")
    Path("mine.py").write_text("def f(model, data, generator, *, a={[]: 1}): ...")
    with pytest.raises(UserError, match="needs a number, a text or a truth value"):
        own.parameters("mine.py", "f")


def test_a_file_whose_name_begins_with_dots_is_in_the_project(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("..mine.py").write_text("def f(model, data, generator): ...")
    assert own.parameters("..mine.py", "f") == {}


class Shell:
    """Unpickling this runs a command."""

    def __reduce__(self) -> Any:
        return __import__("os").system, ("touch pwned",)


def opcodes(text: bytes) -> bytes:
    return b"\x80\x02" + text + b"."


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"state_dict": {"w": Shell()}}),
        opcodes(b"cposix\nsystem\nX\x0b\0\0\0touch pwned\x85R"),
        opcodes(b"ctorch\nload\nX\x09\0\0\0again.pth\x85R"),
        opcodes(b"ctorch.hub\nload\nX\x01\0\0\0xX\x01\0\0\0y\x86R"),
        opcodes(b"cbuiltins\nexec\nX\x0a\0\0\0open('pwned','w')\x85R"),
        opcodes(b"cbuiltins\ngetattr\nctorch\n_utils\nX\x0f\0\0\0_rebuild_tensor\x86R"),
    ],
)
@pytest.mark.parametrize("container", ["pickle", "zip"])
def test_pickles_that_run_code(tmp_path: Path, monkeypatch: Any, content: bytes, container: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if container == "zip":
        import zipfile

        torch.save({}, path)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, content if name.endswith("data.pkl") else data)
    else:
        path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"weights\.pth (was refused|is not a whole PyTorch file|holds no state)"
    ):
        checkpoints.read_foreign(path, "digitsnet", (1, 8, 8), 10)
    assert [found.name for found in tmp_path.iterdir()] == ["weights.pth"]


def weights(file: str, digit: str) -> dict[str, Any]:
    normalisation = {"mean": [0.5], "std": [0.5]}
    return {
        "file": file,
        "url": "https://example.org/x",
        "sha256": digit * 64,
        "normalisation": normalisation,
    }


def test_two_files_of_one_name_are_not_mistaken_for_each_other() -> None:
    config = valid()
    config["weights"] = {"A": weights("one/x.pth", "0"), "B": weights("two/x.pth", "0")}
    study.load(config)
    config["weights"]["B"]["sha256"] = "1" * 64
    with pytest.raises(
        UserError, match=r"'weights.B.file': another file is called 'x.pth' too, that of 'weights.A'"
    ):
        study.load(config)
    config["weights"] = {"A": weights(PUBLISHED["resnet18"].name, "0")}
    with pytest.raises(UserError, match=r"that of 'torchvision'; rename one"):
        study.load(config)


@pytest.mark.parametrize(
    "name", ["{x}.pth", "-x.pth", ".x.pth", "x" * 250 + ".pth", "a/{b}.pth", "é" * 120 + ".pth"]
)
def test_names_that_snakemake_or_the_disk_cannot_take(name: str) -> None:
    with pytest.raises(UserError, match=r"'weights.A.file'(: a file cannot be called| cannot be '-x)"):
        study.load(valid() | {"weights": {"A": weights(name, "0")}})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("description", "a\u202eb", "'description' has a character that is not seen (U+202E)"),
        ("description", "a\0b", "'description' has a character that is not seen (U+0000)"),
        ("strategies/2/parameters", {"batches": 0}, "parameter 'batches' of score 'gradient-magnitude' must be from 1"),
        ("strategies/2/parameters", {"batches": 10**9}, "must be from 1 to 1000000, not 1000000000"),
        ("strategies/2", {"name": "x", "score": "magnitude", "schedule": "iterative", "factor": 1.0000001}, "must be at least 1.01"),
        ("recipes/short/gamma", 1000, "'recipes.short.gamma' must be at most 1, not 1000"),
        ("recipes/short/epochs", 10**40, "'recipes.short.epochs' must be at most 100000"),
        ("seeds", [10**40], "'seeds[0]' must be at most 4294967295"),
        ("ratios", [16**6000], "'ratios[0]' is a number of hundreds of digits"),
        ("datasets", {"m": {"source": "imagefolder", "folder": "-x"}}, "taken for an option; put ./ before it"),
        ("datasets", {"m": {"source": "imagefolder", "folder": "x" * 900}}, "there is no folder"),
        ("datasets", {"m": None}, "'datasets.m' must be a mapping, not nothing"),
        ("pairs/0", {"model": "digitsnet", "wieghts": ["A"]}, "unknown key 'wieghts' in 'pairs[0]'"),
    ],
)  # fmt: skip
def test_numbers_and_texts_beyond_all_use(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        study.load(with_change(path, value))
    assert message in str(caught.value)


def test_a_description_may_have_lines_and_any_script() -> None:
    text = "Zwei Zeilen,\nand \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 {braces}"
    assert study.load(valid() | {"description": text}).description == text


def test_what_a_study_names_is_told_and_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)
    config = with_change("models", {"mine": {"file": "net.py", "function": "build"}})
    config["strategies"].append({"name": "m", "file": "score.py", "function": "f"})
    config["weights"]["C"] = weights("w.pth", "0")
    config["datasets"] = {"d": {"source": "imagefolder", "folder": "/pictures"}}
    Path("study.yaml").write_text(yaml.safe_dump(config))
    assert inspection.lines("study.yaml")[1:] == [
        "  code that will run: score.py",
        "  code that will run: net.py",
        "  a folder of pictures: /pictures",
        "  weights: w.pth",
        "  an address: https://example.org/x",
    ]
    Path("study.yaml").write_text("__use_yte__: true\n")
    with pytest.raises(UserError, match=r"^study.yaml: the key '__use_yte__' makes Snakemake run Python"):
        inspection.lines("study.yaml")
    assert not Path("pwned").exists()


def test_every_value_in_a_shell_command_is_quoted() -> None:
    """Either by Snakemake (`:q`), or because its function joins words by `shlex`, or because it is a number."""
    rules = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    joined = {
        "options",
        "recipe",
        "computing",
        "folder",
        "candidates",
        "keep",
        "seed",
        "label",
        "places",
        "origin",
        "resume",
    }
    joined |= {"pictures", "study", "content"}
    plain = {f"params.{name}" for name in joined} | {"wildcards.seed", "wildcards.ratio", "wildcards.figure"}
    commands = re.findall(r'^    shell:\n((?:        ".*"\n?)+)', rules, re.MULTILINE)
    assert len(commands) == rules.count("    shell:") > 10
    used = {value for command in commands for value in re.findall(r"\{([^}]*)\}", command)}
    assert {value for value in used if not value.endswith(":q")} <= plain


def test_yaml_is_only_read_by_the_safe_loader() -> None:
    sources = [path.read_text() for path in (ROOT / "workflow/scripts").rglob("*.py")]
    assert not [
        text for text in sources if re.search(r"yaml\.(load|full_load|unsafe_load)\(|pickle\.load", text)
    ]
