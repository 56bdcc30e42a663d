"""The howto's volume: as the driver is asked for it, as its files say it; and a dump of DRBD 9."""

from __future__ import annotations

from scripted import Answer

from agent.protocol import Member, VolumeDesired

OK: Answer = (0, "", "")
UID = "11111111-2222-3333-4444-555555555555"
SHAOLIN = VolumeDesired(
    term=1,
    uid=UID,
    namespace="default",
    name="vm-shaolin",
    resource="vm_shaolin",
    minor=1,
    port=7789,
    group="vg0",
    logical_volume="vm_shaolin",
    size=512 << 20,
    members=(Member(node="mk1", address="10.0.0.81"), Member(node="mk2", address="10.0.0.82")),
)
EXPECTED_84 = """\
# xentandem-uid: 11111111-2222-3333-4444-555555555555
# DrbdVolume default/vm-shaolin: written by xentandem-agent, changes are overwritten
resource vm_shaolin {
  net {
    protocol C;
    allow-two-primaries no;
    after-sb-0pri discard-zero-changes;
    after-sb-1pri consensus;
    after-sb-2pri disconnect;
    rr-conflict disconnect;
    verify-alg sha1;
  }
  disk {
    on-io-error detach;
    resync-rate 500M;
    c-plan-ahead 20;
    c-fill-target 1M;
    c-max-rate 512000k;
    c-min-rate 10240k;
    fencing resource-only;
  }
  options {
    on-no-data-accessible suspend-io;
  }
  on mk1 {
    address ipv4 10.0.0.81:7789;
    volume 0 {
      device minor 1;
      disk /dev/vg0/vm_shaolin;
      meta-disk internal;
    }
  }
  on mk2 {
    address ipv4 10.0.0.82:7789;
    volume 0 {
      device minor 1;
      disk /dev/vg0/vm_shaolin;
      meta-disk internal;
    }
  }
}
"""
# What drbd.conf(5) of DRBD 9 has elsewhere or besides; drbdadm 9.22 accepts this one and its 8.4 part accepts that one
EXPECTED_9 = (
    EXPECTED_84.replace("    fencing resource-only;\n", "")
    .replace("    verify-alg sha1;\n", "    verify-alg sha1;\n    fencing resource-only;\n")
    .replace("  options {\n", "  options {\n    auto-promote no;\n")
    .replace("  on mk1 {\n", "  on mk1 {\n    node-id 0;\n")
    .replace("  on mk2 {\n", "  on mk2 {\n    node-id 1;\n")
)
HOWTO = """\
common { protocol C; }
resource vm_shaolin {
  disk /dev/vg0/vm_shaolin; device /dev/drbd1; meta-disk internal;
  syncer { rate 500M; verify-alg sha1; }   # the howto's form
  on mk1 { address 10.0.0.81:7789; }
  on mk2 { address 10.0.0.82:7789; }
}
"""
NINE = """\
exists resource name:a role:Primary suspended:fencing write-ordering:flush
exists resource name:b role:Secondary suspended:no
exists connection name:a peer-node-id:1 conn-name:mk2 connection:Connected role:Secondary congested:no
exists device name:a volume:0 minor:1 backing_dev:/dev/vg0/a disk:UpToDate client:no quorum:yes size:524236
exists path name:a peer-node-id:1 conn-name:mk2 local:ipv4:10.0.0.81:7789 peer:ipv4:10.0.0.82:7789 established:yes
exists peer-device name:a peer-node-id:1 conn-name:mk2 volume:0 replication:SyncSource peer-disk:Inconsistent \
peer-client:no resync-suspended:no done:4.25 received:0 sent:22528 out-of-sync:501708
exists -
"""
