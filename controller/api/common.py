"""What the three kinds share: base classes, metadata, conditions, quantities.

Field docstrings become the descriptions that `kubectl explain` shows. In Python names are snake_case, in Kubernetes
camelCase. All values are immutable; a changed status is a copy (`status.model_copy(update={...})`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from controller.api.rules import Rule, checked, text, validations

GROUP = "xentandem.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MIB = 1024 * 1024

_QUANTITY = re.compile(r"([+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|m|k|M|G|T|P|E|[eE][+-]?[0-9]+)?")
_SUFFIX = {
    None: Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20),
    "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def quantity_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity ("512Mi" -> 536870912), rounded up as Kubernetes does. Raises ValueError."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a quantity; write it like 512Mi or 4Gi")
    number, suffix = found.groups()
    factor = _SUFFIX[suffix] if suffix in _SUFFIX else Decimal(f"1{suffix}")
    exact = Decimal(number) * factor
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def mib_quantity(mib: int) -> str:
    """A quantity as the status shows it: "512Mi"."""
    return f"{mib}Mi"


def bytes_quantity(size: int) -> str:
    """The largest binary unit that is exact: 536870912 -> "512Mi", 4294967296 -> "4Gi", 67067904 -> "65496Ki"."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        factor = int(_SUFFIX[unit])
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _quantity_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_quantity_text),
    Field(max_length=32, json_schema_extra={"x-kubernetes-int-or-string": True}),
]
"""A Kubernetes quantity, kept as it was written ("512Mi"); a bare number is bytes. See `quantity_bytes`."""


def mebibytes(least: str, most: str) -> dict[str, Any]:
    """Rules for a quantity that tools take in MiB, between both limits."""
    amount = "quantity(string(self))"
    mib = f"{amount}.asApproximateFloat() / {MIB}.0"  # exact: limits are far below 2**53 MiB
    within = f"{amount}.compareTo(quantity('{least}')) >= 0 && {amount}.compareTo(quantity('{most}')) <= 0"
    return validations(
        Rule("isQuantity(string(self))", "write a quantity such as 512Mi or 4Gi"),
        Rule(
            f"!isQuantity(string(self)) || ({within})",
            f"write at least {least} and at most {most}, with the unit: a number alone is bytes",
        ),
        Rule(
            f"!isQuantity(string(self)) || !({within}) || double(int({mib})) == {mib}",
            "write a whole number of MiB, such as 512Mi or 4Gi: what lvcreate and xl call 512M is 512Mi here",
        ),
    )


COUNT_LIMIT = 1 << 52
"""Epochs, runs and verdicts end below it, and so does the next one: agents take what JSON's readers agree on
(RFC 8259, 6: below 2**53)."""

Time = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC, as it is in JSON: "2031-02-01T10:00:00Z"."""

NodeName = Annotated[
    str,
    checked(
        text("[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "write the name of a XenNode, such as mk1 (kubectl get xnode)"),
        max_length=63,
    ),
]
"""Name of a XenNode: `uname -n` of the dom0 (drbd.conf(5), `on host-name`)."""

GroupName = Annotated[
    str,
    checked(
        text(
            "[A-Za-z0-9_][A-Za-z0-9_.+-]*", "write the name of an LVM volume group, such as vg0 (lvm(8), VALID NAMES)"
        ),
        max_length=63,
    ),
]
"""Name of an LVM volume group."""


class ApiModel(BaseModel):
    """Base of everything in a custom resource: camelCase outside, immutable, unknown fields are ignored.

    They are ignored because the API server has already pruned or refused what its schema doesn't know; what is left
    comes from a newer version of the CRDs.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )


class ObjectMeta(ApiModel):
    """The part of an object's metadata that decisions need."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


def cut(length: int) -> BeforeValidator:
    """What is longer than the schema allows (a tool's whole output) is cut: a status that is refused helps nobody."""

    def shortened(value: object) -> object:
        if isinstance(value, str) and len(value) > length:
            return value[: length - 1] + "…"
        return value[:length] if isinstance(value, tuple | list) else value

    return BeforeValidator(shortened)


Message = Annotated[str, Field(max_length=1024), cut(1024)]
"""Words for people."""


class Condition(ApiModel):
    """One observed condition of the object, as in the Kubernetes API conventions."""

    type: Annotated[str, Field(max_length=63, pattern=r"^[A-Z][A-Za-z]*$")]
    """What the condition is about: Ready; Reconciling and Stalled are there only while they are True."""
    status: Literal["True", "False", "Unknown"]
    """True, False, or Unknown when it cannot be observed now."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that the condition was worked out for."""
    last_transition_time: Time
    """When the status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """One CamelCase word for machines: why the status is what it is."""
    message: Annotated[str, Field(max_length=4096), cut(4096)] = ""
    """One or two sentences for people, with the numbers, and what to do when something has to be done."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


def condition(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((one for one in conditions if one.type == type_), None)


class OperationRecord(ApiModel):
    """The running operation, written before its first effect, so that it goes on after a crash."""

    id: Annotated[str, Field(max_length=63)]
    """Identifier that every request of the operation carries; an agent joins a repeated one."""
    plan: Annotated[str, Field(max_length=63)]
    """Plan and version, such as volume.create/v1: docs/reference.md says its steps."""
    step: Annotated[str, Field(max_length=63)]
    """The step that is being carried out or confirmed."""
    started_at: Time
    """When the operation began."""
    message: Message = ""
    """What it waits for, in words."""


class Status(ApiModel):
    """Base of the three statuses."""

    observed_generation: Annotated[int, Field(ge=-1)] = -1
    """The metadata.generation that this status speaks of; -1 until the controller first looked at the object."""
    conditions: Conditions = ()
    """Ready says whether the object is as its spec wants it; Reconciling=True: being worked on; Stalled=True: it cannot
    go on until somebody changes something."""

    def to_status_dict(self) -> dict[str, Any]:
        """The value for `status` in a PUT of the status subresource; what is unset or at its default is left out."""
        made = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        made["observedGeneration"] = self.observed_generation
        return made


class ApiObject(ApiModel):
    """Base of the three kinds."""

    api_version: str = API_VERSION
    kind: str
    metadata: ObjectMeta
    if TYPE_CHECKING:
        status: Status  # each kind's own, after its spec

    @classmethod
    def from_object(cls, raw: Mapping[str, Any]) -> Self:
        """Parse what the API server gave. Raises pydantic.ValidationError for what its schema would refuse."""
        return cls.model_validate(raw)

    @property
    def deleting(self) -> bool:
        return self.metadata.deletion_timestamp is not None
