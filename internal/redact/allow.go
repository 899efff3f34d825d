package redact

import "github.com/meshaudit/meshaudit/internal/semconv"

// rule says how the value of an allowed attribute is kept.
type rule uint8

const (
	drop       rule = iota
	plain           // scalars and lists of them, tokens cut out
	url             // without user information, query and fragment
	target          // a path or request target, without query and fragment
	identity        // SPIFFE IDs, as they are but for tokens
	clientCert      // XFCC, without certificates and tokens
	ownMaps         // our own lists of maps
	user            // what the configuration allows: any shape, tokens cut out
)

// allowed is what is kept, by exact name.
var allowed = func() map[string]rule {
	m := make(map[string]rule)
	add := func(r rule, names ...string) {
		for _, n := range names {
			m[n] = r
		}
	}
	add(url, "http.url", "url.full", "server.url", "rpc.url")
	add(target, "http.target", "url.path", "path", "request_path", "http.route", "url.template", "http.path",
		"authority", ":authority", "x-envoy-origin-path", "http.host", "host.name.requested", semconv.EvidenceHost,
		"messaging.destination.name", "messaging.destination.template")
	add(clientCert,
		"http.request.header.x-forwarded-client-cert", "http.request.header.x_forwarded_client_cert",
		"x-forwarded-client-cert", "x_forwarded_client_cert")
	add(identity,
		"http.request.header.x-spiffe-id", "http.request.header.x_spiffe_id", "x-spiffe-id", "x_spiffe_id",
		"spiffe.id", "spiffe_id", "service.spiffe.id", "workload.spiffe.id",
		"peer.spiffe.id", "peer.spiffe_id", "peer_spiffe_id", "local_spiffe_id",
		"upstream_peer_spiffe_id", "upstream_local_spiffe_id", "peer_principal", "local_principal",
		"downstream_peer_uri_san", "downstream_local_uri_san", "upstream_peer_uri_san", "upstream_local_uri_san",
		semconv.SourceSPIFFEID, semconv.DestinationSPIFFEID, semconv.EvidenceReporterSPIFFEID)
	add(ownMaps, semconv.EvidenceClaims, semconv.MeshHops, semconv.MeshAttestations, semconv.MeshConflicts,
		semconv.ActorDelegation, semconv.InitiatorDelegation)

	// OpenTelemetry conventions, now and as they were.
	add(plain,
		"http.request.method", "http.request.method_original", "http.method", "http.scheme", "url.scheme", "url.domain", "url.port",
		"http.response.status_code", "http.status_code", "http.status_text",
		"http.request.resend_count", "http.resend_count", "http.flavor", "http.protocol",
		"http.request.body.size", "http.response.body.size", "http.request.size", "http.response.size",
		"http.client_ip", "http.server_name",
		"http.request.header.x-request-id", "http.request.header.x_request_id",
		"http.request.header.traceparent", "http.request.header.b3",
		"http.request.header.x-b3-traceid", "http.request.header.x-b3-spanid",
		"http.request.header.x-envoy-attempt-count", "http.request.header.x_envoy_attempt_count",
		"error", "error.type", "exception.type", "otel.status_code",
		"rpc.system", "rpc.system.name", "rpc.service", "rpc.method", "rpc.method_original",
		"rpc.grpc.status_code", "rpc.response.status_code", "grpc.status_code",
		"rpc.connect_rpc.error_code", "rpc.jsonrpc.error_code",
		"messaging.system", "messaging.operation", "messaging.operation.name", "messaging.operation.type",
		"messaging.message.id", "messaging.message.conversation_id", "messaging.consumer.group.name",
		"messaging.destination.partition.id", "messaging.client.id", "messaging.batch.message_count",
		"client.address", "client.port", "server.address", "server.port",
		"network.peer.address", "network.peer.port", "network.local.address", "network.local.port",
		"network.transport", "network.type", "network.protocol.name", "network.protocol.version",
		"net.host.ip", "net.host.name", "net.host.port", "net.peer.ip", "net.peer.name", "net.peer.port",
		"net.protocol.name", "net.protocol.version", "net.sock.peer.addr", "net.sock.peer.port",
		"net.sock.host.addr", "net.sock.host.port", "net.transport",
		"tls.established", "tls.protocol.name", "tls.protocol.version", "tls.cipher", "tls.resumed",
		"tls.client.hash.sha256", "tls.client.not_after", "tls.client.not_before", "tls.client.subject", "tls.client.issuer",
		"peer.service", "service.peer.name", "service.peer.namespace", "peer.address",
		"enduser.id", "user.id", "user.roles",
		"security_rule.name", "security_rule.version",
		"service.name", "service.namespace", "service.version", "service.instance.id", "deployment.environment.name",
		"deployment.environment",
		"k8s.cluster.name", "k8s.cluster.uid", "k8s.namespace.name", "k8s.node.name", "k8s.node.uid",
		"k8s.pod.name", "k8s.pod.uid", "k8s.pod.ip", "k8s.pod.start_time", "k8s.container.name", "k8s.container.restart_count",
		"k8s.replicaset.name", "k8s.replicaset.uid", "k8s.deployment.name", "k8s.deployment.uid",
		"k8s.statefulset.name", "k8s.statefulset.uid", "k8s.daemonset.name", "k8s.daemonset.uid",
		"k8s.job.name", "k8s.job.uid", "k8s.cronjob.name", "k8s.cronjob.uid",
		"container.id", "container.name", "container.image.name", "container.image.tag", "container.image.tags",
		"container.image.id", "container.image.repo_digests",
		"cloud.provider", "cloud.account.id", "cloud.region", "cloud.availability_zone", "cloud.platform", "cloud.resource_id",
		"host.id", "host.name", "host.ip", "host.arch", "host.type", "os.type",
		"telemetry.sdk.name", "telemetry.sdk.language", "telemetry.sdk.version", "telemetry.distro.name", "telemetry.distro.version",
		"log.file.name", "log.file.path", "log.file.record_number", "log.file.record_offset", "log.iostream", "log.record.uid",
		"event.name",
	)
	// Envoy's and Istio's span tags and access log labels.
	add(plain,
		"component", "node_id", "zone", "guid:x-request-id", "guid.x-request-id", "x-request-id", "x_request_id", "request_id",
		"upstream_cluster", "upstream_cluster.name", "upstream_address", "upstream_host", "upstream_local_address",
		"downstream_cluster", "downstream_remote_address", "downstream_direct_remote_address", "downstream_local_address",
		"response_flags", "response_code", "response_code_details", "connection_termination_details",
		"request_size", "response_size", "bytes_sent", "bytes_received", "duration", "start_time", "@timestamp",
		"upstream_service_time", "upstream_request_attempt_count",
		"istio.canonical_service", "istio.canonical_revision", "istio.namespace", "istio.mesh_id", "istio.cluster_id",
		"istio.authorization.dry_run.allow_policy.name", "istio.authorization.dry_run.allow_policy.result",
		"istio.authorization.dry_run.deny_policy.name", "istio.authorization.dry_run.deny_policy.result",
		"log_name", "node_name", "cluster_name", "zone_name", "method", "request_method", "protocol", "route_name",
		"grpc_status", "grpc_status_number", "stream_id", "trace_id", "span_id", "requested_server_name",
		"traceparent", "b3", "x_b3_traceid", "x_b3_spanid", "x-b3-traceid", "x-b3-spanid",
		"x-envoy-attempt-count", "x_envoy_attempt_count",
		"peer_cert_sha256", "downstream_peer_fingerprint_256", "peer_cert_serial", "downstream_peer_serial",
		"peer_cert_issuer", "downstream_peer_issuer", "peer_cert_not_after", "downstream_peer_cert_v_end",
		"tls_version", "downstream_tls_version", "tls_cipher", "downstream_tls_cipher", "upstream_tls_version", "upstream_tls_cipher",
		"downstream_peer_dns_san", "downstream_peer_subject", "upstream_peer_dns_san", "upstream_peer_subject",
		"downstream_transport_failure_reason", "upstream_transport_failure_reason",
		"rbac_shadow_result", "rbac_shadow_policy", "shadow_engine_result", "shadow_effective_policy_id",
		"istio_dry_run_allow_shadow_engine_result", "istio_dry_run_allow_shadow_effective_policy_id",
		"istio_dry_run_deny_shadow_engine_result", "istio_dry_run_deny_shadow_effective_policy_id",
		"enforced_engine_result", "enforced_effective_policy_id", "decision_id", "listener_direction", "traffic_direction",
		"access_log_type", "pod_name", "pod_namespace", "azp", "request_auth_principal",
	)
	// Ours.
	add(plain,
		semconv.AuditRecordID, semconv.AuditSchemaVersion, semconv.AuditActorID, semconv.AuditActorType,
		semconv.AuditAction, semconv.AuditOutcome, semconv.AuditTargetID, semconv.AuditTargetType,
		semconv.ActorTokenIssuer, semconv.ActorTokenAud, semconv.ActorTokenAZP, semconv.ActorTokenJKT, semconv.ActorTokenX5T, semconv.ActorTokenJTIHash,
		semconv.ActorTokenBound, semconv.ActorTokenProof,
		semconv.InitiatorID, semconv.InitiatorRoles, semconv.InitiatorDerived, semconv.InitiatorEvidence, semconv.InitiatorAmbiguous,
		semconv.ChangeGroup, semconv.ChangeResource, semconv.ChangeNamespace, semconv.ChangeName, semconv.ChangeVerb,
		semconv.IdentityNotAfter, semconv.ChangeDiffSHA256, semconv.ChangeRevision, semconv.ChangeImpersonator,
		semconv.MTLSOutcome, semconv.MTLSClientSerial, semconv.MTLSFailureReason, semconv.MTLSPeerPresented,
		semconv.MeshCluster, semconv.MeshDuration, semconv.MeshAmends,
		semconv.MeshEvidenceState, semconv.MeshEvidenceStateReason, semconv.MeshFindingKind,
		semconv.FindingID, semconv.FindingSubject, semconv.FindingSeverity, semconv.FindingCount, semconv.FindingFirst, semconv.FindingLast, semconv.FindingRecords,
		semconv.AuthzChangeRecord, semconv.AuthzChangeBy, semconv.AuthzChangeTime, semconv.AuthzChangeAmbiguous,
		semconv.AuthzEngine, semconv.AuthzDecision, semconv.AuthzEnforced, semconv.AuthzDefaultDeny, semconv.AuthzReason,
		semconv.AuthzPolicyID, semconv.AuthzPolicyNamespace, semconv.AuthzPolicyRevision, semconv.AuthzDecisionID,
		semconv.JoinMethod, semconv.JoinConfidence, semconv.JoinRequestID, semconv.JoinStreamID, semconv.JoinDecisionID,
		semconv.EvidenceID, semconv.EvidenceSource, semconv.EvidenceEvent, semconv.EvidenceRole, semconv.EvidencePosition, semconv.EvidenceFinal,
		semconv.EvidenceRedacted, semconv.EvidenceRoute, semconv.EvidenceRaw, semconv.EvidenceError, semconv.EvidenceBodySHA256,
		semconv.EvidenceReporterAuthenticated, semconv.EvidenceReporterAddress, semconv.EvidenceReporterCertSHA256,
		semconv.EvidenceReporterNode, semconv.EvidenceParentSpanID, semconv.EvidenceSpanKind, semconv.EvidenceFailed,
		semconv.EvidenceDetail, semconv.EvidenceFlags,
		semconv.GapCount, semconv.GapReason, semconv.GapSince, semconv.GapUntil,
	)
	for _, party := range [...]string{semconv.SourcePrefix, semconv.DestinationPrefix} {
		for _, suffix := range [...]string{
			semconv.SuffixIdentityProof, semconv.SuffixIdentityFrom, semconv.SuffixWorkloadName,
			semconv.SuffixWorkloadNamespace, semconv.SuffixWorkloadKind, semconv.SuffixWorkloadVersion,
			semconv.SuffixWorkloadRevision, semconv.SuffixPodName, semconv.SuffixPodUID, semconv.SuffixNode,
			semconv.SuffixImageDigest, semconv.SuffixWorkloadGiven,
		} {
			add(plain, party+suffix)
		}
	}
	return m
}()

// mapKeys are the keys of the maps in our own lists.
var mapKeys = map[string]bool{
	semconv.DelegateIssuer: true, semconv.DelegateSubject: true,
	semconv.ClaimID: true, semconv.ClaimInvalid: true, semconv.ClaimProof: true, semconv.ClaimParty: true, semconv.ClaimFrom: true,
	"digest": true, "source": true, "role": true, "time": true, "final": true, "join": true,
	"reporter.spiffe.id": true, "reporter.authenticated": true, "reporter.address": true,
	"reporter.cert.sha256": true, "reporter.node": true,
	"spiffe.id": true, "node": true, "stream_id": true,
	"field": true, "kept": true, "kept.proof": true, "other": true, "other.proof": true, "evidence.id": true,
}

// eventNames are kept: an exception, and what Envoy annotates a span with.
var eventNames = map[string]bool{
	"exception": true, "cs": true, "cr": true, "ss": true, "sr": true, "ws": true, "wr": true,
}
