"""What the hosts boot from: Debian's packages in an ext4 image, its kernel, its hypervisors, two small initrds.

Kept in the cache by content: package list, the files beside this one, and the lab's ssh key.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import re
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab_lib import settings
from lab_lib.tools import LabFailed, run, say, step

RELEASE = "bookworm"
PACKAGES = (
    "systemd-sysv", "udev", "kmod", "procps", "iproute2", "iputils-ping", "openssh-server", "busybox-static",
    "xen-utils-4.17", "xen-utils-common", "xenstore-utils", "drbd-utils", "lvm2", "e2fsprogs", "xfsprogs",
    "python3", "python3-venv", "ca-certificates",
)  # fmt: skip
NOT_NEEDED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/i18n/*", "/usr/share/info/*")
DOM0_MODULES = (
    "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4", "drbd", "dm-mod", "dm-snapshot", "loop", "bridge",
    "xen-blkback", "xen-netback", "xen-gntdev", "xen-gntalloc", "xen-evtchn", "xen-privcmd", "xenfs",
    "xen-acpi-processor", "crc32c_generic", "crct10dif_generic", "sha1_generic", "sha256_generic", "af_packet",
    "autofs4", "tun", "failover",
)  # fmt: skip
DOM0_INITRD_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
GUEST_MODULES = ("xen-blkfront", "xen-netfront")
# Units and udev rules of nothing that a lab host has: seconds of its boot under emulation
MASKED = """
apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
getty.target getty-static.service systemd-pstore.service systemd-update-utmp.service modprobe@configfs.service
systemd-update-utmp-runlevel.service systemd-random-seed.service systemd-journal-flush.service modprobe@drm.service
systemd-tmpfiles-clean.timer systemd-logind.service systemd-binfmt.service systemd-ask-password-wall.path
systemd-ask-password-console.path hwclock.service procps.service systemd-sysusers.service systemd-sysctl.service
proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-config.mount
sys-kernel-tracing.mount modprobe@fuse.service sys-fs-fuse-connections.mount systemd-remount-fs.service
systemd-user-sessions.service drbd.service xendomains.service kmod.service
"""
NO_RULES = """
60-autosuspend 60-cdrom_id 60-drm 60-evdev 60-fido-id 60-infiniband 60-input-id 60-persistent-alsa 60-persistent-input
60-persistent-storage-tape 60-persistent-v4l 60-sensor 60-serial 64-btrfs 70-camera 70-joystick 70-memory 70-mouse
70-power-switch 70-touchpad 70-uaccess 71-seat 73-seat-late 75-net-description 75-probe_mtd 78-sound-card 81-net-dhcp
85-hwclock 96-e2scrub
"""
IMAGE_SIZE = 1536 << 20
UNIT = "manifests/agent/xentandem-agent.service"
BLOCK_SCRIPT = "/opt/xentandem/lib/python3.11/site-packages/agent/scripts/block-xentandem"
HYPERVISOR = "xen-hypervisor-4.17-amd64"


@dataclass(frozen=True)
class Image:
    """A built image. `root` is the tree it was made of, to enter with chroot."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def disk(self) -> Path:
        return self.folder / "dom0.img"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinux"

    @property
    def initrd(self) -> Path:
        return self.folder / "dom0-initrd.img"

    def xen(self, build: str) -> Path:
        """`main` still has shadow paging, which PV guests need to move; `security` is what people run."""
        return self.folder / f"xen-{build}"


def ssh_key() -> Path:
    """The private key that opens the hosts; made once."""
    key = settings.cache() / "id_ed25519"
    if not key.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", key])
    return key


