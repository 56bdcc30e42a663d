"""The files made from the models: nothing that a structural schema cannot say, and no drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import generated
import pytest
import yaml
from pydantic import Field

from controller.api.common import ApiModel
from controller.api.crd import KINDS, Kind, NotStructural, Schema, crd, object_schema, structural
from controller.api.rules import cel_string, text


def test_what_is_committed_is_what_the_models_make() -> None:
    assert generated.drift() == []


def test_drift_is_found_and_mended(tmp_path: Path) -> None:
    wanted = {str(path) for path in generated.files()}
    assert {str(path) for path in generated.write(tmp_path)} == wanted
    assert generated.drift(tmp_path) == []
    assert generated.write(tmp_path) == []

    edited = tmp_path / "crds" / "xenvms.xentandem.io.yaml"
    edited.write_text(edited.read_text().replace("maxItems: 16", "maxItems: 99", 1))
    (tmp_path / "crds" / "old.yaml").write_text("kind: Old\n")
    lines = generated.drift(tmp_path)
    assert any(line.startswith("-") and "maxItems: 99" in line for line in lines)
    assert lines[-1] == "crds/old.yaml: nothing makes this file any more"
    assert generated.write(tmp_path) == [Path("crds/xenvms.xentandem.io.yaml")]


class Union(ApiModel):
    field: Annotated[int | str, Field(description="x")]


class OpenDictionary(ApiModel):
    field: dict[str, str]


class Endless(ApiModel):
    field: tuple[int, ...]


class Novel(ApiModel):
    field: str


class Even(ApiModel):
    field: Annotated[int, Field(multiple_of=2)]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Union, "Union.field: a union of 2 types"),
        (OpenDictionary, "OpenDictionary.field: a list or an object without a limit"),
        (Endless, "Endless.field: a list or an object without a limit"),
        (Novel, "Novel.field: a text without a limit"),
        (Even, "Even.field: multipleOf"),
    ],
)
def test_what_a_structural_schema_cannot_say_is_refused(model: type[ApiModel], message: str) -> None:
    schema = model.model_json_schema(mode="serialization")
    with pytest.raises(NotStructural) as caught:
        structural(schema, schema.get("$defs", {}), model.__name__)
    assert str(caught.value) == message


def _every(schema: Schema, path: str) -> list[tuple[str, Schema]]:
    found = [(path, schema)]
    for name, one in schema.get("properties", {}).items():
        found += _every(one, f"{path}.{name}")
    return found + (_every(schema["items"], f"{path}[]") if "items" in schema else [])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_is_described_and_says_what_it_is(kind: Kind) -> None:
    parts = object_schema(kind)["properties"]
    for part in ("spec", "status"):
        for path, schema in _every(parts[part], part):
            assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
            assert path.endswith("[]") or schema.get("description", "").endswith((".", ")", "%")), path
            assert "$ref" not in schema, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_columns_show_fields_that_are_there(kind: Kind) -> None:
    schema = object_schema(kind)
    paths = {f".{path}" for part in ("spec", "status") for path, _ in _every(schema["properties"][part], part)}
    paths |= {
        ".metadata.creationTimestamp",
        *(f'.status.conditions[?(@.type=="Ready")].{one}' for one in ("status", "message")),
        '.status.conditions[?(@.type=="Drained")].reason',
    }
    assert {column.path for column in kind.columns} <= paths
    assert set(kind.selectable) <= paths


def test_the_names_that_people_type() -> None:
    made = {kind.name: crd(kind)["spec"] for kind in KINDS}
    names: dict[str, Any] = {name: spec["names"] for name, spec in made.items()}
    assert {name: one["shortNames"] for name, one in names.items()} == {
        "XenNode": ["xnode"], "DrbdVolume": ["dvol"], "XenVM": ["xvm"],
    }  # fmt: skip
    assert all(one["categories"] == ["xen"] for one in names.values())
    assert {name: spec["scope"] for name, spec in made.items()} == {
        "XenNode": "Cluster", "DrbdVolume": "Namespaced", "XenVM": "Namespaced",
    }  # fmt: skip


def test_the_reference_has_every_field_and_no_broken_table() -> None:
    document = generated.files()[Path("docs/reference.md")]
    for kind in KINDS:
        for part in ("spec", "status"):
            for path, _ in _every(object_schema(kind)["properties"][part], part):
                assert path == part or path.endswith("[]") or f"| `{path}` |" in document, path
    for line in document.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in (3, 4), line


def test_generated_yaml_is_what_was_generated() -> None:
    for kind in KINDS:
        assert yaml.safe_load(generated.files()[Path("crds") / f"{kind.crd_name}.yaml"]) == crd(kind)


def test_patterns_survive_cel() -> None:
    assert cel_string('a\\x00"b\n') == '"a\\\\x00\\"b\\n"'
    assert text("a|b", "say").rule == 'self.matches("^(a|b)$")'
