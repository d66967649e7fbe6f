"""The Engine API's objects, joined from stored ones: a task with its revision's spec, a node with raft.

Pure. Reads a View; decides nothing.
"""

from __future__ import annotations

from msgspec.structs import replace

from manager.api import job_shapes
from manager.api.docker_json import Json, SpecCache, rfc3339, shape, state_name
from manager.raft.proposer import RaftStatus
from manager.store.view import View
from swarmpy import pki
from swarmpy.model import defaults, forms
from swarmpy.model.container_ids import container_id
from swarmpy.model.file_versions import data_number
from swarmpy.model.objects import (
    Cluster,
    Config,
    Kind,
    Network,
    Node,
    Revision,
    Secret,
    Service,
    Task,
    TaskStatus,
    UpdateStatus,
)
from swarmpy.model.root_ca import RootCA
from swarmpy.model.specs import ServiceSpec, TaskSpec
from swarmpy.model.states import NodeRole, NodeState, Reachability, TaskState
from swarmpy.model.value import Value


class Shapes:
    """JSON of stored objects. One per server, for its cache of encoded specs."""

    def __init__(self) -> None:
        self._specs = SpecCache(_as_read)

    # --- services and tasks

    def service(self, view: View, service: Service, *, spec: ServiceSpec | None = None) -> Json:
        """``spec`` replaces the stored one: the one with defaults filled in."""
        result = _meta(service)
        result["Spec"] = self._specs.raw(service.spec) if spec is None else shape(spec)
        previous = view.revision(service.previous_id) if service.previous_id else None
        if previous is not None:
            result["PreviousSpec"] = self._specs.raw(previous.spec)
        result["Endpoint"] = _endpoint(service)
        if service.update_status is not None:
            result["UpdateStatus"] = _update_status(service.update_status)
        if service.rebalance_asked_at or service.rebalanced_at:
            result["Rebalance"] = {
                "AskedAt": rfc3339(service.rebalance_asked_at) if service.rebalance_asked_at else None,
                "MovedAt": rfc3339(service.rebalanced_at) if service.rebalanced_at else None,
            }
        if service.job_status is not None:
            result["JobStatus"] = {
                "JobIteration": _iteration(service.job_status.iteration),
                "LastExecution": rfc3339(service.job_status.last_execution),
            }
        if service.cron_status is not None:
            result["CronStatus"] = job_shapes.cron_status(service)
        return result

    def task(self, view: View, task: Task) -> Json:
        result = _meta(task)
        revision = view.revision(task.revision_id)
        result["Labels"] = {}
        result["Spec"] = {} if revision is None else self._specs.raw(revision.spec.task_template)
        result["ServiceID"] = task.service_id
        is_of_job = is_numbered = False
        if revision is not None:
            is_of_job = defaults.is_job(revision.spec)
            is_numbered = is_of_job and not defaults.is_per_node(revision.spec)
        if task.slot or is_numbered:  # of jobs, the first is 0
            result["Slot"] = task.slot
        if task.node_id:
            result["NodeID"] = task.node_id
        result["Status"] = _task_status(task)
        result["DesiredState"] = state_name(task.desired_state)
        if task.places:
            result["NetworksAttachments"] = self._attachments(view, task)
        if task.generic_resources:
            # docker's clients read the first, its reference names the second
            result["GenericResources"] = [shape(each) for each in task.generic_resources]
            result["AssignedGenericResources"] = result["GenericResources"]
        if task.restarts or task.not_before:
            # ours: why a task that is ready does not run yet
            result["Restart"] = {"Attempt": task.restarts, "NotBefore": rfc3339(task.not_before)}
        if is_of_job:
            result["JobIteration"] = _iteration(task.job_iteration)
            if revision is not None and revision.spec.mode.cron_job is not None:
                result["Run"] = task.job_iteration  # ours
        return result

    def _attachments(self, view: View, task: Task) -> list[Json]:
        found = []
        for attachment in task.places:
            network = view.get(Kind.NETWORK, attachment.network_id)
            found.append(
                {
                    "Network": self.cluster_network(network)
                    if isinstance(network, Network)
                    else {"ID": attachment.network_id},
                    "Addresses": list(attachment.addresses),
                }
            )
        return found

    # --- nodes and the cluster

    def node(self, node: Node, raft: RaftStatus) -> Json:
        result = _meta(node)
        result["Spec"] = shape(node.spec)
        result["Description"] = shape(node.description)
        status = {"State": node.status.state or NodeState.UNKNOWN, "Addr": node.status.addr}
        if node.status.message:
            status["Message"] = node.status.message
        result["Status"] = status
        if node.role is NodeRole.MANAGER and node.manager_status is not None:
            result["ManagerStatus"] = _manager_status(node, raft)
        return result

    def cluster(self, cluster: Cluster) -> Json:
        """Without join tokens: those are for ``GET /swarm`` alone."""
        result = _meta(cluster)
        result["Spec"] = shape(forms.cluster_as_read(cluster.spec))
        result["TLSInfo"] = _tls_info(cluster.root_ca)
        result["RootRotationInProgress"] = cluster.root_ca.rotation is not None
        result["DefaultAddrPool"] = list(cluster.default_address_pool)
        result["SubnetSize"] = cluster.subnet_size
        result["DataPathPort"] = cluster.data_path_port
        return result

    # --- networks, secrets, configs

    def cluster_network(self, network: Network) -> Json:
        """A network inside a task: the swarm object."""
        result = _meta(network)
        result["Spec"] = self._specs.raw(network.spec)
        if network.driver_state is not None:
            result["DriverState"] = shape(network.driver_state)
        if network.ipam_options is not None:
            result["IPAMOptions"] = shape(network.ipam_options)
        return result

    def file(self, item: Secret | Config) -> Json:
        """A secret or a config. A secret's data never leaves the managers; docker_json hides it."""
        result = _meta(item)
        result["Spec"] = shape(item.spec)
        result["DataVersion"] = data_number(item)
        return result