def built() -> Image:
    """The image of these sources; built when it is not in the cache. Raises LabFailed."""
    folder = settings.cache() / f"image-{_digest()}"
    if (folder / "complete").exists():
        return Image(folder)
    with (settings.cache() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            say(f"Building the hosts' image (once; two minutes on two cores) -> {folder}")
            _remove_tree(folder)
            folder.mkdir()
            _build(Image(folder))
            (folder / "complete").touch()
    return Image(folder)


def _digest() -> str:
    digest = hashlib.sha256(ssh_key().with_suffix(".pub").read_bytes())
    files = [Path(__file__), *(settings.LIBRARY / "dom0").rglob("*"), *(settings.LIBRARY / "initrd").rglob("*")]
    for path in sorted(path for path in [*files, settings.PROJECT / UNIT] if path.is_file()):
        digest.update(f"{path.relative_to(settings.PROJECT)} {path.stat().st_mode}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(image: Image) -> None:
    mirrors = _mirrors()
    with step("  Debian's packages (mmdebstrap)"):
        _bootstrap(image.root, mirrors["Debian"])
    unpacked = image.folder / "unpacked"
    with step("  kernel and hypervisors"):
        _kernels(image, unpacked, mirrors)
    with step("  modules, initrds, the guest's program"):
        release = _modules(unpacked, image.root)
        _initrds(image, image.root / "lib/modules" / release)
    with step("  the lab's own files"):
        _own_files(image)
    with step("  disk image"):
        partial = image.disk.with_suffix(".partial")
        with partial.open("w") as file:
            file.truncate(IMAGE_SIZE)
        # No journal: a lab host that is cut off begins again from this image or from a snapshot
        run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-d", image.root, "-F", partial])
        partial.rename(image.disk)
    shutil.rmtree(unpacked)


def _mirrors() -> dict[str, str]:
    """This machine's own Debian mirrors, by their label: `Debian` and `Debian-Security`."""
    wanted = "$(CODENAME) $(LABEL) $(REPO_URI)"
    found: dict[str, str] = {}
    for line in run(["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"]).splitlines():
        codename, label, uri = line.split(" ", 2)
        if codename in (RELEASE, f"{RELEASE}-security"):
            found.setdefault(label, f"{uri} {codename} main")
    if {"Debian", "Debian-Security"} - found.keys():
        raise LabFailed(
            f"apt of this machine knows no {RELEASE} and {RELEASE}-security (Debian 12): the lab needs both"
        )
    return found


def _bootstrap(root: Path, source: str) -> None:
    """A copy of the packages' tree, which is kept too: it takes the longest, and changes least."""
    key = hashlib.sha256(repr((RELEASE, PACKAGES, NOT_NEEDED)).encode()).hexdigest()[:16]
    kept = settings.cache() / f"packages-{key}"
    if not kept.exists():
        partial = kept.with_suffix(".partial")
        _remove_tree(partial)
        _install_packages(partial, source)
        partial.rename(kept)
    run(["cp", "-a", kept, root])


def _install_packages(root: Path, source: str) -> None:
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_NEEDED]
    options.append('--aptopt=Acquire::Languages "none"')
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}", *options]
    run([*argv, RELEASE, root, f"deb {source}"])


def _kernels(image: Image, unpacked: Path, mirrors: dict[str, str]) -> None:
    """Unpacked, not installed: their scripts would look for a boot loader."""
    main = _download(unpacked / "main", mirrors["Debian"], "linux-image-amd64", HYPERVISOR)
    security = _download(unpacked / "security", mirrors["Debian-Security"], HYPERVISOR)
    for build, folder in (("main", main), ("security", security)):
        image.xen(build).write_bytes(gzip.decompress((folder / "boot/xen-4.17-amd64.gz").read_bytes()))
    if "CONFIG_SHADOW_PAGING=y" not in (main / "boot/xen-4.17-amd64.config").read_text():
        say("  note: Debian's hypervisor has no shadow paging any more: PV guests cannot move, PVH guests can")
    (vmlinuz,) = (main / "boot").glob("vmlinuz-*")
    image.kernel.write_bytes(_uncompressed(vmlinuz.read_bytes()))


def _download(folder: Path, source: str, *packages: str) -> Path:
    """Packages of one source, with its own lists of what there is, unpacked into `folder`."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb {source}\n")
    options = [
        f"Dir::Etc::SourceList={folder / 'sources.list'}", "Dir::Etc::SourceParts=-", f"Dir::State::Lists={lists}",
        "APT::Sandbox::User=root", f"Dir::Cache={folder / 'cache'}", "Acquire::Languages=none",
    ]  # fmt: skip
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    apt = [word for option in options for word in ("-o", option)]
    run(["apt-get", *apt, "update", "-qq"])
    wanted = []
    for package in packages:
        found = re.findall(r"Depends: (linux-image-\S+)", run(["apt-cache", *apt, "depends", package]))
        wanted.append(found[0] if package == "linux-image-amd64" and found else package)
    run(["apt-get", *apt, "download", "-qq", *wanted], cwd=folder)
    for archive in folder.glob("*.deb"):
        run(["dpkg-deb", "-x", archive, folder])
    return folder


def _uncompressed(bzimage: bytes) -> bytes:
    """The ELF inside: hypervisor and toolstack unpack xz slowly under emulation, at every start of a domain."""
    sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    begin = (sectors + 1) * 512 + offset
    kernel = lzma.decompress(bzimage[begin : begin + length - 4])
    if kernel[:4] != b"\x7fELF":
        raise LabFailed("Debian's kernel does not hold an ELF image compressed with xz")
    return kernel


def _modules(unpacked: Path, root: Path) -> str:
    """Copy only what is needed; returns the kernel's release."""
    (source,) = (unpacked / "main/lib/modules").iterdir()
    target = root / "lib/modules" / source.name
    run(["depmod", "-b", unpacked / "main", source.name])
    for path in _with_needed(source, DOM0_MODULES):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, target / path)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(source / name, target / name)
    for path in _with_needed(source, GUEST_MODULES):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, target / path)
    run(["depmod", "-b", root, source.name])
    return source.name


