# The shop's authorization policy. It judges a caller by the certificate alone
# (source.principal). What a request header says about the caller is never
# looked at.
package mesh.authz

# What the sidecar asks for.
decision := {"allowed": count(matching) > 0, "reason": reason}

# The rules come with the bundle: revision-1.json, revision-2.json.
matching contains name if {
	some name, rule in data.rules
	rule.from == caller
	rule.to == input.attributes.destination.principal
	input.attributes.request.http.method in rule.methods
	startswith(input.attributes.request.http.path, rule.path_prefix)
}

reason := concat(", ", matching) if count(matching) > 0

reason := "no rule allows this call" if count(matching) == 0

default caller := "outside" # no certificate

caller := input.attributes.source.principal if input.attributes.source.principal != ""
