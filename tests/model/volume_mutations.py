"""A volume's guards, each of which can be taken away: as `mutations`."""

from __future__ import annotations

from unittest.mock import patch

import volume_agent
import volume_model
from mutations import Patches, _no, _without

from agent import guards, ownership


def _volume_chain(name: str, guard: object) -> Patches:
    module = ownership if name == "RESERVE" else guards
    return [patch.object(module, name, _without(getattr(module, name), guard))]


def metadata_ours() -> Patches:
    return _volume_chain("CREATE_METADATA", guards.volume_is_ours)


def metadata_never_made() -> Patches:
    return _volume_chain("CREATE_METADATA", guards.metadata_never_made)


def metadata_clearly_none() -> Patches:
    return _volume_chain("CREATE_METADATA", guards.metadata_clearly_none)


def volume_gone() -> Patches:
    """What was removed is not made anew."""
    return [patch.object(volume_agent, "is_gone", _no)]


def force_record() -> Patches:
    return _volume_chain("FORCE", guards.record_matches)


def force_once() -> Patches:
    return _volume_chain("FORCE", guards.never_forced)


def force_both_new() -> Patches:
    return _volume_chain("FORCE", guards.both_inconsistent_and_connected)


def force_generation() -> Patches:
    return _volume_chain("FORCE", guards.generation_is_fresh)


def content_record() -> Patches:
    return _volume_chain("WRITE_CONTENT", guards.content_record_matches)


def content_primary() -> Patches:
    return _volume_chain("WRITE_CONTENT", guards.primary_and_good)


def content_once() -> Patches:
    return _volume_chain("WRITE_CONTENT", guards.never_had_content)


def content_never_used() -> Patches:
    return _volume_chain("WRITE_CONTENT", guards.never_used)


def content_no_signature() -> Patches:
    return _volume_chain("WRITE_CONTENT", guards.no_signature)


def reserve_identity() -> Patches:
    return _volume_chain("RESERVE", ownership.identity_unchanged)


def reserve_resource() -> Patches:
    return _volume_chain("RESERVE", ownership.resource_free)


def reserve_logical_volume() -> Patches:
    return _volume_chain("RESERVE", ownership.logical_volume_free)


def volume_lost() -> Patches:
    """agent.volumes: a logical volume that was there and is gone is not made anew."""
    return [patch.object(volume_agent, "lost", _no)]


def volume_ours() -> Patches:
    """agent.volumes, agent.removal: only a logical volume with the volume's uid is touched."""
    return [patch.object(volume_agent, "ours", lambda *_: True)]


def volume_cas() -> Patches:
    """etcd: who is forced Primary is written once, by compare-and-swap."""
    return [patch.object(volume_model, "commits", lambda *_: True)]
