package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
)

// operators are the command operators without parameters whose values are
// read, by the label that they give. Labels are those of README.md, whichever
// way they came.
var operators = map[string]struct {
	label string
	kind  kind
}{
	"PROTOCOL":                                      {"protocol", word},
	"RESPONSE_CODE":                                 {"response_code", word},
	"RESPONSE_CODE_DETAILS":                         {"response_code_details", details},
	"CONNECTION_TERMINATION_DETAILS":                {"connection_termination_details", details},
	"RESPONSE_FLAGS":                                {"response_flags", word},
	"ROUTE_NAME":                                    {"route_name", free},
	"DURATION":                                      {"duration", word},
	"UPSTREAM_HOST":                                 {"upstream_host", word},
	"UPSTREAM_REMOTE_ADDRESS":                       {"upstream_host", word},
	"UPSTREAM_CLUSTER":                              {"upstream_cluster", word},
	"UPSTREAM_CLUSTER_RAW":                          {"upstream_cluster", word},
	"UPSTREAM_LOCAL_ADDRESS":                        {"upstream_local_address", word},
	"UPSTREAM_TRANSPORT_FAILURE_REASON":             {"upstream_transport_failure_reason", free},
	"UPSTREAM_REQUEST_ATTEMPT_COUNT":                {"upstream_request_attempt_count", word},
	"UPSTREAM_PEER_URI_SAN":                         {"upstream_peer_uri_san", word},
	"UPSTREAM_LOCAL_URI_SAN":                        {"upstream_local_uri_san", word},
	"UPSTREAM_PEER_DNS_SAN":                         {"upstream_peer_dns_san", word},
	"UPSTREAM_PEER_SUBJECT":                         {"upstream_peer_subject", free},
	"UPSTREAM_TLS_VERSION":                          {"upstream_tls_version", word},
	"UPSTREAM_TLS_CIPHER":                           {"upstream_tls_cipher", word},
	"DOWNSTREAM_REMOTE_ADDRESS":                     {"downstream_remote_address", word},
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS":              {"downstream_direct_remote_address", word},
	"DOWNSTREAM_LOCAL_ADDRESS":                      {"downstream_local_address", word},
	"DOWNSTREAM_TRANSPORT_FAILURE_REASON":           {"downstream_transport_failure_reason", free},
	"DOWNSTREAM_PEER_URI_SAN":                       {"downstream_peer_uri_san", word},
	"DOWNSTREAM_LOCAL_URI_SAN":                      {"downstream_local_uri_san", word},
	"DOWNSTREAM_PEER_DNS_SAN":                       {"downstream_peer_dns_san", word},
	"DOWNSTREAM_PEER_SUBJECT":                       {"downstream_peer_subject", free},
	"DOWNSTREAM_PEER_FINGERPRINT_256":               {"downstream_peer_fingerprint_256", word},
	"DOWNSTREAM_PEER_SERIAL":                        {"downstream_peer_serial", word},
	"DOWNSTREAM_PEER_ISSUER":                        {"downstream_peer_issuer", free},
	"DOWNSTREAM_PEER_CERT":                          {"downstream_peer_cert", word},
	"DOWNSTREAM_PEER_CERT_V_END":                    {"downstream_peer_cert_v_end", word},
	"DOWNSTREAM_TLS_VERSION":                        {"downstream_tls_version", word},
	"DOWNSTREAM_TLS_CIPHER":                         {"downstream_tls_cipher", word},
	"REQUESTED_SERVER_NAME":                         {"requested_server_name", word},
	"STREAM_ID":                                     {"stream_id", word},
	"TRACE_ID":                                      {"trace_id", word},
	"SPAN_ID":                                       {"span_id", word},
	"GRPC_STATUS_NUMBER":                            {"grpc_status_number", word},
	"ACCESS_LOG_TYPE":                               {"access_log_type", word},
	"BYTES_RECEIVED":                                {"", word},
	"BYTES_SENT":                                    {"", word},
	"REQUEST_HEADERS_BYTES":                         {"", word},
	"RESPONSE_HEADERS_BYTES":                        {"", word},
	"RESPONSE_TRAILERS_BYTES":                       {"", word},
	"REQUEST_DURATION":                              {"", word},
	"REQUEST_TX_DURATION":                           {"", word},
	"RESPONSE_DURATION":                             {"", word},
	"RESPONSE_TX_DURATION":                          {"", word},
	"ROUNDTRIP_DURATION":                            {"", word},
	"DOWNSTREAM_HANDSHAKE_DURATION":                 {"", word},
	"COMMON_DURATION":                               {"", word},
	"CONNECTION_ID":                                 {"", word},
	"UPSTREAM_CONNECTION_ID":                        {"", word},
	"HOSTNAME":                                      {"", word},
	"UNIQUE_ID":                                     {"", word},
	"RESPONSE_FLAGS_LONG":                           {"", word},
	"DOWNSTREAM_PEER_FINGERPRINT_1":                 {"", word},
	"DOWNSTREAM_TLS_SESSION_ID":                     {"", word},
	"TLS_JA3_FINGERPRINT":                           {"", word},
	"TLS_JA4_FINGERPRINT":                           {"", word},
	"DOWNSTREAM_LOCAL_PORT":                         {"", word},
	"DOWNSTREAM_REMOTE_PORT":                        {"", word},
	"DOWNSTREAM_DIRECT_REMOTE_PORT":                 {"", word},
	"UPSTREAM_REMOTE_PORT":                          {"", word},
	"UPSTREAM_LOCAL_PORT":                           {"", word},
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":         {"downstream_local_address", word},
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":        {"downstream_remote_address", word},
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": {"downstream_direct_remote_address", word},
	"UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":          {"upstream_host", word},
	"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":           {"upstream_local_address", word},
}

