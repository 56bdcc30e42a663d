"""The words of one file of drbd.conf(5), what they can say, and drbdadm's complaints about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.simulation import drbd_options as options
from agent.simulation.drbd_scan import TK, Token


class ConfigError(Exception):
    """The configuration is bad: drbdadm prints this and ends so, whatever it was asked to do."""

    def __init__(self, text: str, exit: int = 10) -> None:
        super().__init__(text)
        self.exit = exit


@dataclass(frozen=True)
class Claim:
    """Something that nothing else may use, as drbdadm names it."""

    what: str
    key: str
    place: str


@dataclass(frozen=True)
class Complaint:
    """Said at once; nothing is done in the end, but reading goes on."""

    text: str


@dataclass(frozen=True)
class Include:
    pattern: str
    place: str


@dataclass(frozen=True)
class HostPart:
    """What an `on` section says, with what it inherits from the resource."""

    device: int = -1
    disk: str = ""
    meta_disk: str = ""
    address: str = ""
    port: int = 0


@dataclass
class ResourceConfig:
    """`common` is one, too."""

    name: str
    net: dict[str, str] = field(default_factory=dict)
    disk: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    handlers: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, HostPart] = field(default_factory=dict)

    def peer_of(self, host: str) -> str | None:
        return next((name for name in self.hosts if name != host), None)


Step = Claim | Complaint | Include | ResourceConfig


def conflict(claim: Claim, first: str) -> str:
    return (
        f"{claim.place}: conflicting use of {claim.what} '{claim.key}' ...\n"
        f"{first}: {claim.what} '{claim.key}' first used here.\n"
    )


class Words:
    """Reads them one after the other; keeps what is to be said of them."""

    def __init__(self, name: str, tokens: list[Token]) -> None:
        self.steps: list[Step] = []
        self.end = tokens[-1].line
        self.name = name
        self._tokens = tokens
        self._at = 0
        self.at_statement = self.at_section = 1  # lines
        self._once: dict[str, str] = {}  # what a resource may say once only

    @property
    def token(self) -> Token:
        """The last one that was read."""
        return self._tokens[self._at - 1]

    def next(self) -> Token:
        self._at = min(self._at + 1, len(self._tokens))
        return self.token

    def statement(self) -> Token:
        """The first word of a statement."""
        token = self.next()
        self.at_statement = token.line
        return token

    def expect(self, kind: int) -> str:
        token = self.next()
        if token.kind != kind:
            what = f"TK_{TK(kind).name}" if kind >= TK.GLOBAL else chr(kind)
            raise self.expected(what, got=True)
        return token.text

    def expected(self, what: str, *, got: bool = False) -> ConfigError:
        token = self.token
        if "TK_STRING" in what and token.kind in {TK.ERR_DQSTRING, TK.ERR_STRING_TOO_LONG}:
            why = "Token too long"
            if token.kind == TK.ERR_DQSTRING:
                why = "Unterminated double quoted string\n  we don't allow embedded newlines\n "
            return ConfigError(f"{self.name}:{token.line}: {why} >>>{token.text[:20]}...<<<\n")
        text = token.text[:20] + "..." * (len(token.text) > 20)
        number = f" (TK {int(token.kind)})" if got else ""
        return ConfigError(f"{self.name}:{token.line}: Parse error: '{what}' expected,\n\tbut got '{text}'{number}\n")

    def place(self) -> str:
        return f"{self.name}:{self.at_statement}"

    def claim(self, what: str, key: str) -> None:
        self.steps.append(Claim(what, key, self.place()))

    def complain(self, text: str) -> None:
        self.steps.append(Complaint(text))

    def once(self, what: str, key: str) -> None:
        """Of the resource that is being read."""
        if key in self._once:
            raise ConfigError(conflict(Claim(what, key, self.place()), self._once[key]))
        self._once[key] = self.place()

    def only_once(self) -> None:
        """Another resource begins."""
        self._once.clear()

    def number(self, name: str, text: str, scale: int, least: int, most: int) -> None:
        try:
            value = options.number(text, scale) // scale
        except ValueError:
            raise ConfigError(f"{text} is not a valid number\n", 20) from None
        if not least <= value <= most:
            unit = {1024: "k", 512: "s"}.get(scale, "")
            limits = f"[{least}..{most}]{unit}"
            self.complain(f"{self.place()}: {name} {text} => {value}{unit} out of range {limits}.\n")
