"""CustomResourceDefinitions made from the models: structural schemas with descriptions, CEL rules, printer columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from controller.api.common import GROUP, VERSION, ApiObject
from controller.api.drbdvolume import DrbdVolume
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM

Schema = dict[str, Any]

_KEPT = (
    "description", "type", "x-kubernetes-int-or-string", "format", "enum", "pattern", "default", "minimum", "maximum",
    "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-validations",
)  # fmt: skip
_DROPPED = {"title", "additionalProperties", "readOnly", "$defs", "required", "properties", "items", "const"}


class NotStructural(Exception):
    """A model has something that a structural schema cannot say."""


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; `wide`: only with -o wide."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False

    def as_printer_column(self) -> dict[str, Any]:
        made: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.type != "date":
            made["description"] = self.description
        if self.wide:
            made["priority"] = 1
        return made


@dataclass(frozen=True)
class Kind:
    """One custom resource."""

    model: type[ApiObject]
    plural: str
    short: str
    namespaced: bool
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.model.__name__

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


def _ready(field: str) -> str:
    return _condition("Ready", field)


_AGE = Column("Age", ".metadata.creationTimestamp", "", type="date")
_MESSAGE = Column("Message", _ready("message"), "What the Ready condition says.", wide=True)

KINDS: tuple[Kind, ...] = (
    Kind(
        XenNode, "xennodes", "xnode", False,
        (
            Column("Ready", _ready("status"), "Whether the host can be used."),
            Column("Xen", ".status.xenVersion", "Version of the hypervisor."),
            Column("DRBD", ".status.drbdVersion", "Version of the DRBD kernel module."),
            Column("Free memory", ".status.memory.free", "Memory that no domain has."),
            Column("VMs", ".status.domains", "Domains on the host that are XenVMs.", type="integer"),
            Column("Maintenance", _condition("Drained", "reason"), "How far the host is cleared."),
            Column("Phase", ".status.phase", "One word on how the host stands.", wide=True),
            Column("Address", ".spec.agent.address", "Where the agent is reached.", wide=True),
            _MESSAGE,
            _AGE,
        ),
    ),
    Kind(
        DrbdVolume, "drbdvolumes", "dvol", True,
        (
            Column("Disk", ".status.diskState", "Disk states as /proc/drbd shows them (ds:)."),
            Column("Connection", ".status.connection", "Connection as /proc/drbd shows it (cs:)."),
            Column("Primary", ".status.primary", "The host on which the volume can be written to."),
            Column("Survivor", ".status.verdict.survivor", "The host that goes on without the other one."),
            Column("Size", ".spec.size", "Size of the logical volume."),
            Column("Sync", ".status.sync.summary", "Progress, speed and time left of the synchronisation."),
            Column("Phase", ".status.phase", "One word on how the volume stands.", wide=True),
            Column("Nodes", ".status.nodes", "The hosts that hold a replica.", wide=True),
            Column("Minor", ".status.device.minor", "The device is /dev/drbd<minor>.", type="integer", wide=True),
            Column("Port", ".status.device.port", "TCP port of the replication.", type="integer", wide=True),
            Column("Used by", ".status.usedBy", "XenVMs that have the volume as a disk.", wide=True),
            _MESSAGE,
            _AGE,
        ),
    ),
    Kind(
        XenVM, "xenvms", "xvm", True,
        (
            Column("Node", ".status.placement.node", "The host that may run the VM."),
            Column("State", ".status.phase", "One word on how the VM stands."),
            Column("Memory", ".spec.memory", "Memory that the VM starts with."),
            Column("Migration", ".status.migration.summary", "The live migration on its way."),
            Column("Displaced", ".status.displaced.summary", "Why it is not on the host that the spec asks for."),
            Column("Wanted node", ".spec.node", "The host that the spec asks for.", wide=True),
            Column("ID", ".status.domain.id", "Domain number, as xl list shows it.", type="integer", wide=True),
            Column("VCPUs", ".spec.vcpus", "Virtual CPUs.", type="integer", wide=True),
            _MESSAGE,
            _AGE,
        ),
        (".spec.node", ".status.placement.node"),
    ),
)  # fmt: skip


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": object_schema(kind)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column.as_printer_column() for column in kind.columns],
    }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": ["xen"],
            },
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }


def object_schema(kind: Kind) -> Schema:
    """The schema of a whole object."""
    generated = kind.model.model_json_schema(by_alias=True, mode="serialization")
    definitions = generated.get("$defs", {})
    whole = structural(generated, definitions, kind.name)
    properties = whole["properties"]
    spec, status = properties["spec"], properties["status"]
    _as_observed(status)
    # kstatus takes an object without a status for finished; this default says that nobody looked at it yet.
    status["default"] = {"observedGeneration": -1}
    return {
        "type": "object",
        "description": whole["description"],
        "required": ["spec"],
        "x-kubernetes-validations": whole.get("x-kubernetes-validations", []),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}},
            "spec": spec,
            "status": status,
        },
    }


def structural(schema: Schema, definitions: dict[str, Schema], where: str) -> Schema:
    """A JSON schema of pydantic's as a structural schema: references inlined, null dropped, nothing but what is kept.

    Raises NotStructural for a union, an open dictionary, or a keyword that is not known here.
    """
    schema = dict(schema)
    if "$ref" in schema:
        name = schema.pop("$ref").rpartition("/")[2]
        schema = {**definitions[name], **schema}
    if "anyOf" in schema:
        branches = [branch for branch in schema.pop("anyOf") if branch.get("type") != "null"]
        if len(branches) != 1:
            raise NotStructural(f"{where}: a union of {len(branches)} types")
        return structural({**branches[0], **schema}, definitions, where)
    if unknown := set(schema) - set(_KEPT) - _DROPPED:
        raise NotStructural(f"{where}: {', '.join(sorted(unknown))}")

    made = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        made["enum"] = [schema["const"]]
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    if made.get("x-kubernetes-int-or-string"):
        for key in ("type", "maxLength"):
            made.pop(key, None)
    if made.get("default", ()) in (None, "", [], {}, False):
        # Left out of an object they mean the same, and objects stay as short as they were written.
        del made["default"]
    _contents(made, schema, definitions, where)
    return made


def _contents(made: Schema, schema: Schema, definitions: dict[str, Schema], where: str) -> None:
    """What is inside a list or an object. Everything has a limit, or CEL rules would be refused for their cost."""
    match schema.get("type"):
        case "array" if "maxItems" in schema:
            made["items"] = structural(schema["items"], definitions, f"{where}[]")
        case "object" if "properties" in schema:
            _object(made, schema, definitions, where)
        case "object" if "maxProperties" in schema:
            made["additionalProperties"] = structural(schema["additionalProperties"], definitions, f"{where}{{}}")
        case "array" | "object":
            raise NotStructural(f"{where}: a list or an object without a limit")
        case "string" if not {"maxLength", "enum", "x-kubernetes-int-or-string"} & set(made):
            raise NotStructural(f"{where}: a text without a limit")


def _object(made: Schema, schema: Schema, definitions: dict[str, Schema], where: str) -> None:
    properties = schema["properties"]
    if where in {kind.name for kind in KINDS}:
        properties = {name: properties[name] for name in ("spec", "status")}
    made["properties"] = {name: structural(one, definitions, f"{where}.{name}") for name, one in properties.items()}
    computed = {name for name, one in properties.items() if one.get("readOnly")}
    if required := [name for name in schema.get("required", ()) if name not in computed]:
        made["required"] = required
    if "default" in made:
        # Spelled out, {type: Internal}: rules see the default of an object before the defaults of its fields.
        made["default"] = {name: one["default"] for name, one in made["properties"].items() if "default" in one}
        if not made["default"]:
            del made["default"]


def _as_observed(schema: Schema) -> None:
    """No defaults, so that the controller reads back what it wrote, and no rules, for nobody else writes a status."""
    schema.pop("default", None)
    schema.pop("x-kubernetes-validations", None)
    for one in schema.get("properties", {}).values():
        _as_observed(one)
    if "items" in schema:
        _as_observed(schema["items"])


class _Dumper(yaml.SafeDumper):
    """YAML as people write it: lists indented below their key, no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(document: dict[str, Any]) -> str:
    """The document with the header of a generated file."""
    body = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Generated by hack/generate from controller/api; do not edit.\n{body}"


def file_name(kind: Kind) -> str:
    """Below crds/."""
    return f"{kind.crd_name}.yaml"
