"""The plugin's client of the API server: objects as dictionaries, errors as messages that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import click
from kubernetes import client, config
from urllib3.exceptions import HTTPError

GROUP, VERSION = "xentandem.io", "v1alpha1"
Plural = Literal["xennodes", "drbdvolumes", "xenvms"]
Object = dict[str, Any]
KINDS: dict[Plural, str] = {"xennodes": "XenNode", "drbdvolumes": "DrbdVolume", "xenvms": "XenVM"}
REQUEST_SECONDS = 20.0
WATCH_SECONDS = 3
LEASE = "xentandem-controller"


class Problem(click.ClickException):
    """What went wrong and what to write instead; shown as `error: ...`, exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class Cluster:
    """One API server, with the namespace that is meant when none is given."""

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        """Raises Problem when there is no usable kubeconfig or no such context."""
        try:
            if kubeconfig and not Path(kubeconfig).exists():
                raise Problem(f"there is no file {kubeconfig}; write --kubeconfig FILE or set KUBECONFIG")
            contexts, active = config.list_kube_config_contexts(config_file=kubeconfig)
            by_name = {entry["name"]: entry for entry in contexts}
            if context is not None and context not in by_name:
                raise Problem(f'the kubeconfig has no context "{context}"; write one of: {", ".join(sorted(by_name))}')
            chosen = by_name[context] if context is not None else active
            self.api = config.new_client_from_config(config_file=kubeconfig, context=chosen["name"])
        except config.ConfigException as error:
            raise Problem(f"no cluster to talk to ({error}); set KUBECONFIG or write --kubeconfig FILE") from error
        self.namespace = namespace or chosen["context"].get("namespace") or "default"
        self._objects = client.CustomObjectsApi(self.api)

    def nodes(self) -> list[Object]:
        return self._everywhere("xennodes")

    def volumes(self, everywhere: bool = False) -> list[Object]:
        return self._namespaced("drbdvolumes", everywhere)

    def vms(self, everywhere: bool = False) -> list[Object]:
        return self._namespaced("xenvms", everywhere)

    def vm(self, name: str) -> Object:
        """Raises Problem with the names that there are."""
        found = [vm for vm in self.vms() if vm["metadata"]["name"] == name]
        if not found:
            names = ", ".join(sorted(vm["metadata"]["name"] for vm in self.vms()))
            there = f"there are: {names}" if names else "there are none (another namespace? write -n NAMESPACE)"
            raise Problem(f'no XenVM "{name}" in namespace "{self.namespace}"; {there}')
        return found[0]

    def set_node(self, vm: Object, node: str) -> Object:
        """Edit spec.node of the VM as it was read. Raises Problem when somebody else edited it in between."""
        name = vm["metadata"]["name"]
        patch: list[Object] = [{"op": "test", "path": "/metadata/uid", "value": vm["metadata"]["uid"]}]
        if "node" in vm["spec"]:
            patch.append({"op": "test", "path": "/spec/node", "value": vm["spec"]["node"]})
        patch.append({"op": "add", "path": "/spec/node", "value": node})
        made: Object = self._call(
            f'change spec.node of "{name}"',
            lambda: self._objects.patch_namespaced_custom_object(
                GROUP, VERSION, vm["metadata"]["namespace"], "xenvms", name, patch, field_manager="kubectl-xen",
                _content_type="application/json-patch+json", _request_timeout=REQUEST_SECONDS,
            ),
        )  # fmt: skip
        return made

    def set_maintenance(self, name: str, on: bool) -> Object:
        """Edit spec.maintenance of a host. Raises Problem."""
        made: Object = self._call(
            f'change spec.maintenance of "{name}"',
            lambda: self._objects.patch_cluster_custom_object(
                GROUP, VERSION, "xennodes", name, {"spec": {"maintenance": on}}, field_manager="kubectl-xen",
                _content_type="application/merge-patch+json", _request_timeout=REQUEST_SECONDS,
            ),
        )  # fmt: skip
        return made

    def set_split_brain(self, volume: Object, choice: Object) -> Object:
        """Edit spec.splitBrain of the volume as it was read. Raises Problem."""
        name = volume["metadata"]["name"]
        patch: list[Object] = [
            {"op": "test", "path": "/metadata/uid", "value": volume["metadata"]["uid"]},
            {"op": "add", "path": "/spec/splitBrain", "value": choice},
        ]
        made: Object = self._call(
            f'change spec.splitBrain of "{name}"',
            lambda: self._objects.patch_namespaced_custom_object(
                GROUP, VERSION, volume["metadata"]["namespace"], "drbdvolumes", name, patch,
                field_manager="kubectl-xen", _content_type="application/json-patch+json",
                _request_timeout=REQUEST_SECONDS,
            ),
        )  # fmt: skip
        return made

    def events(self, about: Object) -> list[Object]:
        """The events about an object, oldest first."""
        core = client.CoreV1Api(self.api)
        selector = f"involvedObject.uid={about['metadata']['uid']}"
        namespace = about["metadata"].get("namespace", "default")
        answer = self._call(
            "read events",
            lambda: core.list_namespaced_event(
                namespace, field_selector=selector, _preload_content=False, _request_timeout=REQUEST_SECONDS
            ),
        )
        items: list[Object] = json.loads(answer.data)["items"]
        return sorted(items, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def leases(self) -> tuple[list[Object], datetime] | None:
        """The controllers' Leases, of every namespace, and the API server's time; None: who asks may not see them."""
        leases = client.CoordinationV1Api(self.api)
        try:
            answer: Any = leases.list_lease_for_all_namespaces(
                field_selector=f"metadata.name={LEASE}", _preload_content=False, _request_timeout=REQUEST_SECONDS
            )
        except (client.ApiException, HTTPError):
            return None  # a question aside: what was asked for is answered all the same, or says why it is not
        said = answer.headers.get("Date")
        return json.loads(answer.data)["items"], parsedate_to_datetime(said) if said else datetime.now(UTC)

    def follow_vm(self, name: str) -> Iterator[Object]:
        """The VM now, at each change and every WATCH_SECONDS; ends when it is deleted.

        Goes on over broken connections of the watch.
        """
        while True:
            answer = self._list("xenvms", field_selector=f"metadata.name={name}")
            if not answer["items"]:
                return
            yield answer["items"][0]
            for event in self._watch(name, answer["metadata"]["resourceVersion"]):
                if event["type"] == "ERROR":
                    break  # too old (410): list again
                if event["type"] == "DELETED":
                    return
                yield event["object"]

    def _watch(self, name: str, version: str) -> Iterator[Object]:
        stream = self._call(
            "watch XenVMs",
            lambda: self._objects.list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, "xenvms", field_selector=f"metadata.name={name}", watch=True,
                resource_version=version, timeout_seconds=WATCH_SECONDS, _preload_content=False,
                _request_timeout=WATCH_SECONDS + REQUEST_SECONDS,
            ),
        )  # fmt: skip
        try:
            rest = b""
            for chunk in stream.stream(amt=None):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines if line.strip())
        except HTTPError:
            return  # the connection broke: the caller lists again, and says so when the server is gone
        finally:
            stream.close()

    def _namespaced(self, plural: Plural, everywhere: bool) -> list[Object]:
        if everywhere:
            return self._everywhere(plural)
        items: list[Object] = self._list(plural)["items"]
        return items

    def _list(self, plural: Plural, **more: Any) -> Object:
        made: Object = self._call(
            f"list {KINDS[plural]}s",
            lambda: self._objects.list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, plural, _request_timeout=REQUEST_SECONDS, **more
            ),
        )
        return made

    def _everywhere(self, plural: Plural) -> list[Object]:
        made = self._call(
            f"list {KINDS[plural]}s",
            lambda: self._objects.list_cluster_custom_object(GROUP, VERSION, plural, _request_timeout=REQUEST_SECONDS),
        )
        items: list[Object] = made["items"]
        return items

    def _call(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except client.ApiException as error:
            raise Problem(_explain(what, error)) from error
        except HTTPError as error:
            host = self.api.configuration.host
            raise Problem(f"could not {what}: the API server {host} does not answer ({_short(error)})") from error


def _explain(what: str, error: client.ApiException) -> str:
    try:
        message = str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        message = str(error.reason)
    if error.status == 404 and what.startswith("list"):
        return f"could not {what}: this cluster does not know the kind; install Xentandem: kubectl apply -k crds"
    if error.status == 403:
        return f"could not {what}: you are not allowed to ({message})"
    if error.status == 409 or "testing value" in message:
        return f"could not {what}: somebody else changed it at the same moment; run the command again"
    return f"could not {what}: {message}"


def _short(error: HTTPError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).rsplit(": ", 1)[-1]