def _as_read(spec: Value) -> Value:
    match spec:
        case ServiceSpec():
            return forms.as_read(spec)
        case TaskSpec():
            return replace(forms.template_as_read(spec), runtime="")  # a task has none
    return spec


def _endpoint(service: Service) -> Json:
    """Nothing is told of one that nothing leads to."""
    endpoint = service.endpoint
    if not endpoint.ports and not endpoint.virtual_ips and not service.spec.task_template.networks:
        return {"Spec": {}}
    result: Json = shape(endpoint)
    return result


def _iteration(number: int) -> Json:
    """Go leaves a version of zero out."""
    return {"Index": number} if number else {}


def _tls_info(root: RootCA) -> Json:
    """What nodes are compared with: the root in force, and who issues certificates now."""
    result: Json = {"TrustRoot": root.ca_cert.decode(errors="replace")}
    if root.ca_cert:
        issuer = pki.issuer_in(pki.issuer_of(root)[0])
        result["CertIssuerSubject"] = issuer.subject
        result["CertIssuerPublicKey"] = issuer.public_key
    return result


def _meta(item: Cluster | Node | Network | Secret | Config | Service | Revision | Task) -> Json:
    return {
        "ID": item.id,
        "Version": {"Index": item.version},
        "CreatedAt": rfc3339(item.created_at),
        "UpdatedAt": rfc3339(item.updated_at),
    }


def _update_status(status: UpdateStatus) -> Json:
    result: Json = {"State": status.state, "Message": status.message}
    if status.started_at:
        result["StartedAt"] = rfc3339(status.started_at)
    if status.completed_at:
        result["CompletedAt"] = rfc3339(status.completed_at)
    if status.resumed_at:
        result["ResumedAt"] = rfc3339(status.resumed_at)
    return result


def _task_status(task: Task) -> Json:
    """``Addresses`` is ours: where the task answers, until overlay networks list them as attachments."""
    status = task.status
    result: Json = {
        "Timestamp": rfc3339(status.timestamp or task.created_at),
        "State": state_name(status.state),
        "Message": status.message,
    }
    if status.err:
        result["Err"] = status.err
    if status.container_status is not None:
        result["ContainerStatus"] = shape(status.container_status)
        if status.container_status.container_id:
            result["ContainerStatus"]["ContainerID"] = container_id(task.id)
        if status.state > TaskState.RUNNING:
            result["ContainerStatus"]["PID"] = 0
    ports = () if status.port_status is None else status.port_status.ports
    result["PortStatus"] = {"Ports": [shape(port) for port in ports]} if ports else {}
    if status.addresses:
        result["Addresses"] = list(status.addresses)
    if status.health or status.is_unready:
        result["Health"] = _health(status)
    return result


def _health(status: TaskStatus) -> Json:
    """Ours: docker tells it of containers alone. ``Unready``: it gets no requests now."""
    result: Json = {"Status": status.health or "none"}
    if status.is_unready:
        result["Unready"] = True
    if status.health_output:
        result["Output"] = status.health_output
    return result


def _manager_status(node: Node, raft: RaftStatus) -> Json:
    stored = node.manager_status
    assert stored is not None
    member = next((m for m in raft.members if m.raft_id == stored.raft_id), None)
    is_leader = raft.leader is not None and raft.leader == stored.raft_id
    reachability = Reachability.UNKNOWN
    if member is not None:
        is_reachable = member.is_reachable or is_leader
        reachability = Reachability.REACHABLE if is_reachable else Reachability.UNREACHABLE
    result: Json = {"Reachability": reachability, "Addr": stored.addr}
    if is_leader:
        result["Leader"] = True
    return result