// requestHeaders are those that %REQ(NAME)% may show: a label, or "" for one
// that Headers reads. All others are dropped.
var requestHeaders = map[string]string{
	":method": "method", ":path": "path", "x-envoy-original-path": "path", ":authority": "authority", "host": "authority",
	"x-request-id": "request_id",
	"traceparent":  "", "b3": "", "x-b3-traceid": "", "x-b3-spanid": "", HeaderSPIFFEID: "", "x-forwarded-client-cert": "",
	"x-envoy-attempt-count": "", "content-type": "",
}

// compileOperator finds what an operator's value means. One that is not known,
// as of a newer Envoy, is dropped, unless it is one letter off one that is.
func compileOperator(name, parameters string) (operator, error) {
	switch name {
	case "START_TIME":
		return startTime(parameters)
	case "START_TIME_LOCAL":
		op, err := startTime(parameters)
		if !strings.Contains(parameters, "%z") && !strings.Contains(parameters, "%s") {
			op.label = "" // of which zone it does not say
		}
		return op, err
	case "REQ", "REQUEST_HEADER":
		return requestHeader(parameters)
	case "PATH":
		return operator{label: "path"}, nil
	case "RESP", "TRAILER":
		if strings.EqualFold(parameters, "grpc-status") {
			return operator{label: "grpc_status", kind: word}, nil
		}
		return operator{}, nil
	case "GRPC_STATUS":
		return operator{label: "grpc_status", kind: word}, nil
	case "DYNAMIC_METADATA", "METADATA":
		return operator{label: metadataLabel(strings.TrimPrefix(parameters, "DYNAMIC:"))}, nil
	case "FILTER_STATE":
		switch key, _, _ := strings.Cut(parameters, ":"); key {
		case peerPrincipal:
			return operator{label: "peer_principal", kind: word}, nil
		case localPrincipal:
			return operator{label: "local_principal", kind: word}, nil
		}
		return operator{}, nil
	}
	if op, ok := operators[name]; ok {
		return operator{label: op.label, kind: op.kind}, nil
	}
	if known := misspelt(name); known != "" {
		return operator{}, fmt.Errorf("%%%s is no operator that is known: %%%s is meant?", name, known)
	}
	return operator{}, nil
}