def _with_needed(folder: Path, names: Iterable[str]) -> list[str]:
    """Modules and what they need, in the order in which they can be loaded."""
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[Path(path).name.removesuffix(".ko").replace("-", "_")] = (path, rest.split())
    built_in = (folder / "modules.builtin").read_text().replace("-", "_")
    found: list[str] = []
    for name in names:
        key = name.replace("-", "_")
        if key not in needs:
            if f"/{key}.ko" not in built_in:
                raise LabFailed(f"Debian's kernel has no module {name}")
            continue
        path, others = needs[key]
        found += [one for one in [*reversed(others), path] if one not in found]
    return found


def _initrds(image: Image, modules: Path) -> None:
    folder = image.folder / "initrd-dom0"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(image.root / "bin/busybox", folder / "bin/busybox")
    for applet in ("sh", "mount", "insmod", "sleep", "switch_root"):
        (folder / "bin" / applet).symlink_to("busybox")
    for name in ("proc", "sys", "dev", "root"):
        (folder / name).mkdir()
    _numbered(modules, DOM0_INITRD_MODULES, folder / "modules")
    shutil.copy(settings.LIBRARY / "initrd/dom0-init", folder / "init")
    _archive(folder, image.initrd)

    guest = image.folder / "initrd-guest"
    for name in ("proc", "sys", "dev", "sbin"):
        (guest / name).mkdir(parents=True)
    _numbered(modules, GUEST_MODULES, guest / "modules")
    run(["gcc", "-O2", "-Wall", "-Wextra", "-static", "-s", "-o", guest / "init", settings.LIBRARY / "initrd/guest.c"])
    for name in ("poweroff", "reboot"):  # what the kernel calls when Xen asks for it
        (guest / "sbin" / name).symlink_to("/init")
    boot = image.root / "boot/xenU"
    boot.mkdir(parents=True)
    _archive(guest, boot / "initrd.img")
    shutil.copy(image.kernel, boot / "vmlinux")


def _numbered(modules: Path, names: Iterable[str], folder: Path) -> None:
    """Loaded in the order of their names by both initrds."""
    folder.mkdir()
    for number, path in enumerate(_with_needed(modules, names)):
        shutil.copy(modules / path, folder / f"{number:02}-{Path(path).name}")


def _archive(folder: Path, target: Path) -> None:
    """Not compressed: nothing is slower under emulation than to unpack."""
    (folder / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    run(["sh", "-c", f'cpio -o -H newc --quiet > "{target}"'], cwd=folder, stdin=names + "\n")


def _own_files(image: Image) -> None:
    root = image.root
    for path in sorted((settings.LIBRARY / "dom0").rglob("*")):
        target = root / path.relative_to(settings.LIBRARY / "dom0")
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(path, target)
    keys = root / "root/.ssh"
    keys.mkdir(mode=0o700, exist_ok=True)
    (keys / "authorized_keys").write_bytes(ssh_key().with_suffix(".pub").read_bytes())
    units = root / "etc/systemd/system"
    for unit in MASKED.split():
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    for rule in NO_RULES.split():
        (root / f"etc/udev/rules.d/{rule}.rules").symlink_to("/dev/null")
    wanted = units / "multi-user.target.wants"
    for unit in ("lab-setup.service", "lab-ready.service"):
        (wanted / unit).symlink_to(f"/etc/systemd/system/{unit}")
    shutil.copy(settings.PROJECT / UNIT, units / "xentandem-agent.service")
    (wanted / "xentandem-agent.service").symlink_to("/etc/systemd/system/xentandem-agent.service")
    (root / "etc/xen/scripts/block-xentandem").symlink_to(BLOCK_SCRIPT)
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for folder in ("opt/xentandem", "etc/xentandem", "var/log/xen/console"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    # Not empty, or systemd takes each boot for the first; the real one is on the kernel's command line
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/hostname").unlink(missing_ok=True)
    for key in ("rsa", "ecdsa"):
        for name in (root / "etc/ssh").glob(f"ssh_host_{key}_key*"):
            name.unlink()


def _remove_tree(folder: Path) -> None:
    """What an interrupted build left. Nothing may be mounted in it, or a live /proc would be removed with it."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            run(["umount", "-l", line.split()[1]])
    if folder.exists():
        shutil.rmtree(folder)
