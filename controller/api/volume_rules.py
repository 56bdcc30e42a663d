"""Rules about DrbdVolumes: what LVM, device-mapper and DRBD take as names, and what cannot change."""

from __future__ import annotations

from typing import Annotated

from controller.api.rules import Rule, checked, immutable, text, validations

_LV_SAY = (
    "write a name such as vm_shaolin: letters, digits and _ . + -, not beginning with - + or ., and none that LVM"
    " reserves (lvm(8), VALID NAMES)"
)
_LV_RESERVED = (
    "^(snapshot|pvmove)"
    "|_(cdata|cmeta|corig|cvol|iorig|mimage|mlog|pmspare|rimage|rmeta|tdata|tmeta|vdata|vorigin|wcorig)"
)
LogicalVolumeName = Annotated[
    str,
    checked(
        text("[A-Za-z0-9_][A-Za-z0-9_.+-]*", _LV_SAY),
        Rule(f"!self.matches('{_LV_RESERVED}')", _LV_SAY),
        max_length=63,
    ),
]
ResourceName = Annotated[
    str,
    checked(
        text("[A-Za-z0-9_][A-Za-z0-9_.+-]*", "write a name such as vm_shaolin: letters, digits and _ . + -"),
        Rule(
            "self != 'all' && !self.matches('^(minor-)?[0-9]+$')",
            "drbdadm takes all for every resource, numbers and minor-1 for devices: write a name such as vm_shaolin",
        ),
        max_length=63,
    ),
]

# What the names are when they are left out, from the root of the object.
_RESOURCE = "self.metadata.name.replace('-', '_')"
_LV = f"(has(self.spec.resource) ? self.spec.resource : {_RESOURCE})"
# device-mapper's names have at most 127 bytes, with each - doubled; what is kept after deletion gets a longer name.
_DM_LENGTH = (
    "size(self.spec.logicalVolume.group.replace('-', '--')) + size((has(self.spec.logicalVolume.name)"
    f" ? self.spec.logicalVolume.name : {_LV}).replace('-', '--'))"
)
VOLUME_RULES = validations(
    Rule(
        f"has(self.spec.resource) || !({_RESOURCE}.matches('^(all|[0-9]+)$'))",
        "drbdadm takes all for every resource and numbers for devices: choose another name, such as vm-shaolin, or"
        " write spec.resource",
        path=".metadata.name",
    ),
    Rule(
        f"has(self.spec.logicalVolume.name) || !({_LV}.matches('{_LV_RESERVED}'))",
        "left out, the logical volume's name would be one that LVM reserves (lvm(8), VALID NAMES): write one, such as"
        " vm_shaolin",
        path=".spec.logicalVolume.name",
    ),
    Rule(
        f"{_DM_LENGTH} <= 90",
        "together the names of volume group and logical volume may have 90 characters, each - counted twice: write"
        " shorter ones",
        path=".spec.logicalVolume",
    ),
)

_COMPARABLE = "isQuantity(string(self.size)) && isQuantity(string(oldSelf.size))"
_GROWTH = "quantity(string(self.size)).compareTo(quantity(string(oldSelf.size)))"
_SHRINK_SAY = "a volume cannot shrink: keep {}, or make a new, smaller DrbdVolume and copy the data over"
_GROW_SAY = "growing is not supported yet: keep {}, or make a new, larger DrbdVolume and copy the data over"


def _with_old_size(say: str) -> str:
    before, after = say.split("{}")
    return f"'{before}' + string(oldSelf.size) + '{after}'"


SPEC_RULES = validations(
    Rule(
        f"!({_COMPARABLE} && {_GROWTH} < 0)",
        _SHRINK_SAY.format("the size"),
        path=".size",
        show=_with_old_size(_SHRINK_SAY),
        forbidden=True,
    ),
    Rule(
        f"!({_COMPARABLE} && {_GROWTH} > 0)",
        _GROW_SAY.format("the size"),
        path=".size",
        show=_with_old_size(_GROW_SAY),
        forbidden=True,
    ),
    immutable("logicalVolume", "the logical volume holds the data and cannot be exchanged: make a new DrbdVolume"),
    immutable("nodes", "replicas cannot be moved to other hosts yet: make a new DrbdVolume", optional=True),
    immutable("resource", "the DRBD resource cannot be renamed: make a new DrbdVolume", optional=True),
    immutable(
        "device",
        "minor and port are in use on both hosts and stay as they are (see status.device): make a new DrbdVolume",
        optional=True,
    ),
    immutable("metaDisk", "DRBD's metadata cannot be moved: make a new DrbdVolume"),
    immutable("content", "content is written to a new volume only: make a new DrbdVolume with it", optional=True),
    Rule(
        "!has(self.content) || !has(self.content.filesystem) || self.content.filesystem != 'xfs'"
        " || !isQuantity(string(self.size)) || quantity(string(self.size)).compareTo(quantity('304Mi')) >= 0",
        "xfs needs at least 304Mi (mkfs.xfs(8)): write a larger size, or filesystem: ext4",
        path=".size",
    ),
)
META_DISK_RULES = validations(
    Rule(
        "self.type != 'External' || has(self.group)",
        "External metadata needs a volume group: write metaDisk: {type: External, group: vgmeta}",
        path=".group",
    ),
    Rule(
        "self.type != 'Internal' || !has(self.group)",
        "Internal metadata is on the volume itself: leave group out, or write type: External",
        path=".group",
    ),
)
RATE_SAY = "write a speed in bytes a second with K, M or G and nothing more, such as 500M; at most 4G (drbd.conf(5))"
RATE_LIMIT = (
    "!self.matches('^[1-9][0-9]{0,6}[KM]$')"
    " || int(self.substring(0, size(self) - 1)) <= (self.endsWith('K') ? 4194304 : 4096)"
)
AFTER_SAY = "write a time from 30s to 168h in s, m or h, such as 5m"
AFTER_LIMIT = (
    "!self.matches('^[1-9][0-9]{0,5}[smh]$')"
    " || (duration(self) >= duration('30s') && duration(self) <= duration('168h'))"
)
FENCING_RULES = validations(
    Rule(
        "self.whenControllerUnreachable == 'Continue' || !has(self.after)",
        "after belongs to whenControllerUnreachable: Continue; leave it out, or write Continue if the VM shall go on"
        " at the price of acknowledged writes",
        path=".after",
    ),
)
