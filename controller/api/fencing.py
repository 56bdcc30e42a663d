"""How a XenNode is switched off by a ClusterLabs fence agent, and what is recorded of it."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from controller.api.common import ApiModel, Message, Time, cut
from controller.api.rules import Rule, checked, text, validations

AGENT = "fence_[a-z0-9_]+"
"""Names of fence agents: a program of that name in the controller's folder of them, never a path."""
NO_POWER = (
    "fence_ack_manual", "fence_brocade", "fence_cisco_mds", "fence_dummy", "fence_heuristics_ping", "fence_ifmib",
    "fence_kdump", "fence_mpath", "fence_sanbox2", "fence_sbd", "fence_scsi",
)  # fmt: skip
"""Fence agents that switch no power: they cut a host off from shared storage or from a network, wait for a crash dump,
ask a person, or do nothing. Their "off" is no evidence that a domain on the host has ended."""
PARAMETER = "[a-z][a-z0-9_]{0,62}"
RESERVED = (
    "action|option|agent|nodename|method|version|help|quiet|verbose.*|debug.*|.*_path|.*_script|.*passw.*|.*_passwd"
    "|ssh_options|use_sudo"
)
"""Parameters that are not a person's to give: what to do is the controller's decision; passwords belong into the
Secret; the others name programs and options to run, or files to write (fencing.py of fence-agents)."""
PARAMETER_VALUE = r"[A-Za-z0-9_.,:/@%+=~\[\]-]*"
"""No blank, no quote: some agents build a command line of these (fence_ipmilan: ipmitool's)."""

_NO_POWER_CEL = "[" + ", ".join(f"'{name}'" for name in NO_POWER) + "]"


class FencingSecret(ApiModel):
    """Names the Secret with the fence device's login."""

    name: Annotated[
        str,
        checked(
            text("[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "write the name of a Secret, such as mk1-bmc"),
            max_length=253,
        ),
    ]
    """Name of a Secret in the controller's namespace for them, xentandem-fencing. Its keys are parameters of the fence
    agent, such as username and password."""


class FencingSpec(ApiModel):
    """The fence agent that switches the host off, and when it is asked to."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                f"!(self.agent in {_NO_POWER_CEL})",
                "this fence agent switches no power: write one that does, such as fence_ipmilan or fence_redfish",
                path=".agent",
            ),
        )
    )

    agent: Annotated[
        str,
        checked(
            text(AGENT, "write the name of a fence agent, such as fence_ipmilan, without a path"),
            max_length=64,
        ),
    ]
    """Name of a ClusterLabs fence agent that switches power, such as fence_ipmilan or fence_redfish."""
    parameters: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        checked(
            Rule(
                f"self.all(name, name.matches('^({PARAMETER})$'))",
                "write the parameters' names as the fence agent's manual page does, such as ip or lanplus",
            ),
            Rule(
                f"self.all(name, !name.matches('^({RESERVED})$'))",
                "action, method, passwords, paths, scripts and debugging are no parameters here; put passwords into the"
                " Secret that secretRef names",
            ),
            Rule(
                "self.all(name, self[name].matches('^" + PARAMETER_VALUE.replace("\\", "\\\\") + "$'))",
                "write values without blanks and quotes, such as 10.0.1.81 or /redfish/v1/Systems/1",
            ),
            max_length=32,
        ),
    ] = {}
    """Parameters of the fence agent by name, such as ip: 10.0.1.81 and lanplus: "1". No passwords: they belong into the
    Secret."""
    secret_ref: FencingSecret | None = None
    """The Secret with the login. Its values are told to the fence agent only, by its standard input."""
    after_seconds: Annotated[int, Field(ge=5, le=3600)] = 60
    """How long the host's agent must be silent before the host may be switched off."""
    timeout_seconds: Annotated[int, Field(ge=5, le=600)] = 60
    """Time limit of each run of the fence agent. A run that lasts longer is ended and proves nothing."""
    power_on: Literal["Never", "AfterFencing"] = "Never"
    """Never: a host that was switched off stays off until a person switches it on. AfterFencing: it is switched on
    again once that it is off is recorded and its VMs are taken over; from then on it is not known to be off."""

    @property
    def device(self) -> str:
        """Stands for all that decides which machine is switched off: another text after every change of it."""
        told = json.dumps([self.agent, sorted(self.parameters.items()), self.secret_ref and self.secret_ref.name])
        return f"{self.agent} {hashlib.sha256(told.encode()).hexdigest()[:16]}"


class FencingStatus(ApiModel):
    """A fencing that is on its way, written before the fence agent is first asked to switch the host off."""

    operation: Annotated[str, Field(max_length=63)]
    """Identifier of the fencing."""
    requested_at: Time
    """When it was decided."""
    reason: Message
    """Why the host is switched off."""
    boot_id: Annotated[str, Field(alias="bootID", min_length=1, max_length=64)]
    """The host's last known boot."""
    device: Annotated[str, Field(max_length=128)]
    """Which spec.fencing it was decided with."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Counts the attempts."""
    not_before: Time
    """When this attempt begins."""
    answering: Annotated[tuple[Annotated[str, Field(max_length=253)], ...], Field(max_length=64), cut(64)] = ()
    """Other hosts that answered when it was decided: one that is not heard afterwards may be what was switched off."""
    result: Message = ""
    """What became of the attempt before."""


class PowerOnStatus(ApiModel):
    """That a fenced host is switched on again, written before its fence agent is first asked to."""

    requested_at: Time
    """When it was decided: from then on the host is not known to be off."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Counts the attempts."""
    not_before: Time
    """When this attempt begins."""
    result: Message = ""
    """What became of the attempt before; of the last one, what the fence agent said."""
    done_at: Time | None = None
    """When the fence agent said that the host is on."""


class FencedStatus(ApiModel):
    """The record that a fence agent switched the host off and then confirmed that it is off."""

    at: Time
    """When the fence agent confirmed that the host is off."""
    boot_id: Annotated[str, Field(alias="bootID", min_length=1, max_length=64)]
    """The host's last known boot. The record ends when its agent answers in another one: the host came back."""
    operation: Annotated[str, Field(max_length=63)]
    """Identifier of the fencing that switched it off."""
    device: Annotated[str, Field(max_length=128)] = ""
    """Which spec.fencing confirmed it."""
    evidence: Message
    """The fence agent's name and what it said."""
    contradicted_at: Time | None = None
    """When the host's agent answered in the very boot that had been fenced. The host was never off: the record is no
    evidence, and a person must find out which machine spec.fencing switches off."""
    power_on: PowerOnStatus | None = None
    """That it is switched on again (spec.fencing.powerOn)."""
