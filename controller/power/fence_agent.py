"""The standard of ClusterLabs fence agents: what they are told, and what their exit status means.

Source: FenceAgentAPI.md of ClusterLabs/fence-agents and its lib/fencing.py. `key=value` lines on standard input. off: 0
when done. status: 0 the host is on, 2 it is off, 1 the device could not be asked. But 2 is also what Python, a shell
and some agents (fence_ibm_vpc: EC_BAD_ARGS) end with when they cannot run at all; so that an exit status of 2 counts
only together with the word OFF that the agents of the package print for it.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from controller.api.fencing import PARAMETER, PARAMETER_VALUE, RESERVED
from controller.domain.power import Device, PowerResult
from controller.power.program import Completed, NoProgram, find, run

Action = Literal["off", "on", "status"]
SAID_LENGTH = 500
SECRET_NAMES_TOO = "|".join(one for one in RESERVED.split("|") if "passw" not in one)
"""Names that a Secret may not give either: a Secret gives the passwords, and nothing else that a spec may not."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LOG_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ *")
_OFF = re.compile(r"\boff\b", re.IGNORECASE)


class BadInput(Exception):
    """What was to be told cannot be told: `reason` is one CamelCase word, the message has no secret in it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def stdin_lines(action: Action, device: Device, secret: Mapping[str, str]) -> list[str]:
    """What the fence agent reads; one line for each parameter, the Secret's last. Raises BadInput."""
    lines = [f"action={action}"]
    for name, value in device.parameters:
        if re.fullmatch(PARAMETER, name) is None or re.fullmatch(RESERVED, name) is not None:
            raise BadInput("BadParameter", f"spec.fencing.parameters: {name!r} is no parameter that may be given")
        if re.fullmatch(PARAMETER_VALUE, value) is None:
            raise BadInput("BadParameter", f"spec.fencing.parameters.{name}: write a value without blanks and quotes")
        lines.append(f"{name}={value}")
    for name, value in sorted(secret.items()):
        where = f"Secret {device.secret}: key"
        if re.fullmatch(PARAMETER, name) is None or re.fullmatch(SECRET_NAMES_TOO, name) is not None:
            raise BadInput(
                "BadSecret", f"{where} {name!r} is no parameter that may be given; username and password are"
            )
        if name in dict(device.parameters):
            raise BadInput("BadSecret", f"{where} {name} is in spec.fencing.parameters too: write it once")
        if _CONTROL.search(value):
            raise BadInput(
                "BadSecret",
                f"{where} {name} holds a line break or another control character, often a line break at its end: make "
                "it with kubectl create secret generic --from-literal, or with printf instead of echo",
            )
        lines.append(f"{name}={value}")
    return lines


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text with each secret replaced, also as it is in a URL or in base64; without line breaks and the times of a
    log, so that the same trouble is told in the same words."""
    known = sorted({form for value in secrets for form in _forms(value) if form}, key=len, reverse=True)
    for form in known:
        text = text.replace(form, "***")
    text = _LOG_TIME.sub("", text)
    text = " ".join(_CONTROL.sub(" ", text).split())
    return text if len(text) <= SAID_LENGTH else f"{text[:SAID_LENGTH]}..."


def _forms(value: str) -> tuple[str, ...]:
    coded = base64.b64encode(value.encode()).decode()
    return value, quote(value), quote(value, safe=""), coded, coded.rstrip("=")


@dataclass(frozen=True, slots=True)
class FenceAgents:
    """The fence agents of one folder."""

    directory: Path
    now: Callable[[], float] = time.time

    async def status(self, device: Device, secret: Mapping[str, str]) -> PowerResult:
        """Ask whether it is on. Changes nothing."""
        began = self.now()
        try:
            return await self._ask(device, secret, began)
        except (BadInput, NoProgram) as error:
            return self._failed(began, _reason(error), str(error))

    async def off(self, device: Device, secret: Mapping[str, str]) -> PowerResult:
        """Switch off, then ask. `off` only when both went well; what the second says alone proves nothing."""
        began = self.now()
        try:
            done = await self._run("off", device, secret)
            if done.exit != 0:
                return self._failed(began, *_trouble(device, "off", done, secret))
            asked = await self._ask(device, secret, began)
        except (BadInput, NoProgram) as error:
            return self._failed(began, _reason(error), str(error))
        first = without_secrets(done.stdout, secret.values()) or "done"
        if asked.state == "on":
            said = f"{device.agent}: off: {first}; but status: the host is still on"
            return self._failed(began, "StillOn", said)
        if asked.state == "off":
            return PowerResult("off", began, self.now(), said=f"{device.agent}: off: {first}; {asked.said}")
        return self._failed(began, asked.reason, f"off was not confirmed: {asked.said}")

    async def on(self, device: Device, secret: Mapping[str, str]) -> PowerResult:
        """Switch on, then ask. `on` only when both went well."""
        began = self.now()
        try:
            done = await self._run("on", device, secret)
            if done.exit != 0:
                return self._failed(began, *_trouble(device, "on", done, secret))
            asked = await self._ask(device, secret, began)
        except (BadInput, NoProgram) as error:
            return self._failed(began, _reason(error), str(error))
        first = without_secrets(done.stdout, secret.values()) or "done"
        if asked.state == "on":
            return PowerResult("on", began, self.now(), said=f"{device.agent}: on: {first}; {asked.said}")
        if asked.state == "off":
            return self._failed(began, "StillOff", f"{device.agent}: on: {first}; but status: the host is still off")
        return self._failed(began, asked.reason, f"on was not confirmed: {asked.said}")

    async def _ask(self, device: Device, secret: Mapping[str, str], began: float) -> PowerResult:
        done = await self._run("status", device, secret)
        said = without_secrets(done.stdout, secret.values())
        if done.exit == 0:
            return PowerResult("on", began, self.now(), said=f"status: {said or 'on'}")
        if done.exit == 2 and _OFF.search(done.stdout):
            return PowerResult("off", began, self.now(), said=f"status: {said} (exit status 2)")
        return self._failed(began, *_trouble(device, "status", done, secret))

    async def _run(self, action: Action, device: Device, secret: Mapping[str, str]) -> Completed:
        lines = stdin_lines(action, device, secret)
        return await run(find(self.directory, device.agent), lines, device.seconds)

    def _failed(self, began: float, reason: str, said: str) -> PowerResult:
        return PowerResult("failed", began, self.now(), reason, said)


def _reason(error: BadInput | NoProgram) -> str:
    return error.reason if isinstance(error, BadInput) else "AgentMissing"


def _trouble(device: Device, action: Action, done: Completed, secret: Mapping[str, str]) -> tuple[str, str]:
    if done.exit is None:
        return "TimedOut", f"{device.agent} {action} was not over within {device.seconds} s and was ended"
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]  # of what lib/fencing.py logs
    words = without_secrets("\n".join(errors) or done.stderr, secret.values()) or without_secrets(
        done.stdout, secret.values()
    )
    return "AgentFailed", f"{device.agent} {action} ended with {done.exit}: {words or 'without a word'}"
