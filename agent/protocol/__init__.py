"""What the controller and an agent say to each other: pure data, no I/O.

Requests carry `term` (the controller's leadership number; an agent refuses a lower one than it promised) and, for a
domain, `epoch` (the number of the VM's placement; an agent runs a domain only at the highest epoch it promised).
Sizes are bytes unless the name says otherwise (`*_mib`, `*_kib`); times are RFC 3339 in UTC.

HTTP (TLS 1.3, client certificate with SAN `URI:xentandem:controller`):

    GET    /v1/state                  -> HostState
    GET    /v1/watch                  -> NDJSON of WatchEvent: one snapshot, then changes, a heartbeat every 10 s
    PUT    /v1/host                   HostDesired    -> HostState without collections
    PUT    /v1/volumes/{resource}     VolumeDesired  -> VolumeState
    PUT    /v1/volumes/{resource}/verdict   VerdictDesired -> FenceState
    DELETE /v1/volumes/{resource}     VolumeRemoval  -> 204
    PUT    /v1/domains/{name}         DomainDesired  -> VmState
    DELETE /v1/domains/{name}         DomainRemoval  -> 204
    POST   /v1/operations             OperationRequest -> OperationState (a repeated id joins the one that runs)
    DELETE /v1/operations/{id}        OperationCancel  -> OperationState
    POST   /v1/preflight              PreflightRequest -> PreflightReport

A refusal is HTTP 409 (a guard said no), 422 (the request itself is wrong), 403 (who asks) with a Refusal as the body.
"""

from agent.protocol.base import (
    AGENT_URI_PREFIX,
    API_PORT,
    CONTROLLER_URI,
    DOMAIN_OVERHEAD_MIB,
    HEARTBEAT_SECONDS,
    RELOCATION_PORT,
    Connection,
    Disk,
    Name,
    OperationId,
    Refusal,
    Role,
    Uid,
    Wire,
)
from agent.protocol.desired import (
    DiscardChanges,
    DiskConfig,
    DomainConfig,
    DomainDesired,
    DomainRemoval,
    Fencing,
    HostDesired,
    ImageSource,
    InitialSync,
    Member,
    MigrateReceive,
    MigrateSend,
    NetworkConfig,
    OperationBody,
    OperationCancel,
    OperationRequest,
    PreflightReport,
    PreflightRequest,
    TakeSnapshot,
    Verdict,
    VerdictDesired,
    VolumeDesired,
    VolumeOperation,
    VolumeRemoval,
    WriteContent,
)
from agent.protocol.state import (
    ContentState,
    DomainDisk,
    DomainKind,
    DomainState,
    FenceQuestion,
    FenceState,
    GenerationIds,
    HostFacts,
    HostState,
    LogicalVolumeState,
    MetadataState,
    OperationKind,
    OperationState,
    OperationStep,
    Outcome,
    PeerState,
    RestartState,
    TransferProgress,
    VmState,
    VolumeGroupState,
    VolumeState,
    WatchEvent,
)

__all__ = [
    "AGENT_URI_PREFIX",
    "API_PORT",
    "CONTROLLER_URI",
    "DOMAIN_OVERHEAD_MIB",
    "HEARTBEAT_SECONDS",
    "RELOCATION_PORT",
    "Connection",
    "ContentState",
    "DiscardChanges",
    "Disk",
    "DiskConfig",
    "DomainConfig",
    "DomainDesired",
    "DomainDisk",
    "DomainKind",
    "DomainRemoval",
    "DomainState",
    "FenceQuestion",
    "FenceState",
    "Fencing",
    "GenerationIds",
    "HostDesired",
    "HostFacts",
    "HostState",
    "ImageSource",
    "InitialSync",
    "LogicalVolumeState",
    "Member",
    "MetadataState",
    "MigrateReceive",
    "MigrateSend",
    "Name",
    "NetworkConfig",
    "OperationBody",
    "OperationCancel",
    "OperationId",
    "OperationKind",
    "OperationRequest",
    "OperationState",
    "OperationStep",
    "Outcome",
    "PeerState",
    "PreflightReport",
    "PreflightRequest",
    "Refusal",
    "RestartState",
    "Role",
    "TakeSnapshot",
    "TransferProgress",
    "Uid",
    "Verdict",
    "VerdictDesired",
    "VmState",
    "VolumeDesired",
    "VolumeGroupState",
    "VolumeOperation",
    "VolumeRemoval",
    "VolumeState",
    "WatchEvent",
    "Wire",
    "WriteContent",
]