// misspelt is the operator from which a name differs in one letter, or in two
// that changed places; "": none. A digit makes another name of it.
func misspelt(name string) (found string) {
	names := slices.AppendSeq([]string{"START_TIME", "START_TIME_LOCAL", "REQ", "REQUEST_HEADER", "PATH", "RESP", "TRAILER", "GRPC_STATUS", "DYNAMIC_METADATA", "METADATA", "FILTER_STATE"}, maps.Keys(operators))
	for _, known := range names {
		short, long := name, known
		if len(short) > len(long) {
			short, long = long, short
		}
		i := 0
		for i < len(short) && short[i] == long[i] {
			i++
		}
		j := len(long) - i // the rest of the longer name
		switch s, l := short[i:], long[i:]; {
		case len(short) == len(long) && j > 0 && s[1:] == l[1:] && !digit(s[0]) && !digit(l[0]):
		case len(short) == len(long) && j > 1 && s[0] == l[1] && s[1] == l[0] && s[2:] == l[2:]:
		case len(short)+1 == len(long) && s == l[1:] && !digit(l[0]):
		default:
			continue
		}
		if found == "" || known < found {
			found = known
		}
	}
	return found
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func requestHeader(parameters string) (operator, error) {
	main, other, alternative := strings.Cut(strings.ToLower(parameters), "?")
	if main == "" {
		return operator{}, fmt.Errorf("%%REQ names no header")
	}
	label, known := requestHeaders[main]
	if alternative {
		// Which of the two came the line does not say.
		if l, ok := requestHeaders[other]; !ok || l != label || l == "" {
			known = false
		}
	}
	switch {
	case !known:
		return operator{}, nil
	case label == "":
		return operator{header: main}, nil
	case label == "method":
		return operator{label: label, kind: word}, nil
	}
	return operator{label: label}, nil
}

// metadataLabel is the label of %DYNAMIC_METADATA(FILTER:KEY:…)%.
func metadataLabel(parameters string) string {
	filter, key, _ := strings.Cut(parameters, ":")
	switch filter {
	case filters[filterExtAuthz]:
		if key == "" {
			return "ext_authz"
		}
		if last := key[strings.LastIndexByte(key, ':')+1:]; last == "decision_id" || last == "decisionId" {
			return "decision_id"
		}
	case filters[filterRBAC], filters[filterNetRBAC]:
		if _, _, ok := rbacKey(key); ok {
			return parameters // both filters may be in one format
		}
	case filters[filterIstioAuthn]:
		switch key {
		case "request.auth.principal":
			return "request_auth_principal"
		case "request.auth.presenter":
			return "azp"
		}
	case filters[filterJWT]:
		switch _, claim, _ := strings.Cut(key, ":"); claim { // not that of an act claim
		case "sub":
			return "user"
		case "azp", "client_id":
			return "azp"
		}
	}
	return ""
}

// startTime reads the parameters of %START_TIME(FORMAT)%, a strftime format.
func startTime(format string) (operator, error) {
	op := operator{label: labelStart, kind: word}
	if format == "" {
		return op, nil // RFC 3339 in milliseconds
	}
	if strings.Contains(format, " ") {
		op.kind = free
	}
	switch format {
	case "%s", "%s.%3f", "%s.%6f", "%s.%9f":
		op.layout = layoutSeconds
		return op, nil
	case "%s%3f":
		op.layout = layoutMilliseconds
		return op, nil
	}
	var layout strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			layout.WriteByte(format[i])
			continue
		}
		found := false
		for _, c := range conversions {
			if strings.HasPrefix(format[i+1:], c.name) {
				layout.WriteString(c.layout)
				i += len(c.name)
				found = true
				break
			}
		}
		if !found {
			return op, fmt.Errorf("%%START_TIME: the time format's %q is not read; %%Y-%%m-%%dT%%H:%%M:%%S%%z and %%s.%%3f are", format[i:min(len(format), i+3)])
		}
	}
	op.layout = layout.String()
	return op, nil
}

// conversions of strftime and of Envoy's own, the longer first.
var conversions = []struct{ name, layout string }{
	{"E3S", "05.000"}, {"E6S", "05.000000"}, {"E*S", "05.999999999"}, {"E9S", "05.000000000"}, {"Ez", "Z07:00"},
	{"3f", "000"}, {"6f", "000000"}, {"9f", "000000000"}, {"f", "000000000"},
	{"Y", "2006"}, {"m", "01"}, {"d", "02"}, {"H", "15"}, {"M", "04"}, {"S", "05"}, {"y", "06"}, {"e", "_2"},
	{"b", "Jan"}, {"B", "January"}, {"a", "Mon"}, {"A", "Monday"}, {"I", "03"}, {"p", "PM"}, {"j", "002"},
	{"z", "-0700"}, {"Z", "MST"}, {"T", "15:04:05"}, {"F", "2006-01-02"}, {"D", "01/02/06"}, {"R", "15:04"}, {"%", "%"},
}

// grpcNumber reads a gRPC status by its name, in Envoy's spellings, or its
// number.
func grpcNumber(s string) string {
	if s == "" || decimal(s) != "" {
		return decimal(s)
	}
	plain := func(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "_", "")) }
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		if plain(c.String()) == plain(s) || c == codes.Canceled && plain(s) == "CANCELLED" {
			return strconv.Itoa(int(c))
		}
	}
	return ""
}
