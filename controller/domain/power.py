"""What a decision may ask of a fence agent, and what came of it: the edge runs it (controller.power)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controller.api.fencing import FencingSpec


@dataclass(frozen=True, slots=True)
class Device:
    """`spec.fencing` as far as it says whom to ask what: the fence agent, its parameters, the Secret of its login."""

    agent: str
    parameters: tuple[tuple[str, str], ...]
    secret: str | None
    seconds: int  # time limit of each run

    @classmethod
    def of(cls, spec: FencingSpec) -> Device:
        return cls(
            agent=spec.agent,
            parameters=tuple(sorted(spec.parameters.items())),
            secret=spec.secret_ref.name if spec.secret_ref else None,
            seconds=spec.timeout_seconds,
        )


@dataclass(frozen=True, slots=True)
class PowerOff:
    """Switch the host off and confirm it: `off`, then `status`. Idempotent.

    Only carried out while status.fencing of the host still is this operation and attempt, and no fencing of a host in
    `partners` is on its way or recorded: both are read anew from the API server.
    """

    host: str
    device: Device
    operation: str
    attempt: int
    partners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PowerOn:
    """Switch the host on again and confirm it: `on`, then `status`. Idempotent.

    Only carried out while status.fenced of the host still has this operation and this attempt to switch it on: read
    anew from the API server.
    """

    host: str
    device: Device
    operation: str
    attempt: int


@dataclass(frozen=True, slots=True)
class PowerStatus:
    """Ask whether the host is on. Changes nothing."""

    host: str
    device: Device


PowerCommand = PowerOff | PowerOn | PowerStatus


@dataclass(frozen=True, slots=True)
class PowerResult:
    """`off`: the fence agent said so and its exit status says the same (2); after PowerOff also that it did it (0).
    `failed`: anything else, a time-out too; nothing follows from it. `running`: not over yet.

    `said`: what the agent said, without secrets. `began`, `at`: Unix time of begin and end.
    """

    state: Literal["running", "on", "off", "failed"]
    began: float
    at: float = 0.0
    reason: str = ""  # one CamelCase word when failed
    said: str = ""
