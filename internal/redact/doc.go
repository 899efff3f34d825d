// Package redact keeps of a span or log record what an audit needs, and drops
// the rest before it is sealed: a sealed secret can't be taken back.
//
// It promises that what is left holds only attributes of an allow-list, that
// no query string, fragment or user information is left in what it knows to be a
// URL, request target or name, that nothing that looks like a credential (a JWT, an
// AWS access key, a private key, a cookie header, the value of a parameter named
// like one, such as client_secret=, or of a JSON member such as "password":, or what follows Bearer, Basic and the like) is
// left anywhere, and that a second pass changes nothing. It cannot know a secret that looks like an ordinary
// path segment or identifier.
//
// Every value that was dropped or changed is counted.
package redact
