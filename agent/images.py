"""Images are raw: what is written onto a volume is what the guest reads. Others are told by their first bytes. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

_PACKED = {
    b"QFI\xfb": ("a qcow2 image", "qemu-img convert -O raw"),
    b"KDMV": ("a VMDK image", "qemu-img convert -O raw"),
    b"vhdxfile": ("a VHDX image", "qemu-img convert -O raw"),
    b"conectix": ("a VHD image", "qemu-img convert -O raw"),
    b"\x1f\x8b": ("compressed by gzip", "gunzip"),
    b"\xfd7zXZ\0": ("compressed by xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unzstd"),
    b"BZh": ("compressed by bzip2", "bunzip2"),
    b"PK\x03\x04": ("a zip archive", "unzip"),
}


class NotRaw(Exception):
    """The message says what it is instead, and what makes it raw."""


def require_raw(head: bytes) -> None:
    """`head`: the image's first bytes. Raises NotRaw."""
    for magic, (what, tool) in _PACKED.items():
        if head.startswith(magic):
            raise NotRaw(f"is {what}: only raw images are written; `{tool}` makes one")


def shown(url: str) -> str:
    """An address for a message, a log or a status: user, password and query (a signature, say) are left out."""
    try:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(no address)"
    return f"{parts.scheme}://{place}{parts.path}" + ("?..." if parts.query else "")
